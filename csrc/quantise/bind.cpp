#include "../bind/bind.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <vector>

#include "../bind/arrays.h"
#include "../pool.h"
#include "quantise.h"

namespace expertly {

namespace {

using Blocks = nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>;

void check(Format format, const Rows& w, const std::optional<Vector>& importance, int threads) {
    const int64_t columns = static_cast<int64_t>(w.shape(1));
    const int size = block_of(format).size;
    require(threads > 0, "quantising needs a thread");
    require(size != 256 || columns % size == 0, "columns are no whole super-blocks");
    const int64_t strange = count_not_finite(w.data(), static_cast<int64_t>(w.size()));
    if (strange) throw std::domain_error(std::to_string(strange) + " weights are not finite");
    if (!importance) return;
    require(importance->shape(0) == w.shape(1), "importance and weights differ in columns");
    const float* costs = importance->data();
    require(!count_not_finite(costs, columns) &&
                std::all_of(costs, costs + columns, [](float cost) { return cost >= 0; }),
            "importance is finite and not negative");
}

// rows split evenly, one part a thread
void quantise_parts(Format format, const float* w, int64_t rows, int64_t columns,
                    const float* importance, int threads, uint8_t* out) {
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, rows));
    Pool pool(static_cast<int>(parts));
    pool.run(parts, [&](int64_t i) {
        const int64_t first = rows * i / parts, end = rows * (i + 1) / parts;
        quantise(format, w + first * columns, end - first, columns, importance,
                 out + first * row_bytes(format, columns));
    });
}

Blocks quantise_rows(const std::string& name, const Rows& w,
                     const std::optional<Vector>& importance, int threads) {
    const Format format = format_of(name);
    check(format, w, importance, threads);
    const size_t stride = static_cast<size_t>(row_bytes(format, static_cast<int64_t>(w.shape(1))));
    auto* data = new uint8_t[w.shape(0) * stride];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    {
        const nb::gil_scoped_release release;
        quantise_parts(format, w.data(), static_cast<int64_t>(w.shape(0)),
                       static_cast<int64_t>(w.shape(1)),
                       importance ? importance->data() : nullptr, threads, data);
    }
    return Blocks(data, {w.shape(0), stride}, owner);
}

std::vector<std::string> block_formats() {
    std::vector<std::string> names;
    for (const Block& block : kBlocks) names.emplace_back(block.name);
    return names;
}

}  // namespace

void bind_quantise(nb::module_& module) {
    module.def("quantise", &quantise_rows, nb::arg("format"), nb::arg("w").noconvert(),
               nb::arg("importance").noconvert().none(), nb::arg("threads"));
    module.def("block_formats", &block_formats);
}

}  // namespace expertly
