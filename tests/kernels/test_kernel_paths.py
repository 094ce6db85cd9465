"""The path that is chosen gives what the definition gives, forward and backward, in each type."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from expertly import kernels
from expertly.kernels import cases, reference

TYPES = [torch.float32, torch.bfloat16]
each_type = pytest.mark.parametrize("dtype", TYPES, ids=["float32", "bfloat16"])
each_product = pytest.mark.parametrize("case", cases.GROUPED, ids=lambda case: case.name)
each_attention = pytest.mark.parametrize("case", cases.ATTENDED, ids=lambda case: case.name)


def is_aligned(case: cases.Grouped, dtype: torch.dtype) -> bool:
    """Whether both widths are multiples of 16 bytes, as torch's product needs them."""
    return not any(width * dtype.itemsize % 16 for width in (case.width_in, case.width_out))


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody has written is NaN, so that what a kernel leaves out shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def error(ours: Tensor, exact: Tensor) -> float:
    """The largest difference as a share of the largest value that is right, if that is of the
    size of the inputs: a gradient may be zero."""
    if not exact.numel():
        return 0.0
    return ((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=0.1)).item()


def with_gradients(function, inputs: tuple[Tensor, ...], *rest) -> tuple[Tensor, ...]:
    """The answer, and the gradients of a fixed weighing of it to each input."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y = function(*leaves, *rest)
    weighing = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad(y, leaves, weighing.to(y.dtype))
    return y.detach(), *gradients


@each_type
@each_product
def test_grouped_mm_equals_its_definition_in_values_and_gradients(case, dtype) -> None:
    x_RD, w_EFD, counts_E = case.draw(dtype)
    exact = with_gradients(reference.grouped_mm, (x_RD.double(), w_EFD.double()), counts_E)
    paths = [kernels.grouped_mm, reference.grouped_mm]
    for path in paths:
        found = with_gradients(path, (x_RD, w_EFD), counts_E)
        for ours, theirs in zip(found, exact, strict=True):
            assert ours.dtype == dtype and ours.shape == theirs.shape
            assert ours.isfinite().all()
            assert error(ours, theirs) <= cases.TOLERANCE[dtype]


@each_type
@each_product
def test_grouped_mm_takes_torchs_product_wherever_it_fits(case, dtype, monkeypatch) -> None:
    taken = []
    real = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda *a, **k: taken.append(1) or real(*a, **k))
    kernels.grouped_mm(*case.draw(dtype))
    assert bool(taken) == (case.num_rows > 0 and is_aligned(case, dtype))


@each_type
def test_the_cases_lie_on_both_sides_of_each_choice(dtype) -> None:
    kinds = {(case.num_rows > 0, is_aligned(case, dtype)) for case in cases.GROUPED}
    assert {(True, True), (True, False), (False, True)} <= kinds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_grouped_mm_of_other_types_is_the_definition(dtype) -> None:
    x_RD, w_EFD, counts_E = (case for case in _large().draw(dtype))
    found = kernels.grouped_mm(x_RD, w_EFD, counts_E)
    assert torch.equal(found, reference.grouped_mm(x_RD, w_EFD, counts_E))


def _large() -> cases.Grouped:
    return next(case for case in cases.GROUPED if case.name == "an_empty_expert")


@each_type
def test_grouped_mm_takes_rows_that_are_a_view_of_a_wider_tensor(dtype) -> None:
    x_RD, w_EFD, counts_E = _large().draw(dtype)
    wide = torch.full((x_RD.shape[0], 2 * x_RD.shape[1] + 1), torch.nan, dtype=dtype)
    wide[:, 1::2] = x_RD
    found = kernels.grouped_mm(wide[:, 1::2], w_EFD, counts_E)
    assert (
        error(found, reference.grouped_mm(x_RD, w_EFD, counts_E).double())
        <= (cases.TOLERANCE[dtype])
    )


@each_type
@each_attention
def test_attention_equals_its_definition_under_a_mask(case, dtype) -> None:
    q, k, v, seen, sinks = case.draw(dtype)
    found = with_gradients(kernels.attention, (q, k, v), seen, sinks)
    wide = None if sinks is None else sinks.double()
    exact = with_gradients(reference.attention, (q.double(), k.double(), v.double()), seen, wide)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        assert ours.isfinite().all()
        assert error(ours, theirs) <= 2 * cases.TOLERANCE[dtype]


@each_type
@pytest.mark.parametrize(
    "case", [c for c in cases.ATTENDED if c.is_plainly_causal], ids=lambda case: case.name
)
def test_attention_without_a_mask_is_causal(case, dtype) -> None:
    q, k, v, seen, sinks = case.draw(dtype)
    found = kernels.attention(q, k, v, None, sinks)
    assert found.isfinite().all()
    assert error(found, kernels.attention(q, k, v, seen, sinks).double()) <= cases.TOLERANCE[dtype]


def test_the_cases_cover_attention_with_and_without_a_mask_groups_and_sinks() -> None:
    plain = [case for case in cases.ATTENDED if case.is_plainly_causal]
    masked = [case for case in cases.ATTENDED if not case.is_plainly_causal]
    for some in (plain, masked):
        assert any(case.num_heads != case.num_kv_heads for case in some)
        assert {case.has_sinks for case in some} == {False, True}


def test_no_two_cases_share_a_name() -> None:
    for table in (cases.GROUPED, cases.ATTENDED):
        names = [case.name for case in table]
        assert sorted(set(names)) == sorted(names)


@each_type
def test_rms_norm_equals_its_definition_in_values_and_gradients(dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 5, 37, generator=generator).to(dtype)
    weight = torch.randn(37, generator=generator).to(dtype)
    found = with_gradients(lambda a, w: kernels.rms_norm(a, w, 1e-5), (x, weight))
    exact = with_gradients(
        lambda a, w: a * (a.square().mean(-1, keepdim=True) + 1e-5) ** -0.5 * w,
        (x.double(), weight.double()),
    )
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert ours.isfinite().all()
        assert error(ours, theirs) <= cases.TOLERANCE[dtype]


def test_rms_norm_under_autocast_is_that_of_float32_rounded_once() -> None:
    x_TD = torch.randn(3, 8).bfloat16()
    weight_D = torch.randn(8)
    with torch.autocast("cpu", torch.bfloat16):
        y_TD = kernels.rms_norm(x_TD, weight_D, 1e-6)
    expected_TD = reference.rms_norm(x_TD.float(), weight_D, 1e-6).bfloat16()
    assert y_TD.dtype == torch.bfloat16
    torch.testing.assert_close(y_TD, expected_TD, rtol=2**-8, atol=0)
