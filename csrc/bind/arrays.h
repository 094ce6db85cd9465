// Arrays that cross between Python and the kernels.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "../layout.h"

namespace expertly {

namespace nb = nanobind;

template <class T, class... Shape>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, Shape...>;
using Bytes = Array<const uint8_t, nb::ndim<1>>;
using Vector = Array<const float, nb::ndim<1>>;
using Rows = Array<const float, nb::ndim<2>>;
using NewRows = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

inline NewRows new_rows(size_t rows, size_t columns) {
    float* data = new float[rows * columns];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return NewRows(data, {rows, columns}, owner);
}

inline Format format_of(const std::string& name) {
    for (int i = 0; i < static_cast<int>(Format::count); ++i)
        if (name == kBlocks[i].name) return static_cast<Format>(i);
    throw std::invalid_argument("no weight format " + name);
}

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace expertly
