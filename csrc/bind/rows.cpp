// Single kernels on arrays of the caller's, for tests: every array may end where memory does.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "../ops/glu.h"
#include "../ops/norm.h"
#include "../ops/router.h"
#include "../ops/runtime.h"
#include "bind.h"
#include "weights.h"

namespace expertly {

namespace {

using Out = Array<float, nb::ndim<1>>;
using OutRows = Array<float, nb::ndim<2>>;
// activations in the form that a format wants: [x], [bf16] or the six parts of groups, each of
// bytes, in the order of `Activations`
using Parts = std::vector<Array<uint8_t, nb::ndim<1>>>;

void require_bytes(const Parts& parts, size_t index, int64_t num_bytes) {
    require(parts[index].size() == static_cast<size_t>(num_bytes), "activations of another size");
}

template <class T>
T* part(const Parts& parts, size_t index) {
    return reinterpret_cast<T*>(parts[index].data());
}

GroupPlaces places_of(const Parts& parts, int64_t rows, int64_t groups) {
    require(parts.size() == 6, "groups come in six parts");
    const int64_t n = rows * groups;
    require_bytes(parts, 0, n * kGroup);
    for (size_t i = 1; i < 6; ++i) require_bytes(parts, i, n * (i < 4 ? 4 : 8));
    return {part<int8_t>(parts, 0), part<float>(parts, 1),   part<int32_t>(parts, 2),
            part<float>(parts, 3),  part<int32_t>(parts, 4), part<float>(parts, 5)};
}

Activations activations_of(Format format, int64_t columns, int64_t rows, const Parts& parts) {
    Activations x{};
    x.columns = x.x_stride = columns;
    x.groups = (columns + kGroup - 1) / kGroup;
    if (wanted_by(format) == Wanted::groups) {
        const GroupPlaces to = places_of(parts, rows, x.groups);
        x.q = to.q, x.scale = to.scale, x.minus = to.minus, x.sum = to.sum;
        x.minus_half = to.minus_half, x.sum_half = to.sum_half;
        return x;
    }
    require(parts.size() == 1, "floats come in one part");
    const bool is_bf16 = wanted_by(format) == Wanted::bf16;
    require_bytes(parts, 0, rows * (is_bf16 ? (columns + 1) / 2 * 4 : columns * 4));
    if (is_bf16) x.bf16 = part<uint16_t>(parts, 0);
    else x.x = part<float>(parts, 0);
    return x;
}

// one tile times rows of `tokens`, or of y's number of rows
void tile(const Runtime& runtime, const std::string& name, int64_t columns, const Bytes& data,
          int64_t rows, const Parts& parts, const std::optional<Numbers>& tokens, OutRows& y) {
    const Format format = format_of(name);
    const Layout layout = layout_of(format, kTileRows, columns);
    require(data.size() == static_cast<size_t>(layout.tile_bytes), "bytes are no tile");
    const int n = static_cast<int>(y.shape(0));
    require(tokens ? tokens->shape(0) == y.shape(0) : n <= rows, "rows of y and of x differ");
    require(y.shape(1) == kTileRows, "a tile has 16 results a row");
    if (tokens)
        for (size_t i = 0; i < tokens->size(); ++i)
            require(tokens->data()[i] >= 0 && tokens->data()[i] < rows, "no such row");
    runtime.kernels.tile[static_cast<int>(format)](
        data.data(), layout, activations_of(format, columns, rows, parts),
        tokens ? tokens->data() : nullptr, n, y.data(), kTileRows);
}

void quantise_row(const Runtime& runtime, const Vector& x, const Parts& parts) {
    const int64_t columns = static_cast<int64_t>(x.size());
    runtime.kernels.quantise_row(x.data(), columns,
                                 places_of(parts, 1, (columns + kGroup - 1) / kGroup));
}

void to_bf16(const Runtime& runtime, const Vector& x, const Array<uint16_t, nb::ndim<1>>& y) {
    require(y.size() == (x.size() + 1) / 2 * 2, "an odd row is padded");
    runtime.kernels.to_bf16(x.data(), static_cast<int64_t>(x.size()), y.data());
}

float dot(const Runtime& runtime, const Vector& a, const Vector& b) {
    require(a.size() == b.size(), "vectors of two sizes");
    return runtime.kernels.dot(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

void normalise_row(const Runtime& runtime, const Vector& x, const Vector& weight,
                   const MaybeVector& bias, bool is_rms, float eps, const Out& y) {
    require(x.size() == weight.size() && x.size() == y.size(), "vectors of two sizes");
    require(!bias || bias->size() == x.size(), "vectors of two sizes");
    Norm norm{is_rms, eps, {weight.data(), weight.data() + weight.size()}, {}};
    if (bias) norm.bias.assign(bias->data(), bias->data() + bias->size());
    normalise(runtime.kernels, norm, x.data(), y.data());
}

void glu_row(const Runtime& runtime, const Vector& gate, const Vector& up, const std::string& act,
             float alpha, float limit, float shift, const Out& h) {
    require(gate.size() == up.size() && gate.size() == h.size(), "vectors of two sizes");
    glu(runtime.kernels, gate.data(), up.data(), GluRule{act_of(act), alpha, limit, shift},
        static_cast<int64_t>(gate.size()), h.data());
}

void add_scaled(const Runtime& runtime, const Vector& x, float by, const Out& y) {
    require(x.size() == y.size(), "vectors of two sizes");
    runtime.kernels.add_scaled(x.data(), by, static_cast<int64_t>(x.size()), y.data());
}

void choose_row(const Vector& logits, const std::string& kind, float norm_p, float jitter,
                const Array<int32_t, nb::ndim<1>>& ids, const Out& weights) {
    require(ids.size() == weights.size() && ids.size() <= logits.size(), "more than there are");
    require(kind == "softmax" || kind == "sparsemixer", "no such rule");
    std::vector<float> probs(logits.size());
    const auto rule = kind == "softmax" ? RouterRule::softmax : RouterRule::sparsemixer;
    choose(logits.data(), static_cast<int64_t>(logits.size()), static_cast<int64_t>(ids.size()),
           RouterRule{rule, norm_p, jitter}, probs.data(), ids.data(), weights.data());
}

}  // namespace

void bind_rows(nb::module_& module) {
    nb::module_ rows = module.def_submodule("rows", "single kernels, for tests");
    rows.def("tile", &tile, nb::arg("runtime"), nb::arg("format"), nb::arg("columns"),
             nb::arg("data"), nb::arg("rows"), nb::arg("parts"), nb::arg("tokens").none(),
             nb::arg("y"));
    rows.def("quantise", &quantise_row, nb::arg("runtime"), nb::arg("x"), nb::arg("parts"));
    rows.def("to_bf16", &to_bf16, nb::arg("runtime"), nb::arg("x"), nb::arg("y"));
    rows.def("dot", &dot, nb::arg("runtime"), nb::arg("a"), nb::arg("b"));
    rows.def("normalise", &normalise_row, nb::arg("runtime"), nb::arg("x"), nb::arg("weight"),
             nb::arg("bias").none(), nb::arg("is_rms"), nb::arg("eps"), nb::arg("y"));
    rows.def("glu", &glu_row, nb::arg("runtime"), nb::arg("gate"), nb::arg("up"), nb::arg("act"),
             nb::arg("alpha"), nb::arg("limit"), nb::arg("shift"), nb::arg("h"));
    rows.def("add_scaled", &add_scaled, nb::arg("runtime"), nb::arg("x"), nb::arg("by"),
             nb::arg("y"));
    rows.def("choose", &choose_row, nb::arg("logits"), nb::arg("kind"), nb::arg("norm_p"),
             nb::arg("jitter"), nb::arg("ids"), nb::arg("weights"));
}

}  // namespace expertly
