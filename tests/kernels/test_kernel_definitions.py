"""Every definition in `kernels.reference` against its formula, written out in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.config import Glu
from expertly.kernels import cases, reference

vectors = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12)
numbers = st.floats(-20, 20, width=32)


def as_tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_rms_norm_of_three_and_four_worked_out_by_hand() -> None:
    # mean of squares 12.5; with eps 2.75 the root is sqrt(15.25)
    y = reference.rms_norm(as_tensor([3.0, 4.0]), as_tensor([1.0, -2.0]), 2.75)
    assert y.tolist() == pytest.approx([3 / 15.25**0.5, -8 / 15.25**0.5], rel=1e-6)


@given(vectors, st.sampled_from([1e-6, 1e-2, 3.0]))
def test_rms_norm_is_its_formula_in_float64(values: list[float], eps: float) -> None:
    weights = [1 + 0.3 * i for i in range(len(values))]
    root = math.sqrt(sum(v * v for v in values) / len(values) + eps)
    expected = [v / root * w for v, w in zip(values, weights, strict=True)]
    y = reference.rms_norm(as_tensor(values), as_tensor(weights), eps)
    assert y.tolist() == pytest.approx(expected, rel=2e-6, abs=1e-7)


def test_layer_norm_of_two_numbers_worked_out_by_hand() -> None:
    # mean 3, variance 4; with eps 5 the root is 3
    y = reference.layer_norm(as_tensor([1.0, 5.0]), as_tensor([3.0, 6.0]), as_tensor([0.5, 1]), 5)
    assert y.tolist() == pytest.approx([-1.5, 5.0], rel=1e-6)


@given(vectors, st.booleans(), st.sampled_from([1e-5, 1e-2, 3.0]))
def test_layer_norm_is_its_formula_in_float64(
    values: list[float], has_bias: bool, eps: float
) -> None:
    size = len(values)
    weights, biases = [1 - 0.2 * i for i in range(size)], [0.1 * i - 1 for i in range(size)]
    mean = sum(values) / size
    root = math.sqrt(sum((v - mean) ** 2 for v in values) / size + eps)
    expected = [
        (v - mean) / root * w + (b if has_bias else 0)
        for v, w, b in zip(values, weights, biases, strict=True)
    ]
    bias = as_tensor(biases) if has_bias else None
    y = reference.layer_norm(as_tensor(values), as_tensor(weights), bias, eps)
    # a mean that cancels leaves float32's rounding of the values over the root
    assert y.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4 / root)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_of_bfloat16_are_computed_in_float32_and_rounded_once(kind: str) -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = torch.linspace(0.5, 2, 64).bfloat16()
    if kind == "rms":
        y, exact = (reference.rms_norm(a, weight.to(a.dtype), 1e-6) for a in (x, x.float()))
    else:
        y, exact = (reference.layer_norm(a, weight.to(a.dtype), None, 1e-6) for a in (x, x.float()))
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16())


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": gelu_tanh,
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x * sigmoid(x),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(numbers, numbers)
def test_glu_is_the_activation_of_the_gate_times_up(
    activation: str, gate: float, up: float
) -> None:
    y = reference.glu(as_tensor([gate]), as_tensor([up]), Glu(activation=activation))
    expected = ACTIVATIONS[activation](gate) * up
    # gelu's tails cancel in float32
    assert y.item() == pytest.approx(expected, rel=1e-5, abs=2e-5)


def test_glu_activations_can_be_told_apart_at_minus_one() -> None:
    values = [
        reference.glu(as_tensor([-1.0]), as_tensor([1.0]), Glu(activation=name)).item()
        for name in ("silu", "gelu", "gelu_tanh", "relu")
    ]
    assert values == pytest.approx([-0.268941, -0.158655, -0.158808, 0.0], abs=1e-6)


@given(numbers, numbers, st.sampled_from([0.5, 1.0, 1.702]), st.sampled_from([None, 0.5, 7.0]))
def test_glu_with_alpha_limit_and_shift_is_its_formula(
    gate: float, up: float, alpha: float, limit: float | None
) -> None:
    rule = Glu(alpha=alpha, limit=limit, up_shift=1.0)
    y = reference.glu(as_tensor([gate]), as_tensor([up]), rule).item()
    if limit is not None:
        gate, up = min(gate, limit), max(-limit, min(up, limit))
    assert y == pytest.approx(gate * sigmoid(alpha * gate) * (up + 1), rel=1e-5, abs=1e-6)


def test_glu_limits_the_gate_above_only_and_up_on_both_sides() -> None:
    gate, up = as_tensor([9.0, -9.0, 1.0, 1.0]), as_tensor([1.0, 1.0, 9.0, -9.0])
    y = reference.glu(gate, up, Glu(activation="relu", limit=2.0))
    assert y.tolist() == [2.0, 0.0, 2.0, -2.0]
    low = reference.glu(as_tensor([-3.0]), as_tensor([1.0]), Glu(limit=2.0)).item()
    assert low == pytest.approx(-3 * sigmoid(-3), rel=1e-6)


turns = st.lists(st.floats(-10, 10), min_size=1, max_size=5)


@given(turns, st.integers(0, 2**31))
def test_rotate_turns_each_pair_as_a_complex_number(angles: list[float], seed: int) -> None:
    pairs = len(angles)
    x = torch.randn(2, 3, 2 * pairs, generator=torch.Generator().manual_seed(seed))
    angle = torch.tensor(angles, dtype=torch.float64)
    y = reference.rotate(x, angle.cos().float(), angle.sin().float())
    before = x[..., :pairs].double().numpy() + 1j * x[..., pairs:].double().numpy()
    after = before * np.exp(1j * np.array(angles))
    np.testing.assert_allclose(y[..., :pairs].numpy(), after.real, atol=3e-6)
    np.testing.assert_allclose(y[..., pairs:].numpy(), after.imag, atol=3e-6)


@given(turns, st.integers(0, 2**31))
def test_rotations_keep_norms_and_add_up(angles: list[float], seed: int) -> None:
    x = torch.randn(4, 2 * len(angles), generator=torch.Generator().manual_seed(seed)).double()
    angle = torch.tensor(angles, dtype=torch.float64)
    more = angle.flip(0) * 0.7 + 0.2
    once = reference.rotate(x, angle.cos(), angle.sin())
    torch.testing.assert_close(once.norm(dim=-1), x.norm(dim=-1))
    twice = reference.rotate(once, more.cos(), more.sin())
    both = reference.rotate(x, (angle + more).cos(), (angle + more).sin())
    torch.testing.assert_close(twice, both)


def attend_one_by_one(q, k, v, seen, sinks) -> np.ndarray:
    """A query at a time: the softmax as a sum over the keys it sees, in float64."""
    batch, num_heads, num_queries, size = q.shape
    share = num_heads // k.shape[1]
    y = np.zeros(q.shape)
    for b, h, s in np.ndindex(batch, num_heads, num_queries):
        keys = [n for n in range(k.shape[2]) if seen[b, s, n]]
        scores = [float(q[b, h, s] @ k[b, h // share, n]) / math.sqrt(size) for n in keys]
        exps = [math.exp(score) for score in scores]
        total = sum(exps) + (0.0 if sinks is None else math.exp(sinks[h]))
        for n, exp in zip(keys, exps, strict=True):
            y[b, h, s] += exp / total * v[b, h // share, n]
    return y


SMALL = [case for case in cases.ATTENDED if case.name != "large"]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_attention_is_the_softmax_over_what_each_query_sees(case: cases.Attended) -> None:
    tensors = case.draw()
    y = reference.attention(*tensors)
    exact = attend_one_by_one(*(None if t is None else t.double().numpy() for t in tensors))
    np.testing.assert_allclose(y.numpy(), exact, atol=1e-6)


@given(st.integers(0, 2**31))
def test_attention_reads_only_the_keys_of_a_random_mask(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, 3, 6, generator=generator)
    k, v = torch.randn(2, 2, 2, 5, 6, generator=generator).unbind(0)
    seen = torch.rand(2, 3, 5, generator=generator) < 0.5
    seen[:, :, 0] |= ~seen.any(-1)
    y = reference.attention(q, k, v, seen)
    exact = attend_one_by_one(*(t.double().numpy() for t in (q, k, v, seen)), None)
    np.testing.assert_allclose(y.numpy(), exact, atol=1e-6)


def test_a_query_with_a_sink_that_sees_no_key_answers_zero() -> None:
    q, k, v = torch.randn(3, 1, 2, 4, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    seen = torch.ones(1, 4, 4, dtype=torch.bool)
    seen[0, 2] = False
    y = reference.attention(q, k, v, seen, torch.tensor([0.5, -1.0]))
    assert torch.equal(y[0, :, 2], torch.zeros(2, 6))
    assert (y[0, :, [0, 1, 3]] != 0).all()


def test_a_sink_takes_its_share_of_two_equal_keys() -> None:
    # scores 0, 0 and a sink of ln 2: shares 1/4, 1/4 and 1/2
    q, k = torch.zeros(2, 1, 1, 2, 4).unbind(0)
    v = torch.tensor([[[[4.0, 0, 0, 0], [0, 8.0, 0, 0]]]])
    seen = torch.ones(1, 2, 2, dtype=torch.bool)
    y = reference.attention(q, k, v, seen, torch.tensor([math.log(2)]))
    assert y[0, 0, 1].tolist() == pytest.approx([1.0, 2.0, 0.0, 0.0])


@pytest.mark.parametrize("case", cases.GROUPED, ids=lambda case: case.name)
def test_grouped_mm_is_a_product_a_row(case: cases.Grouped) -> None:
    x_RD, w_EFD, counts_E = case.draw()
    expert_R = np.repeat(np.arange(len(case.counts)), case.counts)
    x, w = x_RD.double().numpy(), w_EFD.double().numpy()
    exact = np.array([w[e] @ row for e, row in zip(expert_R, x, strict=True)])
    y = reference.grouped_mm(x_RD, w_EFD, counts_E)
    assert y.shape == (case.num_rows, case.width_out)
    np.testing.assert_allclose(y.numpy(), exact.reshape(y.shape), atol=1e-5)
