"""Calls in the wrong order or of the wrong size are refused; what has no answer is a NaN."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_layers import CHOSEN, EXPERTS, WIDTH, Maker, Pass
from numpy.typing import NDArray

from expertly import _native

Floats = NDArray[np.float32]
# any float32, and often one that spoils a softmax
STRANGE = st.one_of(
    st.floats(-30, 30, width=32), st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
)


@given(st.lists(STRANGE, min_size=1, max_size=20), st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("kind", ["softmax", "sparsemixer"])
def test_whatever_the_logits_are_each_expert_is_chosen_once(
    kind: str, values: list[float], data: st.DataObject
) -> None:
    num_chosen = data.draw(st.integers(1, len(values)))
    ids, weights = np.full(num_chosen, -1, np.int32), np.zeros(num_chosen, np.float32)
    _native.rows.choose(np.array(values, np.float32), kind, 0.0, 0.01, ids, weights)
    assert len(set(ids.tolist())) == num_chosen
    assert ids.min() >= 0 and ids.max() < len(values)


@pytest.mark.parametrize("kind", ["softmax", "sparsemixer"])
@pytest.mark.parametrize("spoiled", [[1, math.nan, 0], [math.inf, 0, 1], [-math.inf] * 3])
def test_logits_without_an_order_have_weights_that_are_no_numbers(
    kind: str, spoiled: list[float]
) -> None:
    ids, weights = np.zeros(2, np.int32), np.zeros(2, np.float32)
    _native.rows.choose(np.array(spoiled, np.float32), kind, 1.0, 0.01, ids, weights)
    assert ids.tolist() == [0, 1] and np.isnan(weights).all()


def test_an_expert_that_cannot_be_reached_is_chosen_last() -> None:
    ids, weights = np.zeros(3, np.int32), np.zeros(3, np.float32)
    logits = np.array([-math.inf, 1, 1], np.float32)
    _native.rows.choose(logits, "softmax", 0.0, 0.0, ids, weights)
    assert ids.tolist() == [1, 2, 0] and weights.tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_router_with_a_nan_gives_logits_that_are_nans_and_no_crash(tokens: int) -> None:
    work, layer = Pass(), Maker().layer(chosen=4, spoiled=True)
    work.begin(tokens)
    work.attend(layer)
    work.step.feed_forward(layer)
    assert np.isnan(work.logits(list(range(tokens)))).all()


def test_an_expert_chosen_twice_counts_twice_for_one_token_as_for_several() -> None:
    experts = _native.Experts(_native.Runtime(1), Maker().bank())
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    for repeats in (2, 7, 20):
        ids = np.full((3, repeats), 3, np.int32)
        weights = np.full((3, repeats), 0.5, np.float32)
        together = experts(x, ids, weights)
        assert np.array_equal(experts(x[:1], ids[:1], weights[:1]), together[:1])
        once = experts(x, ids[:, :1], np.ones((3, 1), np.float32))
        np.testing.assert_allclose(together, 0.5 * repeats * once, rtol=1e-5)


def test_a_choice_stays_what_it_was_when_the_step_goes_on() -> None:
    work, layer = Pass(), Maker().layer()
    work.begin()
    work.attend(layer)
    kept = work.step.choice(layer)
    before = [np.array(part) for part in kept]
    work.begin(60)
    work.attend(layer)
    assert all(np.array_equal(a, b) for a, b in zip(kept, before, strict=True))
    assert [part.shape for part in kept] == [(1, CHOSEN), (1, CHOSEN), (1, EXPERTS)]


def attended(work: Pass, layer: _native.Layer) -> _native.Step:
    work.begin()
    work.attend(layer)
    return work.step


# each with a word of the message
MISUSES: dict[str, tuple[str, Callable[[Pass, Maker], object]]] = {
    "angle": ("angle", lambda work, make: work.begin(angle=-100)),
    "logits of a row twice": ("rise", lambda work, make: (work.begin(), work.logits([0, 0]))),
    "another norm": ("norm", lambda work, make: (work.begin(), work.logits([0], make.norm(96)))),
    "no attention": (
        "attended",
        lambda work, make: (work.begin(), work.step.feed_forward(make.layer())),
    ),
    "another layer": (
        "attended",
        lambda work, make: attended(work, make.layer()).feed_forward(make.layer(chosen=8)),
    ),
    "another choice": (
        "attended",
        lambda work, make: attended(work, make.layer()).choice(make.layer(chosen=8)),
    ),
    "another cache": (
        "cache",
        lambda work, make: (work.begin(), work.attend(make.layer(head_size=128), 128)),
    ),
    "another width": ("width", lambda work, make: (work.begin(), work.attend(make.layer(128)))),
    "keys of other rows": ("widths", lambda work, make: make.attention(key_width=96)),
    "a router of other rows": ("width", lambda work, make: make.layer(router_width=96)),
    "uneven heads": ("equal", lambda work, make: make.attention(heads=3, groups=2)),
    "half a pair": ("halves", lambda work, make: make.attention(head_size=31)),
    "a window below 0": ("window", lambda work, make: make.attention(window=-1)),
    "too many rows": (
        "more rows",
        lambda work, make: _native.Matrix.view("f32", 2**60, 16, _native.Buffer(64), 0),
    ),
    "rows from far beyond": (
        "beyond",
        lambda work, make: make.matrix(16, 16).unpack(2**63 - 1, 1),
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_what_does_not_fit_is_refused(name: str) -> None:
    word, act = MISUSES[name]
    with pytest.raises(ValueError, match=word):
        act(Pass(), Maker())


def test_experts_one_after_another_are_each_given_once_and_all() -> None:
    work, layer = Pass(), Maker().layer()
    step = attended(work, layer)
    chosen = np.unique(step.choice(layer)[0]).tolist()
    step.begin_experts(layer)
    step.add_experts(layer, chosen[:1])
    with pytest.raises(ValueError, match="before all"):
        step.end_experts(layer)
    with pytest.raises(ValueError, match="given before"):
        step.add_experts(layer, chosen[:1])
    step.add_experts(layer, chosen[1:])
    step.end_experts(layer)
    given = work.logits([0])
    whole = attended(work, layer)
    whole.feed_forward(layer)
    assert np.array_equal(work.logits([0]), given)


def test_no_room_for_an_answer_is_no_answer() -> None:
    scores = np.zeros((3, 4), np.float32)
    _native.Trainer(1).largest(scores, np.zeros((3, 0), np.int64))


OUTPUTS: dict[str, Callable[[], object]] = {
    "a wider type": lambda: _native.rows.add_scaled(
        _native.Runtime(1), np.ones(8, np.float32), 1.0, np.zeros(8, np.float64)
    ),
    "every other number": lambda: _native.rows.add_scaled(
        _native.Runtime(1), np.ones(8, np.float32), 1.0, np.zeros(16, np.float32)[::2]
    ),
    "narrower ids": lambda: _native.sort_places(
        np.zeros(4, np.int64), np.zeros(4, np.int32), np.zeros(2, np.int64)
    ),
    "half a row": lambda: _native.Trainer(1).largest(
        np.zeros((3, 4), np.float32), np.zeros((3, 2), np.int32)
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_answers_go_into_no_copy_of_what_was_given(name: str) -> None:
    with pytest.raises(TypeError):
        OUTPUTS[name]()
