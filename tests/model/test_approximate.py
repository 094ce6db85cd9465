"""What rules for cheaper answers keep of a router's choice, by hand; and that the decoder keeps to
it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.checkpoint import load
from expertly.checkpoint.apart import packed_apart
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.checkpoint.streamed_loading import stream
from expertly.config import Mixture, Router
from expertly.errors import InputError
from expertly.model.approximate import (
    FORMS,
    Approximation,
    Cached,
    Seen,
    approximate,
    cold,
    least_beside,
    lower,
    naee,
    ser,
    top,
    top_p,
)

IDS = [[3, 2, 1, 0]]
SHARES = [[0.1, 0.2, 0.3, 0.4]]


class Held:
    """A store that holds some experts, in every layer."""

    def __init__(self, *experts: int) -> None:
        self._experts = experts

    def resident(self, layer: int, experts) -> list[bool]:
        return [expert in self._experts for expert in experts]


def seen(store=None, ids=IDS, shares=SHARES, logits=None) -> Seen:
    logits_TE = np.array(logits or [[0.4, 0.3, 0.2, 0.1, 0.0]], np.float32)
    return Seen(0, np.array(ids, np.int32), np.array(shares, np.float32), logits_TE, store)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (top(2), [-1, -1, 1, 0]),
        (ser(1, 0.7), [-1, -1, 1, 0]),
        (ser(1, 0.8), [-1, -1, -1, 0]),
        (ser(3, 0.8), [-1, 2, 1, 0]),
        (top_p(0.4), [-1, -1, -1, 0]),
        (top_p(0.41), [-1, -1, 1, 0]),
        (top_p(1.0), [3, 2, 1, 0]),
        (naee({0: 0.5}), [-1, 2, 1, 0]),
        (cold(1.0), [3, 2, 1, 0]),
        (cold(0.5), [3, 2, 1, 0]),
    ],
)
def test_what_is_kept_of_four_by_hand(rule, kept) -> None:
    assert rule(seen()).tolist() == [kept]


def test_a_cold_expert_goes_where_its_weight_is_small_and_a_resident_one_stays() -> None:
    # 1 / K is 0.25
    assert cold(1.0)(seen(Held(3))).tolist() == [[3, -1, 1, 0]]
    assert cold(2.0)(seen(Held())).tolist() == [[-1, -1, -1, 0]]


def test_what_is_light_for_all_tokens_and_not_in_memory_is_lowered() -> None:
    # 1 / K is 0.25; of five experts
    assert lower(1.0)(seen(Held())).tolist() == [[3 + 5, 2 + 5, 1, 0]]
    assert lower(1.0)(seen(Held(3))).tolist() == [[3, 2 + 5, 1, 0]]
    assert lower(0.8)(seen(Held())).tolist() == [[3 + 5, 2, 1, 0]]
    assert lower(1000.0)(seen(Held(1))).tolist() == [[3 + 5, 2 + 5, 1, 0 + 5]]
    assert lower(0.0)(seen(Held())).tolist() == lower(9.0)(seen()).tolist() == IDS
    two = seen(Held(), ids=[*IDS, [3, 4, 1, 0]], shares=[*SHARES, [0.7, 0.1, 0.1, 0.1]])
    # expert 3 is heavy for the second token, 1 and 0 for the first
    assert lower(1.0)(two).tolist() == [[3, 2 + 5, 1, 0], [3, 4 + 5, 1, 0]]


@given(
    st.lists(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sets(st.integers(0, 4)),
    st.floats(0.0, 4.0),
    st.randoms(use_true_random=False),
)
def test_every_expert_is_kept_in_one_of_its_copies_alike_for_all_tokens(
    weights, held, least, random
) -> None:
    shares_TK = (np.array(weights) / np.sum(weights, -1, keepdims=True)).astype(np.float32)
    ids_TK = np.array([random.sample(range(5), 4) for _ in weights], np.int32)
    logits_TE = np.zeros((len(weights), 5), np.float32)
    found_TK = lower(least)(Seen(0, ids_TK, shares_TK, logits_TE, Held(*held)))
    assert (found_TK % 5 == ids_TK).all() and found_TK.max() < 10
    lowered = {*(found_TK[found_TK >= 5] - 5).tolist()}
    assert not lowered & {*found_TK[found_TK < 5].tolist()} and not lowered & held
    most = {e: shares_TK[ids_TK == e].max() for e in {*ids_TK.flat} - held}
    assert lowered == {e for e, share in most.items() if share < least / 4}


def test_what_is_in_memory_is_preferred_but_for_the_first_choice() -> None:
    # a range of 0.4: the resident ones move up by 0.2
    assert set(Cached(0.5)(seen(Held(4, 3)))[0].tolist()) == {0, 1, 3, 2}
    assert set(Cached(1.0)(seen(Held(4), shares=[[0.1, 0.2, 0.3, 0.4]]))[0]) == {0, 1, 2, 4}
    only_one = seen(Held(4), ids=[[0]], shares=[[1.0]])
    assert Cached(100.0)(only_one).tolist() == [[0]]


def test_where_nothing_is_exchanged_the_slots_are_in_the_routers_order() -> None:
    assert Cached(0.5)(seen(Held(0, 1, 2, 3, 4))).tolist() == IDS


def test_the_range_is_a_mean_over_all_tokens_that_were_seen() -> None:
    rule = Cached(1.0)
    rule(seen(Held(), logits=[[9.0, 0.0, 0.0, 0.0, 0.0]]))
    # the mean of 9 and 1 moves expert 4 past all
    late = seen(Held(4), ids=[[0, 1]], shares=[[0.6, 0.4]], logits=[[1.0, 0.9, 0.8, 0.7, 0.0]])
    assert set(rule(late)[0].tolist()) == {0, 4}


@given(
    st.lists(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([top(1), ser(2, 0.5), top_p(0.3), cold(1.0), naee({0: 0.9})]),
)
def test_the_first_choice_of_every_token_is_kept_and_nothing_is_added(weights, rule) -> None:
    shares_TK = np.array(weights, np.float32) / np.sum(weights, -1, keepdims=True)
    ids_TK = np.tile(np.array(IDS, np.int32), (len(weights), 1))
    logits_TE = np.zeros((len(weights), 5), np.float32)
    found_TK = rule(Seen(0, ids_TK, shares_TK.astype(np.float32), logits_TE, Held()))
    assert ((found_TK == ids_TK) | (found_TK == -1)).all()
    first_T = np.take_along_axis(found_TK, shares_TK.argmax(-1)[:, None], -1)
    assert (first_T >= 0).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model"
    with open_folder(bundled()) as source:
        save_packed(source, path, recipe_of_bits(8))
    return path


TOKENS = torch.tensor([list(range(40, 72))])


def logits_of(model) -> torch.Tensor:
    return model(TOKENS).logits


def test_a_rule_that_keeps_everything_changes_no_bit(folder) -> None:
    model = load(folder, threads=2)
    own = logits_of(model)
    for rule in ("top:4", "ser:4,0.5", "top-p:1", "cold:0.5", "cached:0.5"):
        found = approximate(model, rule)
        assert torch.equal(logits_of(model), own), rule
        assert found.kept == found.choices and found.exchanged == 0


def test_fewer_experts_are_weighed_as_the_router_would_weigh_them(folder) -> None:
    model = load(folder, threads=2)
    weights = []
    approximate(model, "top:2")
    model.watch = lambda layer, _, ids_TK, weight_TK: weights.append(
        (np.array(ids_TK), np.array(weight_TK))
    )
    logits_of(model)
    for ids_TK, weight_TK in weights:
        assert (np.sort(ids_TK, -1)[:, :2] == -1).all() and (ids_TK.max(-1) >= 0).all()
        assert (weight_TK[ids_TK < 0] == 0).all() and (weight_TK[ids_TK >= 0] > 0).all()


def test_where_the_router_divides_by_a_sum_so_do_the_rules() -> None:
    router = Router(norm_p=1)
    mixture = Mixture(num_experts=5, num_chosen=4, expert_size=8, router=router)
    layer = SimpleNamespace(feed_forward=mixture)
    model = SimpleNamespace(config=SimpleNamespace(layers=[layer]), store=None)
    view, zeros = seen(), np.zeros(1, np.int64)
    shares = np.array(SHARES, np.float32)
    found = Approximation("top:2", top(2), model)
    ids, weights = found(0, zeros, zeros, view.ids_TK, shares, view.logits_TE)
    assert ids.tolist() == [[-1, -1, 1, 0]]
    assert weights[0] == pytest.approx([0, 0, 3 / 7, 4 / 7])
    assert (found.choices, found.kept, found.exchanged) == (4, 2, 0)
    found = Approximation("other", lambda _: np.array([[0, 4, -1, -1]], np.int32), model)
    weights = found(0, zeros, zeros, view.ids_TK, shares, view.logits_TE)[1]
    # expert 4's logit is 0.4 below expert 0's
    assert weights[0] == pytest.approx([1 / (1 + np.exp(-0.4)), 1 / (1 + np.exp(0.4)), 0, 0])
    assert (found.choices, found.kept, found.exchanged) == (4, 1, 1)


def test_a_lowered_expert_keeps_its_weight_to_the_bit_and_is_counted() -> None:
    router = Router(norm_p=2)
    mixture = Mixture(num_experts=5, num_chosen=4, expert_size=8, router=router)
    layer = SimpleNamespace(feed_forward=mixture)
    model = SimpleNamespace(config=SimpleNamespace(layers=[layer]), store=Held(3))
    weights = np.random.default_rng(0).random((50, 4), np.float32)
    weights /= np.linalg.norm(weights, axis=-1, keepdims=True)
    ids, zeros = np.tile(np.array(IDS, np.int32), (50, 1)), np.zeros(50, np.int64)
    found = Approximation("lower:9", lower(9.0), model)
    new_ids, new_weights = found(0, zeros, zeros, ids, weights, np.zeros((50, 5), np.float32))
    assert (new_ids == ids + np.array([0, 5, 5, 5])).all()
    assert new_weights.dtype == np.float32 and (new_weights == weights).all()
    assert (found.choices, found.kept, found.exchanged, found.lowered) == (200, 200, 0, 150)
    assert "0.0% exchanged, 75.0% computed from lower copies; answers" in str(found)


def test_an_exchanged_expert_has_the_weight_of_the_routers_softmax(folder) -> None:
    model = stream(packed_apart(folder, 2), 40, 2)
    found = approximate(model, "cached:2")
    seen_logits = {}

    def spy(layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE):
        ids, weights = found(layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE)
        seen_logits[layer] = (ids, weights, np.array(logits_TE))
        return ids, weights

    model.rechoose = spy
    logits_of(model)
    logits_of(model)
    assert model.config.layers[0].feed_forward.router.norm_p is None and found.exchanged > 0
    for ids, weights, logits in seen_logits.values():
        scores = np.exp(logits.astype(np.float64))
        scores /= scores.sum(-1, keepdims=True)
        assert np.allclose(weights, np.take_along_axis(scores, ids, -1), atol=1e-5)
    model.store.close()


def test_cold_experts_are_left_out_and_less_is_read(folder) -> None:
    missed = {}
    for rule in (None, "cold:1"):
        model = stream(packed_apart(folder, 2), 40, 2, read_ahead=False)
        found = approximate(model, rule) if rule else None
        cache = model.new_cache()
        for token in TOKENS[0].tolist():
            model(torch.tensor([[token]]), cache=cache, logits="last")
        missed[rule] = model.store.tally.misses
        model.store.close()
    assert missed["cold:1"] < missed[None] and found is not None
    assert (
        found.kept < found.choices and "left out" in str(found) and "not the model's" in str(found)
    )


def test_naee_leaves_out_about_the_share_that_it_was_told_to(folder) -> None:
    model = load(folder, threads=2)
    ids = TOKENS[0].tolist()
    found = approximate(model, "naee:0.5", ids)
    logits_of(model)
    # half of three of four
    assert (found.choices - found.kept) / found.choices == pytest.approx(0.375, abs=0.03)
    least = least_beside(load(folder, threads=2), 0.25, ids)
    assert set(least) == set(model.config.mixture_layers)
    assert all(0.0 < value < 1.0 for value in least.values())


@pytest.mark.parametrize(
    "text",
    ["", "top", "top:", "top:0", "top:1.5", "top:x", "ser:2", "ser:2,1,3", "top-p:2", "naee:-1",
     "cold:-1", "cold:nan", "lower:-1", "lower:1,2", "lower:2000",
     "cached:inf", "best:3"],
)  # fmt: skip
def test_a_rule_that_is_not_known_is_refused_with_those_that_are(folder, text) -> None:
    model = load(folder, threads=1)
    with pytest.raises(InputError) as caught:
        approximate(model, text)
    assert all(form in str(caught.value.hint) for form in FORMS)
    assert model.rechoose is None


def test_naee_without_a_text_is_refused(folder) -> None:
    with pytest.raises(InputError, match="reads a text first"):
        approximate(load(folder, threads=1), "naee:0.5")
