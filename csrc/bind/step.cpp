// A forward pass from Python: few calls, each a whole part of a layer.
#include "../ops/step.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "bind.h"
#include "layer.h"

namespace expertly {

namespace {

bool within(const std::vector<int32_t>& values, int64_t end) {
    return std::all_of(values.begin(), values.end(),
                       [end](int32_t v) { return 0 <= v && v < end; });
}

// the tokens of a sequence may be anywhere in a pass; what they see is all before them
bool are_taken(const PagePool& pool, const Tokens& tokens) {
    std::vector<int64_t> seen(tokens.pages.size() / static_cast<size_t>(tokens.pages_a_sequence));
    for (size_t t = 0; t < tokens.ids.size(); ++t) {
        int64_t& reach = seen[static_cast<size_t>(tokens.sequence[t])];
        const int32_t* pages =
            tokens.pages.data() + tokens.sequence[t] * tokens.pages_a_sequence;
        for (; reach <= tokens.position[t] / kPageSize; ++reach)
            if (!pool.is_taken(pages[reach])) return false;
    }
    return true;
}

void begin(Step& step, const PagePool& pool, const Weights& embedding, const Numbers& ids,
           const Numbers& sequence, const Numbers& position, const Numbers& angle,
           const Table& pages) {
    Tokens tokens{copy(ids), copy(sequence), copy(position), copy(angle), {}, 0};
    tokens.pages.assign(pages.data(), pages.data() + pages.size());
    tokens.pages_a_sequence = static_cast<int64_t>(pages.shape(1));
    const size_t count = tokens.ids.size();
    require(count > 0 && tokens.sequence.size() == count && tokens.position.size() == count &&
                tokens.angle.size() == count,
            "a pass needs an id, sequence, position and angle for each token");
    require(embedding.matrix.layout.columns == step.columns(), "an embedding of another width");
    require(within(tokens.ids, embedding.matrix.layout.rows), "an id beyond the vocabulary");
    require(within(tokens.angle, std::numeric_limits<int32_t>::max()), "an angle below 0");
    require(within(tokens.sequence, static_cast<int64_t>(pages.shape(0))) &&
                within(tokens.position, tokens.pages_a_sequence * kPageSize),
            "a token without a page");
    require(are_taken(pool, tokens), "a page that is not taken");
    const nb::gil_scoped_release release;
    step.begin(std::move(tokens), pool, embedding.matrix);
}

void run_attention(Step& step, const HeldLayer& held, int64_t index, PagePool& pool, const Rows& cos,
            const Rows& sin) {
    const size_t half = static_cast<size_t>(held.layer.attention.shape.head_size / 2);
    require(cos.shape(1) == half && sin.shape(1) == half && cos.shape(0) == sin.shape(0),
            "angles of another head size");
    require(step.is_of(pool) && index >= 0 && index < pool.num_layers(), "another cache");
    const CacheShape& cached = pool.shape(index);
    const AttentionShape& shape = held.layer.attention.shape;
    require(cached.groups == shape.groups && cached.head_size == shape.head_size,
            "a cache for keys of another size");
    require(held.layer.attention.q.layout.columns == step.columns(), "a layer of another width");
    require(step.last_angle() < static_cast<int64_t>(cos.shape(0)), "a token without angles");
    const nb::gil_scoped_release release;
    step.attend(held.layer, index, pool, cos.data(), sin.data());
}

void check_attended(const Step& step, const HeldLayer& held) {
    require(step.has_attended(held.layer), "another layer than the last that attended");
}

void check_mixture(const Step& step, const HeldLayer& held) {
    require(held.layer.router != nullptr, "a dense layer chooses nothing");
    check_attended(step, held);
}

void run_experts(Step& step, const HeldLayer& held) {
    check_attended(step, held);
    const nb::gil_scoped_release release;
    step.feed_forward(held.layer);
}

void begin_experts(Step& step, const HeldLayer& held) {
    check_mixture(step, held);
    const nb::gil_scoped_release release;
    step.begin_experts(held.layer);
}

void check_begun(const Step& step, const HeldLayer& held, const std::vector<int32_t>& experts) {
    require(step.has_begun(held.layer), "experts of a layer that was not begun");
    require(within(experts, static_cast<int64_t>(held.layer.experts.experts.size())),
            "no such expert");
    require(!step.has_given(experts), "an expert that was given before");
}

// the normed rows of some experts, expert after expert
NewRows rows_of(const Step& step, const HeldLayer& held, const std::vector<int32_t>& experts) {
    check_begun(step, held, experts);
    NewRows x = new_rows(static_cast<size_t>(step.num_rows(experts)),
                         static_cast<size_t>(step.columns()));
    const nb::gil_scoped_release release;
    step.rows_of(experts, x.data());
    return x;
}

void put_rows(Step& step, const HeldLayer& held, const std::vector<int32_t>& experts,
              const Rows& y) {
    check_begun(step, held, experts);
    require(static_cast<int64_t>(y.shape(0)) == step.num_rows(experts) &&
                static_cast<int64_t>(y.shape(1)) == step.columns(),
            "a result for each row of these experts");
    const nb::gil_scoped_release release;
    step.put_rows(experts, y.data());
}

void add_experts(Step& step, const HeldLayer& held, const std::vector<int32_t>& experts) {
    check_begun(step, held, experts);
    const nb::gil_scoped_release release;
    step.add_experts(held.layer, experts);
}

void end_experts(Step& step, const HeldLayer& held) {
    require(step.has_begun(held.layer), "experts of a layer that was not begun");
    require(step.has_all(), "an end before all chosen experts were given");
    const nb::gil_scoped_release release;
    step.end_experts(held.layer);
}

NewRows logits(Step& step, const Norm& norm, const Weights& head, const std::optional<Vector>& bias,
               const Numbers& rows) {
    const auto chosen = copy(rows);
    const int64_t V = head.matrix.layout.rows;
    require(within(chosen, step.count()), "a row beyond the pass");
    const auto fall = std::adjacent_find(chosen.begin(), chosen.end(), std::greater_equal<>());
    require(fall == chosen.end(), "rows of logits must rise");
    require(static_cast<int64_t>(norm.weight.size()) == step.columns(), "a norm of another width");
    require(head.matrix.layout.columns == step.columns(), "a head of another width");
    require(!bias || static_cast<int64_t>(bias->size()) == V, "a bias of another size");
    NewRows out = new_rows(chosen.size(), static_cast<size_t>(V));
    const nb::gil_scoped_release release;
    step.logits(norm, head.matrix, bias ? bias->data() : nullptr, chosen, out.data(), V);
    return out;
}

template <class T>
NewTable<T> table_of(const T* data, int64_t rows, int64_t columns, int64_t stride) {
    NewTable<T> table = new_table<T>(static_cast<size_t>(rows), static_cast<size_t>(columns));
    for (int64_t row = 0; row < rows; ++row)
        std::copy_n(data + row * stride, columns, table.data() + row * columns);
    return table;
}

// the last choice, [T][K], [T][K] and [T][experts]
nb::tuple choice(const Step& step, const HeldLayer& held) {
    check_mixture(step, held);
    const int64_t T = step.count(), K = held.layer.router->num_chosen;
    const int64_t E = held.layer.router->w.layout.rows;
    return nb::make_tuple(table_of(step.ids(), T, K, K), table_of(step.weights(), T, K, K),
                          table_of(step.router_logits(), T, E, step.router_stride()));
}

std::vector<int32_t> expected(Step& step, const HeldLayer& later) {
    require(later.layer.router != nullptr, "a dense layer chooses nothing");
    require(later.layer.router->w.layout.columns == step.columns(), "a layer of another width");
    const nb::gil_scoped_release release;
    return step.expected(later.layer);
}

bool is_choice(const int32_t* ids, int64_t count, int64_t end) {
    for (int64_t i = 0; i < count; ++i)
        if (ids[i] != kEmpty &&
            (ids[i] < 0 || ids[i] >= end || std::find(ids, ids + i, ids[i]) != ids + i))
            return false;
    return true;
}

// another choice in place of the router's, of any copy of its experts: an id of -1 leaves its slot
// out
void set_choice(Step& step, const HeldLayer& held, const Table& ids, const Rows& weights) {
    check_mixture(step, held);
    const int64_t T = step.count(), K = held.layer.router->num_chosen;
    const auto num_experts = static_cast<int64_t>(held.layer.experts.experts.size());
    const auto is_table = [=](const auto& table) {
        return static_cast<int64_t>(table.shape(0)) == T && static_cast<int64_t>(table.shape(1)) == K;
    };
    require(is_table(ids) && is_table(weights), "a choice and a weight for each slot of a token");
    for (int64_t t = 0; t < T; ++t)
        require(is_choice(ids.data() + t * K, K, num_experts),
                "a choice is of experts that there are, each once");
    require(!step.has_begun(held.layer), "a choice that is being computed");
    step.set_choice(ids.data(), weights.data());
}

}  // namespace

void bind_step(nb::module_& module) {
    nb::class_<Step>(module, "Step")
        .def(nb::init<Runtime&, int64_t>(), nb::arg("runtime"), nb::arg("columns"),
             nb::keep_alive<1, 2>())
        .def("begin", &begin, nb::arg("pool"), nb::arg("embedding"), nb::arg("ids"), nb::arg("sequence"),
             nb::arg("position"), nb::arg("angle"), nb::arg("pages"))
        .def("attend", &run_attention, nb::arg("layer"), nb::arg("index"), nb::arg("pool"),
             nb::arg("cos"), nb::arg("sin"))
        .def("feed_forward", &run_experts, nb::arg("layer"))
        .def("begin_experts", &begin_experts, nb::arg("layer"))
        .def("add_experts", &add_experts, nb::arg("layer"), nb::arg("experts"))
        .def("rows_of", &rows_of, nb::arg("layer"), nb::arg("experts"))
        .def("put_rows", &put_rows, nb::arg("layer"), nb::arg("experts"), nb::arg("y"))
        .def("end_experts", &end_experts, nb::arg("layer"))
        .def("choice", &choice, nb::arg("layer"))
        .def("expected", &expected, nb::arg("later"))
        .def("set_choice", &set_choice, nb::arg("layer"), nb::arg("ids"), nb::arg("weights"))
        .def("logits", &logits, nb::arg("norm"), nb::arg("head"), nb::arg("bias").none(),
             nb::arg("rows"));
}

}  // namespace expertly
