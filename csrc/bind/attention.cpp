// The paged cache from Python, and attention over it piece by piece (a whole pass is a Step).
#include "../ops/attention.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>

#include "../ops/heads.h"
#include "arrays.h"
#include "bind.h"

namespace expertly {

namespace {

using Writable = Array<float, nb::ndim<1>>;
using WritableRows = Array<float, nb::ndim<2>>;

PagePool* make_pool(const std::vector<int>& groups, const std::vector<int>& head_sizes) {
    require(!groups.empty() && groups.size() == head_sizes.size(),
            "a cache needs groups and a head size for each layer");
    std::vector<CacheShape> layers;
    for (size_t i = 0; i < groups.size(); ++i) {
        require(groups[i] > 0 && head_sizes[i] > 0 && head_sizes[i] % 2 == 0,
                "a layer's cache needs groups and an even head size");
        layers.push_back({groups[i], head_sizes[i]});
    }
    return new PagePool(std::move(layers));
}

// a view of a page's float16 as their bits
nb::ndarray<nb::numpy, uint16_t, nb::ndim<1>> page_array(nb::handle self, int64_t page) {
    const auto& pool = nb::cast<const PagePool&>(self);
    require(pool.is_taken(page), "a page that is not taken");
    const size_t size = static_cast<size_t>(pool.page_bytes() / 2);
    return {reinterpret_cast<uint16_t*>(pool.page(page)), {size}, self};
}

void check_layer(const PagePool& pool, int64_t layer) {
    require(layer >= 0 && layer < pool.num_layers(), "a layer that the cache does not have");
}

void append_token(Runtime& runtime, PagePool& pool, int64_t layer, int64_t page, int64_t slot,
                  const Vector& k, const Vector& v) {
    check_layer(pool, layer);
    require(pool.is_taken(page) && slot >= 0 && slot < kPageSize, "no such place in the cache");
    const CacheShape& shape = pool.shape(layer);
    const size_t width = static_cast<size_t>(shape.groups) * static_cast<size_t>(shape.head_size);
    require(k.size() == width && v.size() == width, "keys or values of another size");
    append(runtime.kernels, pool, layer, page, slot, k.data(), v.data());
}

// each row has its sequence, and pages that reach to its position
void check_places(const PagePool& pool, const Numbers& sequence, const Numbers& position,
                  const Table& pages, size_t count) {
    require(sequence.size() == count && position.size() == count,
            "a row needs a sequence and a position");
    const int64_t sequences = static_cast<int64_t>(pages.shape(0));
    const int64_t length = static_cast<int64_t>(pages.shape(1)) * kPageSize;
    for (size_t t = 0; t < count; ++t)
        require(sequence.data()[t] >= 0 && sequence.data()[t] < sequences &&
                    position.data()[t] >= 0 && position.data()[t] < length,
                "a position that has no page");
    for (size_t t = 0; t < count; ++t)
        for (int64_t i = 0; i <= position.data()[t] / kPageSize; ++i)
            require(pool.is_taken(pages(sequence.data()[t], i)), "a page that is not taken");
}

AttentionShape shape_of(const CacheShape& cache, const Rows& q, int window,
                        const MaybeVector& sinks, std::optional<float> scale) {
    const int C = cache.head_size, heads = static_cast<int>(q.shape(1)) / C;
    require(heads > 0 && heads % cache.groups == 0 &&
                static_cast<size_t>(heads) * static_cast<size_t>(C) == q.shape(1),
            "queries of another size");
    require(window >= 0, "a window counts tokens");
    require(!sinks || static_cast<int>(sinks->size()) == heads, "a sink for each head");
    AttentionShape shape{heads, cache.groups, C, window, {}, 0.0f};
    if (sinks) shape.sinks.assign(sinks->data(), sinks->data() + sinks->size());
    shape.scale = scale.value_or(1.0f / std::sqrt(static_cast<float>(C)));
    return shape;
}

void attend_rows(Runtime& runtime, const PagePool& pool, int64_t layer, const Rows& q,
                 const Numbers& sequence, const Numbers& position, const Table& pages,
                 const WritableRows& y, int window, const MaybeVector& sinks,
                 std::optional<float> scale) {
    check_layer(pool, layer);
    const AttentionShape shape = shape_of(pool.shape(layer), q, window, sinks, scale);
    require(y.shape(0) == q.shape(0) && y.shape(1) == q.shape(1), "y is not as q");
    check_places(pool, sequence, position, pages, q.shape(0));
    const int64_t width = static_cast<int64_t>(q.shape(1));
    const nb::gil_scoped_release release;
    attend(runtime, shape, q.data(), width, sequence.data(), position.data(),
           static_cast<int64_t>(q.shape(0)), pages.data(), static_cast<int64_t>(pages.shape(1)),
           pool, layer, y.data(), width);
}

void turn_cached_keys(PagePool& pool, int64_t layer, const Numbers& pages, const Rows& cos,
                      const Rows& sin) {
    check_layer(pool, layer);
    const size_t half = static_cast<size_t>(pool.shape(layer).head_size / 2), count = cos.shape(0);
    require(cos.shape(1) == half && sin.shape(1) == half && sin.shape(0) == count,
            "angles of another size");
    require(pages.size() * kPageSize >= count, "more angles than cached positions");
    for (size_t i = 0; i < pages.size(); ++i)
        require(pool.is_taken(pages.data()[i]), "a page that is not taken");
    const nb::gil_scoped_release release;
    turn_keys(pool, layer, pages.data(), static_cast<int64_t>(count), cos.data(), sin.data());
}

void turn_token(Runtime& runtime, const Writable& q, const Writable& k, const Writable& v,
                const Vector& cos, const Vector& sin, float clip, float eps, bool is_head_norm,
                const MaybeVector& q_norm, const MaybeVector& k_norm) {
    const size_t C = 2 * cos.size();
    require(C > 0 && sin.size() == cos.size() && q.size() % C == 0 && k.size() % C == 0 &&
                v.size() == k.size(),
            "heads and angles differ in size");
    require(!q_norm || q_norm->size() == (is_head_norm ? C : q.size()), "a norm of another size");
    require(!k_norm || k_norm->size() == (is_head_norm ? C : k.size()), "a norm of another size");
    const HeadRule rule{clip, eps, is_head_norm, copy(q_norm), copy(k_norm)};
    const AttentionShape shape{static_cast<int>(q.size() / C), static_cast<int>(k.size() / C),
                               static_cast<int>(C), 0, {}, 1.0f};
    turn_heads(runtime.kernels, rule, shape, q.data(), k.data(), v.data(), cos.data(), sin.data());
}

}  // namespace

void bind_attention(nb::module_& module) {
    nb::class_<PagePool>(module, "PagePool")
        .def(nb::new_(&make_pool), nb::arg("groups"), nb::arg("head_sizes"))
        .def_prop_ro("page_bytes", &PagePool::page_bytes)
        .def_prop_ro("pages_in_use", &PagePool::pages_in_use)
        .def("take", &PagePool::take)
        .def("release", &PagePool::release, nb::arg("page"))
        .def("array", [](nb::handle self, int64_t page) { return page_array(self, page); },
             nb::arg("page"));
    module.def("append", &append_token, nb::arg("runtime"), nb::arg("pool"), nb::arg("layer"),
               nb::arg("page"), nb::arg("slot"), nb::arg("k"), nb::arg("v"));
    module.def("attend", &attend_rows, nb::arg("runtime"), nb::arg("pool"), nb::arg("layer"),
               nb::arg("q"), nb::arg("sequence"), nb::arg("position"), nb::arg("pages"),
               nb::arg("y").noconvert(), nb::arg("window") = 0, nb::arg("sinks") = nb::none(),
               nb::arg("scale") = nb::none());
    module.def("turn_keys", &turn_cached_keys, nb::arg("pool"), nb::arg("layer"), nb::arg("pages"),
               nb::arg("cos"), nb::arg("sin"));
    module.def("turn_heads", &turn_token, nb::arg("runtime"), nb::arg("q").noconvert(),
               nb::arg("k").noconvert(), nb::arg("v").noconvert(), nb::arg("cos"),
               nb::arg("sin"), nb::arg("clip") = 0.0f, nb::arg("eps") = 1e-6f,
               nb::arg("is_head_norm") = true, nb::arg("q_norm") = nb::none(),
               nb::arg("k_norm") = nb::none());
}

}  // namespace expertly
