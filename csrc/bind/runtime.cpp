#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "../machine.h"
#include "../ops/activation_buffer.h"
#include "../ops/product.h"
#include "bind.h"
#include "weights.h"

namespace expertly {

namespace {

std::vector<std::string> kernel_sets() {
    std::vector<std::string> names;
    for (const Kernels* kernels : offered_kernels()) names.push_back(kernels->name);
    return names;
}

NewRows linear(Runtime& runtime, const Rows& x, const Weights& weights) {
    const Layout& layout = weights.matrix.layout;
    require(static_cast<int64_t>(x.shape(1)) == layout.columns, "x and weights differ in columns");
    const int64_t rows = static_cast<int64_t>(x.shape(0)), stride = layout.tiles * kTileRows;
    NewRows y = new_rows(x.shape(0), static_cast<size_t>(layout.rows));
    const nb::gil_scoped_release release;
    Forms forms;
    forms.add(weights.matrix.format);
    ActivationBuffer activations;
    const Span span(0, rows, runtime.kernels.max_rows);
    activations.resize(rows, layout.columns, forms);
    runtime.pool.run(rows, [&](int64_t t) {
        activations.fill(runtime.kernels, span, t, x.data() + t * layout.columns);
    });
    Scratch scratch;
    float* padded = scratch.get<float>(rows * stride);
    const Product product{&weights.matrix, padded, stride};
    multiply(runtime, &product, 1, activations, span);
    for (int64_t t = 0; t < rows; ++t)
        std::memcpy(y.data() + t * layout.rows, padded + t * stride,
                    static_cast<size_t>(layout.rows) * sizeof(float));
    return y;
}

}  // namespace

void bind_runtime(nb::module_& module) {
    module.def("kernel_sets", &kernel_sets);
    nb::class_<Runtime>(module, "Runtime")
        .def(nb::new_([](int threads, const std::string& kernels) {
                 require(threads > 0, "a runtime needs a thread");
                 return new Runtime(threads, kernels_of(kernels));
             }),
             nb::arg("threads"), nb::arg("kernels") = "")
        .def_prop_ro("threads", [](const Runtime& r) { return r.pool.threads(); })
        .def_prop_ro("kernels", [](const Runtime& r) { return r.kernels.name; })
        .def("linear", &linear, nb::arg("x"), nb::arg("weights"));
}

}  // namespace expertly
