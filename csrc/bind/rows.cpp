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
// the rows of a panel in the form that a format wants: [x], [bf16], or the records of groups and
// those of their halves, each as bytes
using Parts = std::vector<Array<uint8_t, nb::ndim<1>>>;

void require_bytes(const Parts& parts, size_t index, int64_t num_bytes) {
    require(parts[index].size() == static_cast<size_t>(num_bytes), "activations of another size");
}

void require_groups(const Parts& parts, int64_t rows, int64_t groups) {
    require(parts.size() == 2, "groups come in two parts");
    require_bytes(parts, 0, rows * groups * kRecordBytes);
    require_bytes(parts, 1, rows * groups * kHalvesBytes);
}

Panel panel_of(Format format, int64_t columns, int rows, const Parts& parts) {
    Panel x{};
    x.n = rows;
    x.row_floats = columns;
    if (wanted_by(format) == Wanted::groups) {
        require_groups(parts, rows, (columns + kGroup - 1) / kGroup);
        x.groups = parts[0].data(), x.halves = parts[1].data();
        return x;
    }
    require(parts.size() == 1, "floats come in one part");
    const bool is_bf16 = wanted_by(format) == Wanted::bf16;
    require_bytes(parts, 0, rows * (is_bf16 ? (columns + 1) / 2 * 4 : columns * 4));
    if (is_bf16) x.bf16 = reinterpret_cast<const uint16_t*>(parts[0].data());
    else x.x = reinterpret_cast<const float*>(parts[0].data());
    return x;
}

// as many tiles as y is wide, times a panel of y's number of rows; `ahead` are tiles as well
void tile(const Runtime& runtime, const std::string& name, int64_t columns, const Bytes& data,
          const Parts& parts, OutRows& y, const std::optional<Bytes>& ahead) {
    const Format format = format_of(name);
    const Layout layout = layout_of(format, kTileRows, columns);
    const int64_t count = static_cast<int64_t>(y.shape(1)) / kTileRows;
    require(count > 0 && data.size() == static_cast<size_t>(count * layout.tile_bytes),
            "bytes are no tile");
    require(!ahead || ahead->size() == data.size(), "bytes are no tile");
    const int n = static_cast<int>(y.shape(0));
    require(0 < n && n <= runtime.kernels.max_rows, "no such panel");
    require(y.shape(1) % kTileRows == 0, "a tile has 16 results a row");
    const Strip coming = ahead ? Strip{ahead->data(), count} : Strip{nullptr, 0};
    const Panel panel = panel_of(format, columns, n, parts);
    runtime.kernels.tile[static_cast<int>(format)]({data.data(), count}, layout, {&panel, 1},
                                                   coming, y.data(), count * kTileRows);
}

// into row `row` of a panel of `rows`
void quantise_row(const Runtime& runtime, const Vector& x, const Parts& parts, int64_t rows,
                  int64_t row) {
    const int64_t columns = static_cast<int64_t>(x.size());
    require_groups(parts, rows, (columns + kGroup - 1) / kGroup);
    require(0 <= row && row < rows, "no such row");
    runtime.kernels.quantise_row(x.data(), columns,
                                 places_in(parts[0].data(), parts[1].data(), rows, row));
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
             nb::arg("data"), nb::arg("parts"), nb::arg("y").noconvert(),
             nb::arg("ahead") = nb::none());
    rows.def("quantise", &quantise_row, nb::arg("runtime"), nb::arg("x"), nb::arg("parts"),
             nb::arg("rows") = 1, nb::arg("row") = 0);
    rows.def("max_rows", [](const Runtime& runtime) { return runtime.kernels.max_rows; },
             nb::arg("runtime"));
    rows.def("to_bf16", &to_bf16, nb::arg("runtime"), nb::arg("x"), nb::arg("y").noconvert());
    rows.def("dot", &dot, nb::arg("runtime"), nb::arg("a"), nb::arg("b"));
    rows.def("normalise", &normalise_row, nb::arg("runtime"), nb::arg("x"), nb::arg("weight"),
             nb::arg("bias").none(), nb::arg("is_rms"), nb::arg("eps"), nb::arg("y").noconvert());
    rows.def("glu", &glu_row, nb::arg("runtime"), nb::arg("gate"), nb::arg("up"), nb::arg("act"),
             nb::arg("alpha"), nb::arg("limit"), nb::arg("shift"), nb::arg("h").noconvert());
    rows.def("add_scaled", &add_scaled, nb::arg("runtime"), nb::arg("x"), nb::arg("by"),
             nb::arg("y").noconvert());
    rows.def("choose", &choose_row, nb::arg("logits"), nb::arg("kind"), nb::arg("norm_p"),
             nb::arg("jitter"), nb::arg("ids").noconvert(), nb::arg("weights").noconvert());
}

}  // namespace expertly
