"""Cache policies, by traces whose answer is known."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import cyclic, skewed

from expertly.store.expected import ExpectedUse
from expertly.store.policies import Frequency, Lru, PerLayer, Pinned
from expertly.store.replay import belady, policies, replay, working_set

NUM_EXPERTS, NUM_CHOSEN = [16] * 6, [3] * 6
NAMES = list(policies(NUM_EXPERTS, NUM_CHOSEN, 10))


def of_one_layer(text: str) -> list[tuple[int, tuple[int, ...]]]:
    """A letter a token, one expert each."""
    return [(0, (ord(letter) - ord("a"),)) for letter in text]


def made(name: str, capacity: int):
    return policies(NUM_EXPERTS, NUM_CHOSEN, capacity)[name]()


def test_lru_hits_what_was_used_within_its_capacity() -> None:
    # a b a: hit; c lets b go; a: hit; b is gone
    count = replay(of_one_layer("abacab"), Lru(), capacity=2)
    assert (count.hits, count.misses) == (2, 4)


def test_lfu_keeps_what_was_used_most() -> None:
    # a is used three times; b and c displace each other
    count = replay(of_one_layer("aaabcbca"), Frequency(), capacity=2)
    assert (count.hits, count.misses) == (3, 5)


def test_a_short_memory_forgets_an_old_favourite() -> None:
    text = "a" * 20 + "bcbcbcbcbc"
    assert replay(of_one_layer(text), Frequency(), 2).hits == 19
    # after a few uses of b and c, a's twenty count less
    assert replay(of_one_layer(text), Frequency(half_life=1.0), 2).hits > 25


def test_scores_survive_being_brought_down() -> None:
    # a half-life of a use: weights double, and leave the range of floats every thousand uses
    text = "abc" * 1500
    brief, lru = Frequency(half_life=0.5), Lru()
    assert replay(of_one_layer(text), brief, 2) == replay(of_one_layer(text), lru, 2)


def test_belady_by_hand() -> None:
    # a b c a b, 2 places: c is not taken in, or displaces what comes last
    assert belady(of_one_layer("abcab"), 2).hits == 2
    assert belady(of_one_layer("abcab"), 2, may_bypass=False).hits == 1
    assert belady(of_one_layer("abcabc"), 3).hits == 3
    assert belady([], 2).hit_rate == 0.0


def test_below_one_tokens_working_set_lru_hits_nothing_and_ours_does() -> None:
    trace = cyclic(num_layers=6, num_chosen=3, tokens=50)
    # a turn's own experts do not displace each other, so the cliff is a turn below the working set
    capacity = working_set(NUM_CHOSEN) - 3
    assert replay(trace, Lru(), capacity).hits == 0
    ours = replay(trace, ExpectedUse(NUM_EXPERTS), capacity)
    best = belady(trace, capacity)
    assert best.hits > 0 and ours.hits >= 0.75 * best.hits


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_below_the_cliff_the_default_hits_what_the_best_other_hits(share) -> None:
    trace = skewed(6, 16, 3, tokens=300)
    capacity = int(share * working_set(NUM_CHOSEN))
    hits = {name: replay(trace, made(name, capacity), capacity).hits for name in NAMES}
    assert hits["expected"] >= 0.95 * max(hits[name] for name in ("lru", "lfu", "decayed"))
    assert hits["lru"] < 0.5 * hits["expected"]


@pytest.mark.parametrize("name", NAMES)
def test_with_room_for_all_every_policy_misses_each_expert_once(name) -> None:
    trace = skewed(6, 16, 3, tokens=100)
    used = {(layer, expert) for layer, experts in trace for expert in experts}
    assert replay(trace, made(name, 96), 96).misses == len(used)


def test_a_pinned_set_stays_while_anything_else_can_go() -> None:
    hot = {(0, 0)}
    text = "a" + "bcdefg" * 3 + "a"
    assert replay(of_one_layer(text), Lru(), 2).hits == 0
    assert replay(of_one_layer(text), Pinned(hot, Lru()), 2).hits == 1
    # and goes where nothing else can
    policy = Pinned(hot, Lru())
    policy.add((0, 0))
    assert policy.victim((0, 1), ()) == (0, 0)
    assert policy.victim((0, 1), {(0, 0)}) is None
    policy.drop((0, 0))
    assert policy.victim((0, 1), ()) is None


def test_a_layer_with_its_share_gives_up_one_of_its_own() -> None:
    policy = PerLayer(Lru, num_layers=2, capacity=4)
    for key in ((0, 0), (0, 1), (1, 0), (1, 1)):
        policy.touch(key[0], [key[1]])
        policy.add(key)
    assert policy.victim((0, 5), ()) == (0, 0) and policy.victim((1, 5), ()) == (1, 0)
    # all of its own are kept: then the fullest other
    assert policy.victim((1, 5), {(1, 0), (1, 1)}) == (0, 0)
    policy.drop((1, 0))
    assert policy.victim((1, 5), ()) == (0, 0)


def test_expected_use_prefers_the_likelier_and_the_sooner() -> None:
    policy = ExpectedUse([4, 0, 4])
    for turn in range(20):
        policy.touch(0, [0, 1] if turn % 4 == 0 else [0])
        policy.touch(2, [0])
    for key in ((0, 0), (0, 1), (2, 0)):
        policy.add(key)
    assert policy.victim((2, 3), ()) == (0, 1)
    # equally likely: layer 0 comes before layer 2
    assert policy.victim((2, 3), {(0, 1)}) == (2, 0)
    assert policy.victim((2, 3), {(0, 1), (2, 0), (0, 0)}) is None


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_asked_a_victim_is_held_and_not_kept(name, data) -> None:
    policy, held = made(name, 8), set()
    for _ in range(data.draw(st.integers(1, 60))):
        layer = data.draw(st.integers(0, 5))
        experts = data.draw(st.sets(st.integers(0, 15), min_size=1, max_size=3))
        policy.touch(layer, experts)
        kept = {(layer, expert) for expert in experts}
        for key in kept - held:
            if len(held) >= 8:
                victim = policy.victim(key, kept)
                assert victim in held and victim not in kept
                assert policy.victim(key, held) is None
                policy.drop(victim)
                held.remove(victim)
            policy.add(key)
            held.add(key)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), capacity=st.integers(1, 60))
def test_no_policy_beats_belady(seed, capacity) -> None:
    trace = skewed(6, 16, 3, tokens=30, seed=seed)
    best = belady(trace, capacity)
    forced = belady(trace, capacity, may_bypass=False)
    assert forced.hits <= best.hits
    for name in NAMES:
        count = replay(trace, made(name, capacity), capacity)
        assert count.hits <= best.hits
        assert count.hits + count.misses == best.hits + best.misses


def used_and_held(held: list[int], turns: list[tuple[int, ...]]) -> ExpectedUse:
    """Two experts in one layer; 2 and 3 are their lower copies."""
    policy = ExpectedUse([2], has_lower=True)
    for expert in held:
        policy.add((0, expert))
    for turn in turns:
        policy.touch(0, turn)
    return policy


def test_a_lower_copy_goes_first_while_its_expert_is_held_however_often_it_was_used() -> None:
    policy = used_and_held([0, 1, 2], [(2,)] * 9 + [(0,), (1,)])
    assert policy.victim((0, 3), ()) == (0, 2)
    assert policy.victim((0, 3), {(0, 2)}) == (0, 1)
    policy.drop((0, 0))
    assert policy.victim((0, 3), ()) == (0, 1)
    policy.forget()
    assert policy.victim((0, 3), ()) is None


def test_a_full_copy_stays_by_all_uses_of_its_expert() -> None:
    # by uses of its own, expert 0 would go
    turns = [(0,), (1,), (1,), *[(2,)] * 3]
    assert used_and_held([0, 1], turns).victim((0, 3), ()) == (0, 1)
    plain = ExpectedUse([4])
    plain.add((0, 0)), plain.add((0, 1))
    for turn in turns:
        plain.touch(0, turn)
    assert plain.victim((0, 3), ()) == (0, 0)


def test_layers_of_different_sizes_number_their_lower_copies_each_for_itself() -> None:
    policy = ExpectedUse([1, 0, 3], has_lower=True)
    for key in ((0, 0), (0, 1), (2, 1), (2, 4), (2, 5)):
        policy.add(key)
    policy.touch(0, (0, 1)), policy.touch(2, (1, 4, 5))
    assert policy.victim((2, 0), ()) == (0, 1)
    policy.drop((0, 1))
    assert policy.victim((2, 0), ()) == (2, 4)
