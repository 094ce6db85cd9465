"""What native kernels do to one row: norms, gated activations, sums, choices, rounding."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_cases import GROUP, SETS, Floats, group_parts, runtime, same_bits, unpanel

from expertly import _native
from expertly.config import Glu
from expertly.kernels import reference

LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 100, 257)
ACTS = ("silu", "gelu", "gelu_tanh", "relu")
# a sum of float32 products, in units of the sum of their magnitudes
SUM_TOLERANCE = 1e-6


def row(length: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, length]).standard_normal(length).astype(np.float32)


def quantised(kernels: str, x: Floats) -> dict[str, np.ndarray]:
    parts = group_parts(1, len(x))
    _native.rows.quantise(runtime(kernels), x, parts)
    return {name: part[0].reshape(-1) for name, part in unpanel(parts, 1).items()}


@pytest.mark.parametrize("kernels", SETS)
def test_a_group_worked_out_by_hand(kernels: str) -> None:
    # a largest magnitude of 254 makes steps of 2; ties go to the even code
    x = np.zeros(GROUP, np.float32)
    x[[0, 1, 2, 3, 16]] = [-254, 3, 5, 4.1, 100]
    got = quantised(kernels, x)
    assert got["codes"][[0, 1, 2, 3, 4, 16]].tolist() == [-127, 2, 2, 2, 0, 50]
    assert got["scale"].tolist() == [2.0]
    assert got["start"].tolist() == [8 * 71] and got["signed_start"].tolist() == [128 * 71]
    assert got["sum"].tolist() == [-142.0]
    assert got["half_starts"].tolist() == [4 * 121, 4 * -50]
    assert got["half_sums"].tolist() == [-242.0, 100.0]


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("length", LENGTHS)
def test_groups_add_up_and_a_short_one_is_padded_with_zeros(kernels: str, length: int) -> None:
    got = quantised(kernels, row(length))
    codes = got["codes"].reshape(-1, 2, GROUP // 2).astype(np.int64)
    assert np.abs(codes).max() == 127
    assert not codes.reshape(-1)[length:].any()
    half_sums, sums = codes.sum(axis=2), codes.sum(axis=(1, 2))
    assert np.array_equal(got["start"], -8 * sums)
    assert np.array_equal(got["signed_start"], -128 * sums)
    assert np.array_equal(got["sum"], got["scale"] * sums.astype(np.float32))
    assert np.array_equal(got["half_starts"], -4 * half_sums.reshape(-1))
    halves = np.repeat(got["scale"], 2) * half_sums.reshape(-1).astype(np.float32)
    assert np.array_equal(got["half_sums"], halves)


@given(st.lists(st.floats(width=32), min_size=1, max_size=70))
def test_any_floats_become_the_same_groups_on_every_kernel_set(values: list[float]) -> None:
    x = np.array(values, np.float32)
    first, *others = [quantised(kernels, x) for kernels in SETS]
    for other in others:
        for name, part in first.items():
            assert np.array_equal(part, other[name], equal_nan=part.dtype == np.float32), name
    finite = np.array([np.isfinite(x[at : at + GROUP]).all() for at in range(0, len(x), GROUP)])
    assert np.array_equal(np.isfinite(first["scale"]), finite)


@pytest.mark.parametrize("kernels", SETS)
@given(st.lists(st.floats(width=32), min_size=1, max_size=9))
def test_rows_become_bfloat16_as_torch_rounds_them(kernels: str, values: list[float]) -> None:
    x = np.array(values, np.float32)
    half = np.full(len(x) + len(x) % 2, 7, np.uint16)
    _native.rows.to_bf16(runtime(kernels), x, half)
    ours = (half.astype(np.uint32) << 16).view(np.float32)
    theirs = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    assert same_bits(ours[: len(x)], theirs)
    assert not ours[len(x) :].any()


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("length", LENGTHS)
def test_dot_products_are_within_a_sums_rounding(kernels: str, length: int) -> None:
    a, b = row(length, 1), row(length, 2)
    got = _native.rows.dot(runtime(kernels), a, b)
    products = a.astype(np.float64) * b
    assert abs(got - products.sum()) <= SUM_TOLERANCE * np.abs(products).sum()


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_floats_have_the_same_bits_on_every_kernel_set(length: int) -> None:
    a, b = row(length, 1) * 3, row(length, 2)

    def results(kernels: str) -> list[Floats]:
        on, got = runtime(kernels), [np.zeros(length, np.float32) for _ in range(6)]
        _native.rows.normalise(on, a, b, None, True, 1e-6, got[0])
        _native.rows.normalise(on, a, b, a, False, 1e-6, got[1])
        for act, to in zip(("silu", "gelu", "relu"), got[2:5], strict=True):
            _native.rows.glu(on, a, b, act, 1.7, 2.0, 1.0, to)
        _native.rows.add_scaled(on, a, 0.3, got[5])
        return [*got, np.array([_native.rows.dot(on, a, b)], np.float32)]

    first, *others = [results(kernels) for kernels in SETS]
    for other in others:
        assert all(same_bits(x, y) for x, y in zip(first, other, strict=True))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("is_rms", [True, False])
def test_norms_are_their_definition(kernels: str, length: int, is_rms: bool) -> None:
    x, weight, bias = row(length, 1) + 0.5, row(length, 2), row(length, 3)
    y = np.full(length, np.nan, np.float32)
    _native.rows.normalise(runtime(kernels), x, weight, bias, is_rms, 1e-2, y)
    wide = [torch.from_numpy(v).double() for v in (x, weight, bias)]
    if is_rms:
        expected = reference.rms_norm(wide[0], wide[1], 1e-2) + wide[2]
    else:
        expected = reference.layer_norm(*wide, 1e-2)
    np.testing.assert_allclose(y, expected.numpy(), rtol=2e-6, atol=2e-6)


def test_a_norm_may_overwrite_its_row() -> None:
    x, weight = row(33), row(33, 1)
    for kernels in SETS:
        y, place = np.zeros(33, np.float32), x.copy()
        _native.rows.normalise(runtime(kernels), x, weight, None, True, 1e-6, y)
        _native.rows.normalise(runtime(kernels), place, weight, None, True, 1e-6, place)
        assert same_bits(y, place)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("limit", "shift"), [(math.inf, 0.0), (2.0, 1.0)])
def test_gated_activations_are_their_definition(
    kernels: str, act: str, limit: float, shift: float
) -> None:
    for length in LENGTHS:
        gate, up = 4 * row(length, 1), 2 * row(length, 2)
        h = np.full(length, np.nan, np.float32)
        alpha = 1.702 if act == "silu" else 1.0
        _native.rows.glu(runtime(kernels), gate, up, act, alpha, limit, shift, h)
        clamp = None if limit == math.inf else limit
        rule = Glu(activation=act, alpha=alpha, limit=clamp, up_shift=shift)
        wide = [torch.from_numpy(v).double() for v in (gate, up)]
        expected = reference.glu(*wide, rule).numpy()
        np.testing.assert_allclose(h, expected, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("kernels", SETS)
def test_e_to_the_x_is_within_two_units_in_the_last_place(kernels: str) -> None:
    # alpha turns a gate and an up of -1 into every exponent: 1 / (1 + e^alpha)
    alphas = np.linspace(-80, 80, 401, dtype=np.float32)
    minus_one, h = np.array([-1], np.float32), np.empty((len(alphas), 1), np.float32)
    for alpha, to in zip(alphas, h, strict=True):
        _native.rows.glu(
            runtime(kernels), minus_one, minus_one, "silu", float(alpha), math.inf, 0.0, to
        )
    exact = 1 / (1 + np.exp(alphas.astype(np.float64)))
    units = np.abs(h[:, 0] - exact) / np.spacing(exact.astype(np.float32))
    # two of e^x, half a unit each of the sum and the quotient, and their carry over a power of two
    assert units.max() <= 4


@pytest.mark.parametrize("kernels", SETS)
def test_gates_beyond_what_e_to_the_x_can_hold_stay_finite(kernels: str) -> None:
    gate = np.array([-1e30, -1000, -88, 88, 1000, 1e30, 0, -0.0], np.float32)
    h = np.empty_like(gate)
    _native.rows.glu(runtime(kernels), gate, np.ones_like(gate), "silu", 1.0, math.inf, 0.0, h)
    assert h[3:].tolist() == [88, 1000, np.float32(1e30), 0, 0]
    # the smallest e^-x that is kept is e^-88
    assert np.abs(h[1:3]).max() < 1e-34 and abs(h[0]) < 1e-7


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("limit", [math.inf, 2.0])
def test_no_number_stays_no_number(kernels: str, act: str, limit: float) -> None:
    ones, spoiled = np.ones(17, np.float32), np.ones(17, np.float32)
    spoiled[[3, 16]] = np.nan
    for gate, up in ((spoiled, ones), (ones, spoiled)):
        h = np.zeros(17, np.float32)
        _native.rows.glu(runtime(kernels), gate, up, act, 1.0, limit, 0.0, h)
        assert np.array_equal(np.isnan(h), np.isnan(spoiled))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("length", LENGTHS)
def test_scaled_rows_are_added_with_one_rounding(kernels: str, length: int) -> None:
    x, y = row(length, 1), row(length, 2)
    expected = (y.astype(np.float64) + x.astype(np.float64) * np.float32(0.3)).astype(np.float32)
    _native.rows.add_scaled(runtime(kernels), x, 0.3, y)
    # float64 rounds twice, which shows once in 2^29
    assert same_bits(y, expected)


def choice(
    logits: Floats, num_chosen: int, kind: str = "softmax", norm_p: float = 0.0, jitter: float = 0.0
) -> tuple[list[int], Floats]:
    ids, weights = np.full(num_chosen, -1, np.int32), np.full(num_chosen, np.nan, np.float32)
    _native.rows.choose(logits, kind, norm_p, jitter, ids, weights)
    return ids.tolist(), weights


def test_the_two_largest_of_four_worked_out_by_hand() -> None:
    # softmax of log 1, log 2, log 5, log 2 is a tenth of 1, 2, 5, 2; ties go to the lower id
    logits = np.log([1, 2, 5, 2]).astype(np.float32)
    ids, weights = choice(logits, 2)
    assert ids == [2, 1]
    assert weights.tolist() == pytest.approx([0.5, 0.2], rel=1e-6)
    assert choice(logits, 2, norm_p=1.0)[1].tolist() == pytest.approx([5 / 7, 2 / 7], rel=1e-6)
    root = math.hypot(5, 2)
    assert choice(logits, 2, norm_p=2.0)[1].tolist() == pytest.approx(
        [5 / root, 2 / root], rel=1e-6
    )


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=70), st.data())
def test_choices_are_torchs_top_k_of_the_softmax(values: list[float], data: st.DataObject) -> None:
    logits = np.array(values, np.float32)
    num_chosen = data.draw(st.integers(1, len(values)))
    ids, weights = choice(logits, num_chosen)
    probs = torch.from_numpy(logits).double().softmax(0)
    assert sorted(set(ids)) == sorted(ids)
    np.testing.assert_allclose(weights, probs[ids].numpy(), rtol=1e-5, atol=1e-12)
    # as large as torch's, for ties may be broken otherwise
    np.testing.assert_allclose(
        probs[ids].numpy(), probs.topk(num_chosen).values.numpy(), rtol=1e-5, atol=1e-12
    )


def test_sparsemixer_weights_worked_out_by_hand() -> None:
    # within 2 * 0.1 of the largest, 2.0, lies 1.9: (2 - 1.9) / 2 = 0.05; 1.0 does not
    logits = np.array([1.0, 2.0, 1.9], np.float32)
    ids, weights = choice(logits, 2, "sparsemixer", jitter=0.1)
    assert ids == [1, 2]
    # then 1.9 alone, with the gap to 1.0 of 0.47
    assert weights.tolist() == pytest.approx([1 / (1 + math.exp(-0.1)), 1.0], rel=1e-6)


def test_rows_of_two_sizes_are_refused() -> None:
    on, a, b = runtime(SETS[0]), row(4), row(5)
    with pytest.raises(ValueError, match="two sizes"):
        _native.rows.dot(on, a, b)
    with pytest.raises(ValueError, match="two sizes"):
        _native.rows.add_scaled(on, a, 1.0, b)
    with pytest.raises(ValueError, match="no activation"):
        _native.rows.glu(on, a, a, "tanh", 1.0, 1.0, 0.0, a)
    with pytest.raises(ValueError, match="more than there are"):
        choice(a, 5)
