"""Experts by grouped products, which is what a GPU computes: made to run on a processor here, they
are the definition in values and gradients, and compile in one piece."""

import pytest
import torch
import torch.nn.functional as F
from test_expert_rows import SHAPES, Case, hold
from torch._subclasses.fake_tensor import FakeTensorMode

from expertly import kernels
from expertly.config import Glu
from expertly.kernels import grouped, reference

TYPES = [torch.float32, torch.bfloat16]
each_type = pytest.mark.parametrize("dtype", TYPES, ids=["float32", "bfloat16"])
# widths that torch's product takes in both types, beside those that it does not
ALIGNED = {"aligned": (50, 16, 24, 5, 2), "aligned_wide": (33, 64, 40, 3, 3)}


def taken_by_torch(monkeypatch) -> list[int]:
    """Grows with each grouped product that torch computes."""
    taken: list[int] = []
    real = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda *a, **k: taken.append(1) or real(*a, **k))
    return taken


@each_type
@pytest.mark.parametrize("shape", [*SHAPES.values(), *ALIGNED.values()], ids=[*SHAPES, *ALIGNED])
def test_grouped_experts_are_the_definitions_in_values_and_gradients(shape, dtype) -> None:
    hold(Case(shape, dtype), dtype, function=grouped.expert_rows)


@each_type
@pytest.mark.parametrize("shape", ALIGNED.values(), ids=ALIGNED)
def test_three_products_of_torch_compute_aligned_experts(shape, dtype, monkeypatch) -> None:
    taken = taken_by_torch(monkeypatch)
    hold(Case(shape, dtype), dtype, function=grouped.expert_rows)
    assert len(taken) == 3


@each_type
def test_grouped_experts_without_rows_get_zeros_for_a_gradient(dtype) -> None:
    case = Case((30, 16, 8, 4, 1), dtype, ids_TK=torch.full((30, 1), 2))
    hold(case, dtype, function=grouped.expert_rows)
    for grad in case.run(grouped.expert_rows)[2:5]:
        assert (grad[[0, 1, 3]] == 0).all() and (grad[2] != 0).any()


@each_type
@pytest.mark.parametrize("shape", [SHAPES["many_experts"], (60, 16, 24, 7, 3)])
def test_dropped_slots_add_nothing_to_grouped_experts(shape, dtype) -> None:
    kept = torch.rand(60, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    case = Case(shape, dtype, kept=kept)
    hold(case, dtype, function=grouped.expert_rows)
    grad_weight_TK = case.run(grouped.expert_rows)[5]
    assert (grad_weight_TK[~kept] == 0).all() and (grad_weight_TK[kept] != 0).any()


def test_grouped_experts_with_no_tokens_and_no_rows_are_fine() -> None:
    hold(Case((0, 16, 8, 4, 2), torch.float32), torch.float32, function=grouped.expert_rows)
    case = Case((5, 16, 8, 4, 2), torch.float32, kept=torch.zeros(5, 2, dtype=torch.bool))
    y_TD, *grads = case.run(grouped.expert_rows)
    assert (y_TD == 0).all() and all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_grouped_experts_have_every_activation(activation) -> None:
    glu = Glu(activation=activation, limit=0.7, up_shift=1.0)
    hold(Case(ALIGNED["aligned"], torch.float32), torch.float32, glu, grouped.expert_rows)


@each_type
@pytest.mark.parametrize("shape", ALIGNED.values(), ids=ALIGNED)
def test_a_gathers_gradient_is_the_sum_over_a_tokens_slots(shape, dtype) -> None:
    kept = torch.rand(shape[0], shape[4], generator=torch.Generator().manual_seed(4)) < 0.7
    for case in (Case(shape, dtype), Case(shape, dtype, kept=kept)):
        num_tokens, num_slots = case.weight_TK.shape
        x_TD = case.parts[0].clone().requires_grad_()
        grad_RD = torch.randn(len(case.order_R), shape[1]).to(dtype)
        rows_RD = grouped.gather(x_TD, case.order_R, num_slots)
        assert torch.equal(rows_RD, x_TD[case.order_R // num_slots])
        (found_TD,) = torch.autograd.grad(rows_RD, x_TD, grad_RD)
        exact_TD = torch.zeros(num_tokens, shape[1], dtype=torch.float64)
        for row, place in enumerate(case.order_R.tolist()):
            exact_TD[place // num_slots] += grad_RD[row]
        assert found_TD.dtype == dtype
        torch.testing.assert_close(found_TD.double(), exact_TD, rtol=1e-2, atol=2e-2)


@each_type
def test_a_gradient_that_is_one_number_spread_out_is_taken(dtype) -> None:
    x_RD = torch.randn(10, 16).to(dtype).requires_grad_()
    w_EFD = torch.randn(3, 8, 16).to(dtype).requires_grad_()
    counts_E = torch.tensor([4, 0, 6])
    kernels.torch_grouped_mm(x_RD, w_EFD, counts_E).sum().backward()
    expert_R = torch.tensor([0] * 4 + [2] * 6)
    exact_RD = w_EFD.detach().double().sum(1)[expert_R]
    torch.testing.assert_close(x_RD.grad.double(), exact_RD, rtol=1e-2, atol=5e-2)
    assert (w_EFD.grad[1] == 0).all() and (w_EFD.grad[2] != 0).any()


def test_under_autocast_grouped_products_are_of_its_type(monkeypatch) -> None:
    taken = taken_by_torch(monkeypatch)
    case = Case(ALIGNED["aligned"], torch.float32)
    leaves = [part.clone().requires_grad_() for part in case.parts]
    rest = (case.weight_TK, case.order_R, case.counts_E, Glu())
    with torch.autocast("cpu", torch.bfloat16):
        y_TD = grouped.expert_rows(*leaves, *rest)
    narrow = [part.bfloat16() for part in leaves]
    assert torch.equal(y_TD, grouped.expert_rows(*narrow, *rest)) and len(taken) == 6
    grads = torch.autograd.grad(y_TD, leaves, case.grad_TD.bfloat16())
    assert [grad.dtype for grad in grads] == [torch.float32] * 4


# torch's own, of how it traces gradients
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_grouped_experts_compile_in_one_piece() -> None:
    case = Case(ALIGNED["aligned"], torch.bfloat16)
    compiled = torch.compile(grouped.expert_rows, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(case.run(compiled), case.run(grouped.expert_rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_a_processors_experts_are_native_and_others_are_grouped(monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("a processor has its native operation")

    case = Case(ALIGNED["aligned"], torch.float32)
    monkeypatch.setattr(grouped, "expert_rows", refuse)
    case.run(kernels.expert_rows)
    with pytest.raises(AssertionError, match="native"):
        case.run(kernels.expert_rows, dtype=torch.float64)


def test_experts_of_types_that_native_does_not_know_are_the_definition() -> None:
    case = Case(ALIGNED["aligned"], torch.float32)
    found = case.run(kernels.expert_rows, dtype=torch.float64)
    exact = case.run(reference.expert_rows, dtype=torch.float64)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu_torch_computes_bfloat16_and_the_definition_the_rest(dtype, monkeypatch) -> None:
    """With tensors that say that they are on a GPU, and have no numbers."""
    taken = taken_by_torch(monkeypatch)
    looped: list[str] = []

    def loop(x_RD, w_EFD, counts_E):
        looped.append(x_RD.device.type)
        return x_RD.new_empty(x_RD.shape[0], w_EFD.shape[1])

    monkeypatch.setattr(reference, "grouped_mm", loop)
    case = Case(ALIGNED["aligned"], dtype)
    numbers = (*case.parts, case.weight_TK, case.order_R, case.counts_E)
    with FakeTensorMode(), torch.no_grad():
        parts = [torch.empty(part.shape, dtype=part.dtype, device="cuda") for part in numbers]
        y_TD = kernels.expert_rows(*parts, Glu())
    assert (y_TD.device.type, y_TD.dtype, y_TD.shape) == ("cuda", dtype, case.parts[0].shape)
    assert (len(taken), len(looped)) == ((3, 0) if dtype == torch.bfloat16 else (0, 3))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counts_are_how_often_each_id_is_there(device) -> None:
    ids_R = torch.tensor([3, 0, 3, 3, 1, 0])
    is_counted_R = torch.tensor([True, True, False, True, True, False])
    if device == "meta":
        # the other devices' way, on numbers: a meta tensor has none
        found_E = ids_R.new_zeros(5).scatter_add(0, ids_R, is_counted_R.to(torch.int64))
        assert kernels.count(ids_R.to("meta"), 5, is_counted_R.to("meta")).shape == (5,)
    else:
        found_E = kernels.count(ids_R, 5, is_counted_R)
        assert kernels.count(ids_R, 5).tolist() == [2, 1, 0, 3, 0]
    assert found_E.tolist() == [1, 1, 0, 2, 0]
