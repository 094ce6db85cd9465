"""Experts as one native operation: its answer and gradients are the definition's, for every
instruction set, whatever the rows; and it lives with torch's other parts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expertly import _native, kernels
from expertly.config import Glu
from expertly.kernels import native, reference

# largest error allowed, as a share of the largest value that is right
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.5e-2}
TYPES = [torch.float32, torch.bfloat16]
each_type = pytest.mark.parametrize("dtype", TYPES, ids=["float32", "bfloat16"])
each_set = pytest.mark.parametrize("kernel_set", _native.kernel_sets())

# tokens, width, expert size, experts, chosen
SHAPES = {
    "one_token": (1, 16, 8, 4, 2),
    "odd_widths": (37, 17, 23, 5, 2),
    "narrow": (9, 1, 1, 3, 1),
    "many_experts": (60, 32, 24, 40, 3),
    "one_expert": (130, 24, 40, 1, 1),
    "wide": (40, 200, 72, 3, 2),
    "many_rows": (700, 33, 20, 2, 2),
}


class Case:
    """Operands of a shape, rows as a router would sort them; `kept` says which slots are rows."""

    def __init__(self, shape, dtype, *, seed=0, kept=None, ids_TK=None) -> None:
        tokens, width, size, experts, chosen = shape
        g = torch.Generator().manual_seed(seed)
        x_TD = torch.randn(tokens, width, generator=g)
        w_gate, w_up = (torch.randn(experts, size, width, generator=g) for _ in range(2))
        w_down = torch.randn(experts, width, size, generator=g)
        scaled = (x_TD, w_gate * width**-0.5, w_up * width**-0.5, w_down * size**-0.5)
        self.weight_TK = torch.rand(tokens, chosen, generator=g)
        self.parts = tuple(part.to(dtype) for part in scaled)
        self.grad_TD = torch.randn(tokens, width, generator=g).to(dtype)
        if ids_TK is None:
            ids_TK = torch.rand(tokens, experts, generator=g).argsort(-1)[:, :chosen]
        expert_X = ids_TK.flatten()
        place_R = torch.arange(len(expert_X)) if kept is None else kept.flatten().nonzero()[:, 0]
        expert_R = expert_X[place_R]
        self.order_R = place_R[expert_R.argsort(stable=True)]
        self.counts_E = torch.bincount(expert_R, minlength=experts)

    def run(self, function, glu=Glu(), dtype=None) -> tuple[Tensor, ...]:  # noqa: B008
        """The answer, and the gradients of x, the stacks and the weights."""
        parts = [part.to(dtype or part.dtype) for part in (*self.parts,)]
        weight = self.weight_TK.to(dtype or torch.float32)
        leaves = [part.clone().requires_grad_() for part in (*parts, weight)]
        y_TD = function(*leaves, self.order_R, self.counts_E, glu)
        return (y_TD.detach(), *torch.autograd.grad(y_TD, leaves, self.grad_TD.to(y_TD.dtype)))


def error(ours: Tensor, exact: Tensor) -> float:
    if not exact.numel():
        return 0.0
    return ((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=0.1)).item()


def hold(case: Case, dtype: torch.dtype, glu=Glu(), function=kernels.expert_rows) -> None:  # noqa: B008
    exact = case.run(reference.expert_rows, glu, torch.float64)
    for ours, theirs in zip(case.run(function, glu), exact, strict=True):
        assert ours.shape == theirs.shape and ours.isfinite().all()
        assert error(ours, theirs) <= TOLERANCE[dtype]


@each_type
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_the_definitions(shape, dtype) -> None:
    hold(Case(shape, dtype), dtype)


@each_set
@each_type
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_instruction_set_computes_them(shape, dtype, kernel_set, monkeypatch) -> None:
    trainer = _native.Trainer(2, kernel_set)
    monkeypatch.setattr(native, "_trainer", lambda threads: trainer)
    hold(Case(shape, dtype), dtype)


@pytest.mark.parametrize(
    "glu",
    [
        Glu(activation="gelu"),
        Glu(activation="gelu_tanh"),
        Glu(activation="relu"),
        Glu(alpha=1.702, limit=0.7, up_shift=1.0),
        Glu(activation="gelu", limit=0.5),
    ],
    ids=lambda glu: f"{glu.activation}-{glu.limit}",
)
def test_every_activation_has_its_gradient(glu) -> None:
    hold(Case(SHAPES["odd_widths"], torch.float32), torch.float32, glu)


@each_type
def test_slots_that_are_no_rows_add_nothing_and_get_no_gradient(dtype) -> None:
    kept = torch.rand(60, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    case = Case(SHAPES["many_experts"], dtype, kept=kept)
    hold(case, dtype)
    grad_weight_TK = case.run(kernels.expert_rows)[5]
    assert (grad_weight_TK[~kept] == 0).all() and (grad_weight_TK[kept] != 0).any()


@each_type
def test_experts_without_rows_get_zeros_for_a_gradient(dtype) -> None:
    ids_TK = torch.full((30, 1), 2)
    case = Case((30, 16, 8, 4, 1), dtype, ids_TK=ids_TK)
    hold(case, dtype)
    for grad in case.run(kernels.expert_rows)[2:5]:
        assert (grad[[0, 1, 3]] == 0).all() and (grad[2] != 0).any()


def test_no_tokens_and_no_rows_are_fine() -> None:
    hold(Case((0, 16, 8, 4, 2), torch.float32), torch.float32)
    none = torch.zeros(5, 2, dtype=torch.bool)
    case = Case((5, 16, 8, 4, 2), torch.float32, kept=none)
    y_TD, *grads = case.run(kernels.expert_rows)
    assert (y_TD == 0).all() and all((grad == 0).all() for grad in grads)


@each_type
def test_a_tokens_answer_depends_on_that_token_alone(dtype) -> None:
    case = Case(SHAPES["many_rows"], dtype)
    alone = Case(SHAPES["many_rows"], dtype)
    chosen = torch.tensor([5])
    slots = torch.isin(case.order_R // 2, chosen)
    expert_R = torch.arange(2).repeat_interleave(case.counts_E)[slots]
    alone.order_R = case.order_R[slots] - 2 * 5
    alone.counts_E = torch.bincount(expert_R, minlength=2)
    alone.parts = (case.parts[0][chosen], *case.parts[1:])
    alone.weight_TK, alone.grad_TD = case.weight_TK[chosen], case.grad_TD[chosen]
    many, one = case.run(kernels.expert_rows), alone.run(kernels.expert_rows)
    for together, apart in zip((many[0], many[1]), (one[0], one[1]), strict=True):
        assert torch.equal(together[chosen], apart)


@each_type
def test_threads_and_whose_they_are_change_no_bit(dtype, monkeypatch) -> None:
    case = Case(SHAPES["many_experts"], dtype)
    fork = native._fork_address()
    found = []
    for trainer in (_native.Trainer(1), _native.Trainer(3), _native.Trainer(2, fork=fork)):
        monkeypatch.setattr(native, "_trainer", lambda threads, made=trainer: made)
        found.append(case.run(kernels.expert_rows))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_weights_may_be_wider_than_what_is_multiplied() -> None:
    case = Case(SHAPES["odd_widths"], torch.float32)
    x_TD = case.parts[0].bfloat16()
    narrow = [part.bfloat16() for part in case.parts]
    rest = (case.weight_TK, case.order_R, case.counts_E, Glu())
    wide_TD = kernels.expert_rows(x_TD, *case.parts[1:], *rest)
    assert wide_TD.dtype == torch.bfloat16
    assert torch.equal(wide_TD, kernels.expert_rows(x_TD, *narrow[1:], *rest))


def test_under_autocast_products_are_of_its_type_and_gradients_of_the_weights() -> None:
    case = Case(SHAPES["odd_widths"], torch.float32)
    leaves = [part.clone().requires_grad_() for part in case.parts]
    rest = (case.weight_TK, case.order_R, case.counts_E, Glu())
    with torch.autocast("cpu", torch.bfloat16):
        y_TD = kernels.expert_rows(*leaves, *rest)
    expected_TD = kernels.expert_rows(leaves[0].bfloat16(), *leaves[1:], *rest)
    assert torch.equal(y_TD, expected_TD)
    grads = torch.autograd.grad(y_TD, leaves, case.grad_TD.bfloat16())
    assert [grad.dtype for grad in grads] == [torch.float32] * 4


def test_only_gate_and_up_of_the_rows_are_kept_for_the_backward_pass() -> None:
    case = Case(SHAPES["many_experts"], torch.float32)
    leaves = [part.clone().requires_grad_() for part in (*case.parts, case.weight_TK)]
    rows = (case.order_R, case.counts_E)
    known = {part.untyped_storage().data_ptr() for part in (*leaves, *rows)}
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kernels.expert_rows(*leaves, *rows, Glu())
    assert [tuple(part.shape) for part in kept] == [(180, 48)]


@pytest.mark.filterwarnings("ignore")
def test_it_is_compiled_into_one_graph() -> None:
    case = Case(SHAPES["odd_widths"], torch.float32)

    def layer(*parts: Tensor) -> Tensor:
        return kernels.expert_rows(*parts, case.order_R, case.counts_E, Glu()) * 2

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    parts = (*case.parts, case.weight_TK)
    assert torch.equal(compiled(*parts), layer(*parts))


def test_the_operations_keep_torchs_rules_for_operations() -> None:
    case = Case(SHAPES["odd_widths"], torch.float32)
    parts = [part.clone().requires_grad_() for part in (*case.parts, case.weight_TK)]
    rule = ("silu", 1.0, float("inf"), 0.0)
    torch.library.opcheck(native._forward, (*parts, case.order_R, case.counts_E, *rule))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"counts_E": c.counts_E + 1}, "counts are not of these rows"),
        (lambda c: {"order_R": c.order_R + 10_000}, "a row is of no token"),
        (lambda c: {"counts_E": c.counts_E[:-1]}, "a count for each expert"),
        (lambda c: {"weight_TK": c.weight_TK[:-1]}, "a weight for each token"),
        (lambda c: {"parts": (*c.parts[:3], c.parts[3][:, :-1])}, "another size"),
    ],
    ids=["counts", "order", "experts", "weights", "widths"],
)
def test_what_does_not_fit_together_is_refused_and_not_read(change, message) -> None:
    case = Case(SHAPES["odd_widths"], torch.float32)
    vars(case).update(change(case))
    with pytest.raises(ValueError, match=message):
        case.run(kernels.expert_rows)


def test_types_and_places_that_it_does_not_know_are_left_to_others() -> None:
    case = Case(SHAPES["odd_widths"], torch.float32)
    assert kernels.is_native(*case.parts)
    assert not kernels.is_native(case.parts[0].double(), *case.parts[1:])
    assert not kernels.is_native(case.parts[0].to("meta"), *case.parts[1:])


def test_glu_names_are_the_kernels() -> None:
    for activation in ("silu", "gelu", "gelu_tanh", "relu"):
        rule = replace(Glu(), activation=activation)
        _native.GluRule(rule.activation, rule.alpha, 1.0, rule.up_shift)
    with pytest.raises(ValueError, match="no activation tanh"):
        _native.GluRule("tanh", 1.0, 1.0, 0.0)
