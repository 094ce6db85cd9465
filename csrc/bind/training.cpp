// Experts forward and backward on torch's tensors, as arrays.
#include <nanobind/stl/string.h>

#include <mutex>

#include "../machine.h"
#include "../train/choosing.h"
#include "../train/experts.h"
#include "arrays.h"
#include "bind.h"

namespace expertly {

namespace {

using Tensor = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Numbers64 = Array<const int64_t, nb::ndim<1>>;
using Weights2 = Array<const float, nb::ndim<2>>;

class Trainer {
public:
    Trainer(int threads, const std::string& kernels, uintptr_t fork)
        : team(threads, reinterpret_cast<Fork>(fork)), kernels(kernels_of(kernels)) {}

    Team team;
    const Kernels& kernels;
    Rooms rooms;
    std::mutex turn;  // one pass at a time: rooms and scratch are for one
};

Reals reals_of(const Tensor& tensor) {
    const auto type = tensor.dtype();
    const bool is_f32 = type == nb::dtype<float>();
    const bool is_bf16 = type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat) &&
                         type.bits == 16;
    require(is_f32 || is_bf16, "tensors are float32 or bfloat16");
    return {tensor.data(), is_f32 ? Real::f32 : Real::bf16};
}

Reals reals_of(const Tensor& tensor, std::initializer_list<int64_t> shape) {
    require(tensor.ndim() == shape.size(), "a tensor of another number of dimensions");
    size_t i = 0;
    for (const int64_t size : shape)
        require(static_cast<int64_t>(tensor.shape(i++)) == size, "a tensor of another size");
    return reals_of(tensor);
}

struct Stacks {
    const Tensor &gate, &up, &down;

    ExpertWeights weights(const Shape& s) const {
        return {reals_of(gate, {s.experts, s.size, s.width}),
                reals_of(up, {s.experts, s.size, s.width}),
                reals_of(down, {s.experts, s.width, s.size})};
    }
};

Shape shape_of(const Tensor& x, const Tensor& gate, const Weights2& weight, const Numbers64& order) {
    require(x.ndim() == 2 && gate.ndim() == 3, "rows and a stack of matrices");
    const auto size = [](const auto& tensor, size_t i) {
        return static_cast<int64_t>(tensor.shape(i));
    };
    return {size(x, 0), size(x, 1), size(gate, 1), size(gate, 0), size(weight, 1), size(order, 0)};
}

void require_routed(const Shape& s, const Weights2& weight, const Numbers64& counts) {
    require(static_cast<int64_t>(weight.shape(0)) == s.tokens, "a weight for each token's slots");
    require(static_cast<int64_t>(counts.shape(0)) == s.experts, "a count for each expert");
}

GluRule rule_of(const std::string& act, float alpha, float limit, float shift) {
    return {act_of(act), alpha, limit, shift};
}

void forward(Trainer& trainer, const GluRule& rule, const Tensor& x, const Tensor& gate,
             const Tensor& up, const Tensor& down, const Weights2& weight, const Numbers64& order,
             const Numbers64& counts, const Tensor& gate_up, const Tensor& y) {
    const Shape s = shape_of(x, gate, weight, order);
    require_routed(s, weight, counts);
    const Reals kept = reals_of(gate_up, {s.rows, 2 * s.size});
    const ExpertWeights weights = Stacks{gate, up, down}.weights(s);
    const Reals x_TD = reals_of(x), y_TD = reals_of(y, {s.tokens, s.width});
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> turn(trainer.turn);
    const Routed routed(s, order.data(), counts.data());
    const ExpertPass pass{routed, rule, kept.type, x_TD, weights, weight.data()};
    experts_forward(trainer.team, trainer.kernels, pass, trainer.rooms, kept, y_TD);
}

void backward(Trainer& trainer, const GluRule& rule, const Tensor& x, const Tensor& gate,
              const Tensor& up, const Tensor& down, const Weights2& weight, const Numbers64& order,
              const Numbers64& counts, const Tensor& gate_up, const Tensor& grad_y,
              const Tensor& grad_x, const Tensor& grad_gate, const Tensor& grad_up,
              const Tensor& grad_down, const Array<float, nb::ndim<2>>& grad_weight) {
    const Shape s = shape_of(x, gate, weight, order);
    require_routed(s, weight, counts);
    require(grad_weight.shape(0) == weight.shape(0) && grad_weight.shape(1) == weight.shape(1),
            "a gradient for each token's slots");
    const Reals kept = reals_of(gate_up, {s.rows, 2 * s.size});
    const ExpertWeights weights = Stacks{gate, up, down}.weights(s);
    const ExpertGradients to{reals_of(grad_x, {s.tokens, s.width}),
                             Stacks{grad_gate, grad_up, grad_down}.weights(s), grad_weight.data()};
    const Reals x_TD = reals_of(x), grad_y_TD = reals_of(grad_y, {s.tokens, s.width});
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> turn(trainer.turn);
    const Routed routed(s, order.data(), counts.data());
    const ExpertPass pass{routed, rule, kept.type, x_TD, weights, weight.data()};
    experts_backward(trainer.team, trainer.kernels, pass, trainer.rooms, kept, grad_y_TD, to);
}

void largest_of_rows(Trainer& trainer, const Weights2& scores, const Array<int64_t, nb::ndim<2>>& ids) {
    const int64_t tokens = static_cast<int64_t>(scores.shape(0));
    const int64_t count = static_cast<int64_t>(scores.shape(1));
    const int64_t most = static_cast<int64_t>(ids.shape(1));
    require(ids.shape(0) == scores.shape(0) && most <= count, "no such number of scores");
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> turn(trainer.turn);
    expertly::largest(trainer.team, scores.data(), tokens, count, most, ids.data());
}

void sorted_places(const Numbers64& ids, const Array<int64_t, nb::ndim<1>>& order,
                 const Array<int64_t, nb::ndim<1>>& counts) {
    require(order.shape(0) == ids.shape(0), "a place for each id");
    expertly::sort_places(ids.data(), static_cast<int64_t>(ids.shape(0)),
                          static_cast<int64_t>(counts.shape(0)), order.data(), counts.data());
}

}  // namespace

void bind_training(nb::module_& module) {
    nb::class_<GluRule>(module, "GluRule")
        .def(nb::new_(&rule_of), nb::arg("activation"), nb::arg("alpha"), nb::arg("limit"),
             nb::arg("shift"));
    module.def("sort_places", &sorted_places, nb::arg("ids").noconvert(),
               nb::arg("order").noconvert(), nb::arg("counts").noconvert());
    nb::class_<Trainer>(module, "Trainer")
        .def(nb::new_([](int threads, const std::string& kernels, uintptr_t fork) {
                 require(threads > 0, "a trainer needs a thread");
                 return new Trainer(threads, kernels, fork);
             }),
             nb::arg("threads"), nb::arg("kernels") = "", nb::arg("fork") = 0)
        .def_prop_ro("kernels", [](const Trainer& t) { return t.kernels.name; })
        .def("largest", &largest_of_rows, nb::arg("scores").noconvert(),
             nb::arg("ids").noconvert())
        .def("forward", &forward, nb::arg("rule"), nb::arg("x"), nb::arg("gate"), nb::arg("up"),
             nb::arg("down"), nb::arg("weight"), nb::arg("order"), nb::arg("counts"),
             nb::arg("gate_up").noconvert(), nb::arg("y").noconvert())
        .def("backward", &backward, nb::arg("rule"), nb::arg("x"), nb::arg("gate"), nb::arg("up"),
             nb::arg("down"), nb::arg("weight"), nb::arg("order"), nb::arg("counts"),
             nb::arg("gate_up"), nb::arg("grad_y"), nb::arg("grad_x").noconvert(),
             nb::arg("grad_gate").noconvert(), nb::arg("grad_up").noconvert(),
             nb::arg("grad_down").noconvert(), nb::arg("grad_weight").noconvert());
}

}  // namespace expertly
