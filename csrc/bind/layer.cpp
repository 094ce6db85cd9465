// Layers from Python: every argument is named, vectors are copied, matrices keep their buffers.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>

#include "bind.h"
#include "layer.h"

namespace expertly {

namespace {

std::vector<float> sized(const MaybeVector& vector, int64_t size) {
    require(!vector || static_cast<int64_t>(vector->size()) == size, "a vector of another size");
    return copy(vector);
}

GluRule glu_of(const std::string& act, float alpha, std::optional<float> limit, float shift) {
    const float none = std::numeric_limits<float>::infinity();
    return {act_of(act), alpha, limit.value_or(none), shift};
}

RouterRule router_rule(const std::string& kind, float norm_p, float jitter) {
    require(kind == "softmax" || kind == "sparsemixer", "no such router");
    return {kind == "softmax" ? RouterRule::softmax : RouterRule::sparsemixer, norm_p, jitter};
}

Norm make_norm(const std::string& kind, float eps, const Vector& weight, const MaybeVector& bias) {
    require(kind == "rms" || kind == "layer", "no such norm");
    const int64_t size = static_cast<int64_t>(weight.size());
    return Norm{kind == "rms", eps, copy(weight), sized(bias, size)};
}

HeldAttention make_attention(const Weights& q, const Weights& k, const Weights& v,
                             const Weights& o, int heads, int groups, int head_size, int window,
                             float eps, const MaybeVector& q_bias, const MaybeVector& k_bias,
                             const MaybeVector& v_bias, const MaybeVector& o_bias,
                             std::optional<float> clip, const MaybeVector& q_norm,
                             const MaybeVector& k_norm, bool is_head_norm,
                             const MaybeVector& sinks) {
    const int64_t width = static_cast<int64_t>(heads) * head_size;
    const int64_t kv_width = static_cast<int64_t>(groups) * head_size;
    require(q.matrix.layout.rows == width && o.matrix.layout.columns == width &&
                k.matrix.layout.rows == kv_width && v.matrix.layout.rows == kv_width,
            "heads and matrices differ in size");
    require(k.matrix.layout.columns == q.matrix.layout.columns &&
                v.matrix.layout.columns == q.matrix.layout.columns,
            "queries, keys and values are of rows of different widths");
    require(groups > 0 && heads % groups == 0 && head_size > 0 && head_size % 2 == 0,
            "heads come in equal groups and halves");
    require(window >= 0, "a window counts tokens");
    HeldAttention held;
    held.matrices = {q, k, v, o};
    AttentionWeights& a = held.attention;
    a.q = q.matrix, a.k = k.matrix, a.v = v.matrix, a.o = o.matrix;
    a.q_bias = sized(q_bias, width), a.k_bias = sized(k_bias, kv_width);
    a.v_bias = sized(v_bias, kv_width), a.o_bias = sized(o_bias, o.matrix.layout.rows);
    a.heads = HeadRule{clip.value_or(0.0f), eps, is_head_norm,
                       sized(q_norm, is_head_norm ? head_size : width),
                       sized(k_norm, is_head_norm ? head_size : kv_width)};
    a.shape = AttentionShape{heads, groups, head_size, window, sized(sinks, heads),
                             1.0f / std::sqrt(static_cast<float>(head_size))};
    return held;
}

HeldExpert make_expert(const Weights& gate, const Weights& up, const Weights& down,
                       const MaybeVector& gate_bias, const MaybeVector& up_bias,
                       const MaybeVector& down_bias) {
    const Layout &g = gate.matrix.layout, &u = up.matrix.layout, &d = down.matrix.layout;
    require(g.rows == u.rows && g.columns == u.columns && d.columns == g.rows &&
                d.rows == g.columns,
            "an expert's matrices do not fit each other");
    return HeldExpert{{gate, up, down}, sized(gate_bias, g.rows), sized(up_bias, g.rows),
                      sized(down_bias, d.rows)};
}

HeldBank make_bank(std::vector<HeldExpert> experts, const std::string& act, float alpha,
                   std::optional<float> limit, float shift) {
    require(!experts.empty(), "a bank needs an expert");
    const Layout first = experts.front().matrices[0].matrix.layout;
    for (const HeldExpert& expert : experts) {
        const Layout& layout = expert.matrices[0].matrix.layout;
        require(layout.rows == first.rows && layout.columns == first.columns,
                "experts of different shapes");
    }
    HeldBank held{std::move(experts), glu_of(act, alpha, limit, shift)};
    return held;
}

HeldRouter make_router(const Weights& weights, const MaybeVector& bias, int64_t num_chosen,
                       const std::string& kind, float norm_p, float jitter) {
    const Layout& layout = weights.matrix.layout;
    require(weights.matrix.format == Format::f32, "a router's weights are f32");
    require(0 < num_chosen && num_chosen <= layout.rows, "more experts chosen than there are");
    return HeldRouter{weights, sized(bias, layout.rows), router_rule(kind, norm_p, jitter),
                      num_chosen};
}

HeldLayer* make_layer(const Norm& attention_norm, const HeldAttention& attention,
                     const Norm& feed_forward_norm, const HeldBank& experts,
                     const std::optional<HeldRouter>& router,
                     const std::optional<HeldBank>& shared, const MaybeVector& shared_gate) {
    const int64_t columns = static_cast<int64_t>(attention_norm.weight.size());
    const auto fits = [columns](const HeldBank& bank) {
        return bank.experts.front().matrices[0].matrix.layout.columns == columns;
    };
    require(attention.attention.q.layout.columns == columns &&
                attention.attention.o.layout.rows == columns &&
                static_cast<int64_t>(feed_forward_norm.weight.size()) == columns &&
                fits(experts) && (!shared || fits(*shared)) &&
                (!router || router->weights.matrix.layout.columns == columns),
            "a layer's parts differ in width");
    // a router's experts may be there in several copies, one bank of them after the other
    const auto num_experts = static_cast<int64_t>(experts.experts.size());
    require(router ? num_experts % router->weights.matrix.layout.rows == 0 : num_experts == 1,
            "router and experts differ in number");
    return new HeldLayer(attention_norm, attention, feed_forward_norm, experts, router, shared,
                         sized(shared_gate, columns));
}

}  // namespace

Bank HeldBank::bank() const {
    Bank bank{std::vector<Expert>(experts.size()), rule, {}, {}};
    const auto at = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
    for (size_t i = 0; i < experts.size(); ++i) {
        const HeldExpert& e = experts[i];
        Expert& expert = bank.experts[i];
        expert.gate_bias = at(e.gate_bias), expert.up_bias = at(e.up_bias);
        expert.down_bias = at(e.down_bias);
        bank.put(i, e.matrices[0].matrix, e.matrices[1].matrix, e.matrices[2].matrix);
    }
    return bank;
}

HeldLayer::HeldLayer(const Norm& attention_norm, const HeldAttention& attention_held,
                     const Norm& feed_forward_norm, const HeldBank& experts_held,
                     const std::optional<HeldRouter>& router_held,
                     const std::optional<HeldBank>& shared_held, std::vector<float> shared_gate)
    : attention(attention_held), experts(experts_held), router(router_held), shared(shared_held) {
    layer.attention_norm = attention_norm;
    layer.feed_forward_norm = feed_forward_norm;
    layer.attention = attention.attention;
    layer.experts = experts.bank();
    if (shared) layer.shared = std::make_unique<Bank>(shared->bank());
    layer.shared_gate = std::move(shared_gate);
    if (router)
        layer.router = std::make_unique<RouterWeights>(RouterWeights{
            router->weights.matrix, router->bias, router->rule, router->num_chosen});
}

void HeldLayer::place(int64_t expert, const Weights& gate, const Weights& up,
                      const Weights& down) {
    require(0 <= expert && expert < static_cast<int64_t>(experts.experts.size()),
            "no such expert");
    const auto at = static_cast<size_t>(expert);
    const Weights* matrices[] = {&gate, &up, &down};
    for (size_t i = 0; i < 3; ++i) {
        const Layout &was = experts.experts[at].matrices[i].matrix.layout,
                     &now = matrices[i]->matrix.layout;
        require(was.rows == now.rows && was.columns == now.columns, "a matrix of another shape");
    }
    for (size_t i = 0; i < 3; ++i) experts.experts[at].matrices[i] = *matrices[i];
    layer.experts.put(at, gate.matrix, up.matrix, down.matrix);
}

namespace {

nb::object numbers_or_none(const std::vector<float>& values) {
    if (values.empty()) return nb::none();
    NewRows made = new_rows(1, values.size());
    std::copy(values.begin(), values.end(), made.data());
    return nb::cast(made);
}

// an expert as it lies now: gate, up, down; what is added to gate and to up, [1][size] or None
nb::tuple expert_of(const HeldLayer& held, int64_t expert) {
    require(0 <= expert && expert < static_cast<int64_t>(held.experts.experts.size()),
            "no such expert");
    const HeldExpert& found = held.experts.experts[static_cast<size_t>(expert)];
    return nb::make_tuple(found.matrices[0], found.matrices[1], found.matrices[2],
                          numbers_or_none(found.gate_bias), numbers_or_none(found.up_bias));
}

}  // namespace

void bind_layer(nb::module_& module) {
    nb::class_<Norm>(module, "Norm")
        .def(nb::new_(&make_norm), nb::arg("kind"), nb::arg("eps"), nb::arg("weight"),
             nb::arg("bias") = nb::none());
    nb::class_<HeldAttention>(module, "Attention")
        .def(nb::new_(&make_attention), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
             nb::arg("heads"), nb::arg("groups"), nb::arg("head_size"), nb::arg("window"),
             nb::arg("eps"), nb::arg("q_bias") = nb::none(), nb::arg("k_bias") = nb::none(),
             nb::arg("v_bias") = nb::none(), nb::arg("o_bias") = nb::none(),
             nb::arg("clip") = nb::none(), nb::arg("q_norm") = nb::none(),
             nb::arg("k_norm") = nb::none(), nb::arg("is_head_norm") = true,
             nb::arg("sinks") = nb::none());
    nb::class_<HeldExpert>(module, "Expert")
        .def(nb::new_(&make_expert), nb::arg("gate"), nb::arg("up"), nb::arg("down"),
             nb::arg("gate_bias") = nb::none(), nb::arg("up_bias") = nb::none(),
             nb::arg("down_bias") = nb::none());
    nb::class_<HeldBank>(module, "Bank")
        .def(nb::new_(&make_bank), nb::arg("experts"), nb::arg("act"), nb::arg("alpha"),
             nb::arg("limit").none(), nb::arg("shift"));
    nb::class_<HeldRouter>(module, "Router")
        .def(nb::new_(&make_router), nb::arg("weights"), nb::arg("bias").none(),
             nb::arg("num_chosen"), nb::arg("kind"), nb::arg("norm_p"), nb::arg("jitter"));
    nb::class_<HeldLayer>(module, "Layer")
        .def(nb::new_(&make_layer), nb::arg("attention_norm"), nb::arg("attention"), nb::arg("feed_forward_norm"),
             nb::arg("experts"), nb::arg("router").none(), nb::arg("shared").none(),
             nb::arg("shared_gate").none())
        .def("expert", &expert_of, nb::arg("expert"))
        .def("place", &HeldLayer::place, nb::arg("expert"), nb::arg("gate"), nb::arg("up"),
             nb::arg("down"));
}

}  // namespace expertly
