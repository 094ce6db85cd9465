"""Experts of little weight that are not in memory come from a copy at fewer bits: exactly those,
and exactly as that copy has them."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lower_models import Oracle, Spy, both, passes
from store_models import damage, pack_bundled

from expertly.checkpoint import load
from expertly.checkpoint.apart import experts_at, packed_apart
from expertly.checkpoint.streamed_loading import stream
from expertly.errors import CheckpointError, InputError
from expertly.formats.packed import expert_key, read
from expertly.model.approximate import approximate
from expertly.store import ExpectedUse, Joined, Streamed

IDS = [1 + 37 * i % 4000 for i in range(32)]
PARTS = [IDS[:9], *([token] for token in IDS[9:])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundled(tmp_path_factory.mktemp("full") / "packed", bits=8)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundled(tmp_path_factory.mktemp("lower") / "packed", bits=4)


@pytest.mark.parametrize("rule", ["lower:0", "lower:1", "lower:1000"])
@pytest.mark.parametrize("num_slots", [1, 9, 50, 128])
def test_two_copies_that_are_alike_give_the_models_own_logits(folder, rule, num_slots) -> None:
    model = both(folder, folder, num_slots, rule)
    assert torch.equal(passes(model, PARTS), passes(load(folder, threads=1), PARTS))
    assert (model.rechoose.lowered > 0) == (rule != "lower:0")
    model.store.close()


@pytest.mark.parametrize("rule", ["lower:0.7", "lower:1", "lower:1000"])
@pytest.mark.parametrize("num_slots", [2, 40, 90])
def test_logits_are_those_of_the_model_with_the_lowered_experts_exchanged(
    folder, smaller, rule, num_slots
) -> None:
    model = both(folder, smaller, num_slots, rule)
    spy = Spy(model)
    found = passes(model, PARTS)
    assert any(spy.lowered())
    assert torch.equal(found, passes(Oracle(folder, smaller, spy.lowered()), PARTS))
    assert not torch.equal(found, passes(load(folder, threads=1), PARTS))
    model.store.close()


def test_a_heavy_expert_is_never_lowered_nor_one_that_is_in_memory(folder, smaller) -> None:
    model = both(folder, smaller, 40, "lower:0.9")
    spy = Spy(model)
    passes(model, PARTS)
    for (_, ids_TK, weight_TK, _, held), lowered in zip(spy.turns, spy.lowered(), strict=True):
        share_TK = weight_TK / weight_TK.sum(-1, keepdims=True)
        for expert in np.unique(ids_TK).tolist():
            is_light = bool((share_TK[ids_TK == expert] < 0.9 / 4).all())
            assert (expert in lowered) == (is_light and not held[expert])
    model.store.close()


def test_what_is_counted_are_copies_and_the_bytes_are_theirs(folder, smaller) -> None:
    model = both(folder, smaller, 128 + 128, "lower:1", read_ahead=False)
    spy = Spy(model)
    passes(model, PARTS)
    tally, sizes = model.store.tally, [experts_at(path).slot_bytes for path in (folder, smaller)]
    used = {(layer, expert) for layer, experts in tally.visits for expert in experts}
    lower = {key for key in used if key[1] >= 32}
    assert tally.misses == len(used)
    assert tally.read_bytes == (len(used) - len(lower)) * sizes[0] + len(lower) * sizes[1]
    assert sizes[1] < 0.7 * sizes[0]
    found_TK = [found_TK for _, _, _, found_TK, _ in spy.turns]
    approximation = spy._rule
    assert approximation.lowered == sum(int((ids >= 32).sum()) for ids in found_TK)
    assert approximation.kept == approximation.choices == len(IDS) * 4 * 4
    share = approximation.lowered / approximation.choices
    assert f"{share:.1%} computed from lower copies" in str(approximation)
    model.store.close()


def test_both_copies_of_an_expert_may_be_in_memory_and_the_full_one_is_then_used(
    folder, smaller
) -> None:
    model = both(folder, smaller, 256, "lower:1000", read_ahead=False)
    full = load(folder, threads=1)
    first = passes(model, [IDS[:1]])
    assert model.rechoose.lowered == 16 and not torch.equal(first, passes(full, [IDS[:1]]))
    for layer in range(4):
        list(model.store.get(layer, range(32)))
    chosen = [[e for e in experts if e >= 32] for _, experts in model.store.tally.visits[:4]]
    for layer, experts in enumerate(chosen):
        assert len(experts) == 4
        assert all(model.store.resident(layer, [*experts, *(e - 32 for e in experts)]))
    assert torch.equal(passes(model, [IDS[:1]]), passes(full, [IDS[:1]]))
    assert model.rechoose.lowered == 16
    model.store.close()


def test_a_lower_copy_in_memory_is_used_again_without_a_read(folder, smaller) -> None:
    model = both(folder, smaller, 256, "lower:1000", read_ahead=False)
    once, before = passes(model, [IDS[:1]]), model.store.tally.read_bytes
    assert torch.equal(passes(model, [IDS[:1]]), once)
    assert model.store.tally.read_bytes == before and model.rechoose.lowered == 32
    model.store.close()


def test_who_watches_sees_experts_whatever_copy_is_computed(folder, smaller) -> None:
    model = both(folder, smaller, 40, "lower:1000")
    spy, seen = Spy(model), []
    model.watch = lambda layer, _, ids_TK, weight_TK: seen.append(np.array(ids_TK))
    found = model(torch.tensor([IDS[:5]]), routings=True)
    assert all((ids == turn[1]).all() for ids, turn in zip(seen, spy.turns, strict=True))
    for routing, turn in zip(found.routings, spy.turns, strict=True):
        assert routing.counts_E.tolist() == np.bincount(turn[1].flat, minlength=32).tolist()
    model.store.close()


def test_a_damaged_lower_copy_is_one_error_that_names_its_file_and_the_next_request_works(
    tmp_path, folder, smaller
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(smaller, copy)
    model = both(folder, copy, 40, "lower:1000", read_ahead=False)
    spy = Spy(model)
    wanted = passes(model, PARTS[:1])
    hurt = sorted(spy.lowered()[2])[0]
    stored = read(copy).blobs[expert_key(2, hurt)]
    damage(stored.file, stored.offset + 100)
    model.store.close()
    model = both(folder, copy, 40, "lower:1000", read_ahead=False)
    with pytest.raises(CheckpointError, match=f"expert {hurt} of layer 2 is damaged") as caught:
        passes(model, PARTS[:1])
    assert str(stored.file) in str(caught.value)
    # without the rule its full copy is read
    rule, model.rechoose = model.rechoose, None
    assert torch.equal(passes(model, PARTS), passes(load(folder, threads=1), PARTS))
    model.rechoose = rule
    damage(stored.file, stored.offset + 100)
    model.store.close()
    model = both(folder, copy, 40, "lower:1000", read_ahead=False)
    assert torch.equal(passes(model, PARTS[:1]), wanted)
    model.store.close()


def test_a_model_without_a_lower_copy_refuses_the_rule(folder) -> None:
    model = stream(packed_apart(folder, 1), 40, 1)
    with pytest.raises(InputError, match="without a lower copy") as caught:
        approximate(model, "lower:1")
    assert "--lower" in caught.value.hint and model.rechoose is None
    model.store.close()


class Written:
    """A source that writes into a slot which copy it is now; `sizes` of all that was read."""

    def __init__(self, name: str, size: int, memory: "Memory") -> None:
        self._name, self._size, self._memory, self.disk = name, size, memory, memory

    def parts(self, key, slot):
        def read() -> None:
            self._memory.slots[slot] = self._name, key
            self._memory.sizes.append(self._size)

        return [read]

    def read_bytes(self, key) -> int:
        return self._size

    def name_of(self, key) -> str:
        return f"{self._name} {key}"


class Memory:
    def __init__(self, num_slots: int) -> None:
        self.slots: list[object] = [None] * num_slots
        self.sizes: list[int] = []

    def close(self) -> None:
        pass


def test_what_goes_wrong_twice_is_told_of_the_copy_that_it_was() -> None:
    memory = Memory(2)
    source = Joined(Written("full", 2, memory), Written("lower", 1, memory), COUNTS)
    source.parts = lambda key, slot: [partial(next, iter(()))]
    store = Streamed(source, 2, ExpectedUse(COUNTS, has_lower=True), lambda *_: None)
    for expert, told in (
        (2, r"full \(2, 2\) could"),
        (7, r"lower \(2, 2\), in its lower copy could"),
    ):
        with pytest.raises(CheckpointError, match=told):
            list(store.get(2, [expert]))
    assert store.slots.num_free == 2
    store.close()


COUNTS = (3, 0, 5)
visits = st.sampled_from([0, 2]).flatmap(
    lambda layer: st.tuples(
        st.just(layer), st.lists(st.integers(0, 2 * COUNTS[layer] - 1), min_size=1, unique=True)
    )
)


@given(st.lists(visits, max_size=25), st.integers(1, 8), st.integers(0, 3))
def test_what_the_store_yields_is_always_the_copy_that_was_asked_for(
    order, num_slots, num_ahead
) -> None:
    memory, slot_of = Memory(num_slots), {}
    source = Joined(Written("full", 2, memory), Written("lower", 1, memory), COUNTS)

    def place(layer: int, expert: int, slot: int) -> None:
        slot_of[layer, expert] = slot

    policy = ExpectedUse(COUNTS, has_lower=True)
    store = Streamed(source, num_slots, policy, place, num_readers=2)
    store.lookahead.allowed = lambda: num_ahead
    try:
        for layer, experts in order:
            count, came = COUNTS[layer], []
            for group in store.get(layer, experts, partial(store.prefetch, 2 - layer, [0, 1, 2])):
                came += group
                for expert in group:
                    name = "full" if expert < count else "lower"
                    assert memory.slots[slot_of[layer, expert]] == (name, (layer, expert % count))
            assert sorted(came) == sorted(experts)
    finally:
        store.close()
    if num_ahead == 0:
        assert store.tally.read_bytes == sum(memory.sizes)
