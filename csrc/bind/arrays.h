// Arrays that cross between Python and the kernels.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <nanobind/stl/optional.h>

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels.h"

namespace expertly {

namespace nb = nanobind;

template <class T, class... Shape>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, Shape...>;
using Bytes = Array<const uint8_t, nb::ndim<1>>;
using Vector = Array<const float, nb::ndim<1>>;
using MaybeVector = std::optional<Vector>;
using Rows = Array<const float, nb::ndim<2>>;
using Numbers = Array<const int32_t, nb::ndim<1>>;
using Table = Array<const int32_t, nb::ndim<2>>;
template <class T>
using NewTable = nb::ndarray<nb::numpy, T, nb::ndim<2>>;
using NewRows = NewTable<float>;

template <class T>
NewTable<T> new_table(size_t rows, size_t columns) {
    T* data = new T[rows * columns];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return NewTable<T>(data, {rows, columns}, owner);
}

inline NewRows new_rows(size_t rows, size_t columns) { return new_table<float>(rows, columns); }

inline Format format_of(const std::string& name) {
    for (int i = 0; i < static_cast<int>(Format::count); ++i)
        if (name == kBlocks[i].name) return static_cast<Format>(i);
    throw std::invalid_argument("no weight format " + name);
}

inline GluRule::Act act_of(const std::string& name) {
    const char* const names[] = {"silu", "gelu", "gelu_tanh", "relu"};
    for (int i = 0; i < 4; ++i)
        if (name == names[i]) return static_cast<GluRule::Act>(i);
    throw std::invalid_argument("no activation " + name);
}

template <class T>
std::vector<T> copy(const Array<const T, nb::ndim<1>>& values) {
    return {values.data(), values.data() + values.size()};
}

inline std::vector<float> copy(const MaybeVector& vector) {
    return vector ? copy(*vector) : std::vector<float>();
}

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace expertly
