"""Attention over the paged cache: every kernel set against the definition, and to the bit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from expertly import _native
from expertly.kernels import reference

PAGE, CHUNK = 64, 512
# float32 sums over up to 1,100 positions in another order, e^x to 2 units in the last place
TOLERANCE = 2e-6
SETS = _native.kernel_sets()
# plain C++ is slow: it has the same code, and runs fewer of the long cases
FAST_SETS = [name for name in SETS if name != "generic"] or SETS

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    heads: int
    groups: int
    head_size: int
    lengths: tuple[int, ...]
    window: int = 0
    has_sinks: bool = False
    seed: int = 0


def to_half(x: Floats) -> Floats:
    return np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32)


class Cache:
    """Sequences in a page pool whose unused slots are NaN, and what they hold as arrays."""

    def __init__(self, runtime: _native.Runtime, case: Case) -> None:
        self.runtime, self.case = runtime, case
        # the layer under test lies between others of other shapes
        self.pool = _native.PagePool([1, case.groups, 3], [2, case.head_size, 4])
        rng = np.random.default_rng(case.seed)
        width, kv = case.heads * case.head_size, case.groups * case.head_size
        self.q, self.k, self.v = (
            [rng.standard_normal((n, size), np.float32) for n in case.lengths]
            for size in (width, kv, kv)
        )
        self.sinks = rng.standard_normal(case.heads, np.float32) if case.has_sinks else None
        count = max(-(-n // PAGE) for n in case.lengths)
        self.pages = np.full((len(case.lengths), count), -1, np.int32)
        # pages of the sequences in turn, so that none's are in order
        for place in range(count):
            for sequence, length in enumerate(case.lengths):
                if place * PAGE < length:
                    self.pages[sequence, place] = self._take()

    def _take(self) -> int:
        page = self.pool.take()
        self.pool.array(page).view(np.float16)[:] = np.nan
        return page

    def append(self, sequence: int, position: int) -> None:
        page = int(self.pages[sequence, position // PAGE])
        k, v = self.k[sequence][position], self.v[sequence][position]
        _native.append(self.runtime, self.pool, 1, page, position % PAGE, k, v)

    def append_all(self) -> "Cache":
        for sequence, length in enumerate(self.case.lengths):
            for position in range(length):
                self.append(sequence, position)
        return self

    def attend(
        self, rows: Sequence[tuple[int, int]], runtime: _native.Runtime | None = None
    ) -> Floats:
        """Results of (sequence, position) pairs, from poisoned memory."""
        q = np.stack([self.q[sequence][position] for sequence, position in rows])
        y = np.full_like(q, np.nan)
        sequence, position = np.array(rows, np.int32).reshape(-1, 2).T.copy()
        _native.attend(
            runtime or self.runtime,
            self.pool,
            1,
            q,
            sequence,
            position,
            self.pages,
            y,
            window=self.case.window,
            sinks=self.sinks,
        )
        return y

    def expected(self, sequence: int) -> Floats:
        """What the definition gives for all rows of a sequence, keys and values as float16."""
        case, N = self.case, self.case.lengths[sequence]
        q, k, v = (
            torch.from_numpy(x).view(1, N, -1, case.head_size).transpose(1, 2)
            for x in (
                self.q[sequence],
                to_half(self.k[sequence]),
                to_half(self.v[sequence]),
            )
        )
        position = torch.arange(N)
        seen = position <= position[:, None]
        if case.window:
            seen &= position > position[:, None] - case.window
        sinks = None if self.sinks is None else torch.from_numpy(self.sinks)
        y = reference.attention(q, k, v, seen[None], sinks)
        return y.transpose(1, 2).reshape(N, -1).numpy()


def rows_of(case: Case) -> list[tuple[int, int]]:
    return [(s, p) for s, length in enumerate(case.lengths) for p in range(length)]


def check(case: Case, kernels: str, threads: int = 1) -> None:
    cache = Cache(_native.Runtime(threads, kernels), case).append_all()
    expected = np.concatenate([cache.expected(s) for s in range(len(case.lengths))])
    np.testing.assert_allclose(cache.attend(rows_of(case)), expected, rtol=0, atol=TOLERANCE)


CASES = {
    "one token": Case(4, 4, 16, (1,)),
    "a head each": Case(3, 3, 10, (70,)),
    "four heads a group": Case(8, 2, 24, (70, 3)),
    "eight heads a group": Case(16, 2, 40, (65,)),
    "twelve heads a group": Case(12, 1, 6, (33,)),
    "smallest head": Case(2, 1, 2, (20,)),
    "model's head": Case(8, 1, 128, (80,)),
    "head of 80": Case(5, 1, 80, (40,)),
    "window": Case(4, 2, 24, (200, 7), window=50),
    "window of one token": Case(4, 2, 6, (20,), window=1),
    "sinks": Case(8, 2, 24, (70, 64), has_sinks=True),
    "sinks and window": Case(8, 1, 64, (150,), window=64, has_sinks=True),
    "many sequences": Case(4, 2, 6, (1, 64, 65, 2, 128, 3)),
}
LONG_CASES = {
    "two chunks": Case(4, 1, 16, (CHUNK + 3,)),
    "two chunks and a window": Case(2, 2, 10, (2 * CHUNK + 70,), window=CHUNK - 1),
    "window over a chunk's border": Case(3, 1, 6, (CHUNK + 40, 30), window=20, has_sinks=True),
    "whole chunks": Case(2, 1, 32, (2 * CHUNK, CHUNK)),
}


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_attention_over_pages_is_attention(case: Case, kernels: str) -> None:
    check(case, kernels)


@pytest.mark.parametrize("kernels", FAST_SETS)
@pytest.mark.parametrize("case", LONG_CASES.values(), ids=LONG_CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_attention_over_chunks_is_attention(case: Case, kernels: str, threads: int) -> None:
    check(case, kernels, threads)


def test_attention_over_chunks_is_attention_in_plain_code() -> None:
    check(Case(1, 1, 4, (CHUNK + 3,), window=300), "generic")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups = draw(st.integers(1, 3))
    return Case(
        heads=groups * draw(st.integers(1, 9)),
        groups=groups,
        head_size=2 * draw(st.integers(1, 35)),
        lengths=tuple(draw(st.lists(st.integers(1, 140), min_size=1, max_size=3))),
        window=draw(st.sampled_from([0, 1, 2, 9, 63, 64, 65, 100])),
        has_sinks=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=25, deadline=None)
@given(case=cases(), kernels=st.sampled_from(FAST_SETS), threads=st.integers(1, 2))
def test_attention_of_any_shape_is_attention(case: Case, kernels: str, threads: int) -> None:
    check(case, kernels, threads)


BIT_CASES = {
    "groups": Case(8, 2, 24, (130, 70)),
    "a head each, window, sinks": Case(3, 3, 10, (150,), window=40, has_sinks=True),
    "chunks": Case(4, 1, 6, (CHUNK + 70, 3), has_sinks=True),
    "chunks and a window": Case(2, 1, 6, (CHUNK + 70,), window=100),
    "wide": Case(16, 2, 80, (66,)),
}


@pytest.mark.parametrize("kernels", FAST_SETS)
@pytest.mark.parametrize("case", BIT_CASES.values(), ids=BIT_CASES)
class TestToTheBit:
    def test_a_token_alone_is_as_in_the_whole_call(self, case: Case, kernels: str) -> None:
        cache = Cache(_native.Runtime(1, kernels), case).append_all()
        rows = rows_of(case)
        alone = [cache.attend([row]) for row in rows]
        np.testing.assert_array_equal(np.concatenate(alone), cache.attend(rows))

    def test_tokens_appended_one_by_one_are_as_in_one_call(self, case: Case, kernels: str) -> None:
        cache = Cache(_native.Runtime(1, kernels), case)
        found = []
        for sequence, position in rows_of(case):
            cache.append(sequence, position)
            found.append(cache.attend([(sequence, position)]))
        np.testing.assert_array_equal(np.concatenate(found), cache.attend(rows_of(case)))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_prompt_in_random_pieces_is_as_in_one_call(
        self, case: Case, kernels: str, seed: int
    ) -> None:
        cache = Cache(_native.Runtime(1, kernels), case).append_all()
        rows = rows_of(case)
        rng = np.random.default_rng(seed)
        cuts = sorted(rng.integers(0, len(rows), 5).tolist())
        pieces = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        found = [cache.attend(piece) for piece in pieces if piece]
        np.testing.assert_array_equal(np.concatenate(found), cache.attend(rows))

    @pytest.mark.parametrize("threads", [2, 5])
    def test_more_threads_change_nothing(self, case: Case, kernels: str, threads: int) -> None:
        cache = Cache(_native.Runtime(1, kernels), case).append_all()
        many = _native.Runtime(threads, kernels)
        rows = rows_of(case)
        np.testing.assert_array_equal(cache.attend(rows, many), cache.attend(rows))
        last = rows[-1:]
        np.testing.assert_array_equal(cache.attend(last, many), cache.attend(last))

    def test_the_order_of_rows_changes_nothing(self, case: Case, kernels: str) -> None:
        cache = Cache(_native.Runtime(2, kernels), case).append_all()
        rows = rows_of(case)
        order = np.random.default_rng(0).permutation(len(rows))
        mixed = cache.attend([rows[i] for i in order])
        np.testing.assert_array_equal(mixed, cache.attend(rows)[order])

    def test_kernel_sets_agree(self, case: Case, kernels: str) -> None:
        cache = Cache(_native.Runtime(1, kernels), case).append_all()
        rows = rows_of(case)[-5:]
        plain = cache.attend(rows, _native.Runtime(1, "generic"))
        np.testing.assert_array_equal(cache.attend(rows), plain)


@pytest.mark.parametrize("kernels", SETS)
def test_later_tokens_do_not_reach_earlier_rows_even_as_nan(kernels: str) -> None:
    case = Case(8, 4, 6, (40,))
    cache = Cache(_native.Runtime(1, kernels), case).append_all()
    rows = rows_of(case)
    clean = cache.attend(rows)
    cache.k[0][37], cache.v[0][37] = np.nan, np.nan
    cache.append(0, 37)
    found = cache.attend(rows)
    np.testing.assert_array_equal(found[:37], clean[:37])
    assert np.isnan(found[37:]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 37, 299])
@pytest.mark.parametrize("kernels", SETS)
def test_a_query_that_is_not_finite_is_never_hidden(
    kernels: str, position: int, value: float
) -> None:
    cache = Cache(_native.Runtime(1, kernels), Case(8, 4, 6, (300,))).append_all()
    rows = rows_of(cache.case)
    clean = cache.attend(rows)
    cache.q[0][position, 2] = value  # of the first head
    found = cache.attend(rows)
    others = np.arange(300) != position
    np.testing.assert_array_equal(found[others], clean[others])
    assert np.isnan(found[position, :6]).all()
    np.testing.assert_array_equal(found[position, 6:], clean[position, 6:])


@pytest.mark.parametrize("kernels", SETS)
def test_a_key_that_is_not_a_number_is_never_hidden(kernels: str) -> None:
    cache = Cache(_native.Runtime(1, kernels), Case(8, 4, 6, (300,))).append_all()
    rows = rows_of(cache.case)
    clean = cache.attend(rows)
    cache.k[0][37, 2] = np.nan  # of the first group: its two heads
    cache.append(0, 37)
    found = cache.attend(rows)
    np.testing.assert_array_equal(found[:37], clean[:37])
    assert np.isnan(found[37:, :12]).all()
    np.testing.assert_array_equal(found[37:, 12:], clean[37:, 12:])


@pytest.mark.parametrize("kernels", SETS)
def test_scores_far_apart_neither_overflow_nor_vanish(kernels: str) -> None:
    case = Case(1, 1, 2, (3,))
    cache = Cache(_native.Runtime(1, kernels), case)
    cache.q[0][:] = [[1000.0, 0.0]] * 3
    cache.k[0][:] = [[-1000.0, 0.0], [1000.0, 0.0], [1000.0, 0.0]]
    cache.v[0][:] = [[5.0, 1.0], [3.0, 2.0], [4.0, 0.0]]
    found = cache.append_all().attend(rows_of(case))
    np.testing.assert_allclose(found, [[5.0, 1.0], [3.0, 2.0], [3.5, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("kernels", SETS)
def test_a_sink_takes_its_share_of_the_softmax(kernels: str) -> None:
    case = Case(2, 1, 2, (1,), has_sinks=True)
    cache = Cache(_native.Runtime(1, kernels), case)
    cache.q[0][:], cache.v[0][:] = 0.0, [[6.0, 3.0]]
    # logits 0 and ln 2: a third is left; a sink that outweighs all leaves nothing
    cache.sinks = np.array([np.log(2.0), 200.0], np.float32)
    found = cache.append_all().attend([(0, 0)])
    np.testing.assert_allclose(found, [[2.0, 1.0, 0.0, 0.0]], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("kernels", SETS)
def test_a_scale_multiplies_scores(kernels: str) -> None:
    case = Case(1, 1, 4, (2,))
    cache = Cache(_native.Runtime(1, kernels), case).append_all()
    doubled = np.full((1, 4), np.nan, np.float32)
    arrays = (np.array([0], np.int32), np.array([1], np.int32), cache.pages)
    q = cache.q[0][1:]
    _native.attend(cache.runtime, cache.pool, 1, q, *arrays, doubled, scale=1.0)
    cache.q[0][1] *= 2.0
    np.testing.assert_allclose(cache.attend([(0, 1)]), doubled, rtol=1e-6)


@pytest.mark.parametrize("kernels", SETS)
def test_no_rows_are_no_work(kernels: str) -> None:
    pool, empty = _native.PagePool([1], [2]), np.zeros(0, np.int32)
    rows = np.zeros((0, 2), np.float32)
    pages = np.zeros((1, 0), np.int32)
    _native.attend(_native.Runtime(2, kernels), pool, 0, rows, empty, empty, pages, rows.copy())


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("head_size", [2, 10, 64, 80])
def test_keys_lie_in_blocks_of_sixteen_positions_and_values_in_rows(
    kernels: str, head_size: int
) -> None:
    G, C = 3, head_size
    pool = _native.PagePool([2, G], [6, C])
    page = pool.take()
    rng = np.random.default_rng(0)
    k, v = rng.standard_normal((2, PAGE, G * C), np.float32)
    runtime = _native.Runtime(1, kernels)
    for slot in range(PAGE):
        _native.append(runtime, pool, 1, page, slot, k[slot], v[slot])
    start = 2 * 2 * 6 * PAGE
    keys, values = pool.array(page).view(np.float16)[start:][: 2 * G * C * PAGE].reshape(2, -1)
    by_block = k.reshape(4, 16, G, C).transpose(2, 0, 3, 1)
    np.testing.assert_array_equal(keys.reshape(G, 4, C, 16), by_block.astype(np.float16))
    by_head = v.reshape(PAGE, G, C).transpose(1, 0, 2)
    np.testing.assert_array_equal(values.reshape(G, PAGE, C), by_head.astype(np.float16))
    assert not pool.array(page)[:start].any()


@pytest.mark.parametrize("kernels", SETS)
def test_what_float16_cannot_hold_is_kept_at_its_limit(kernels: str) -> None:
    pool = _native.PagePool([1], [6])
    page = pool.take()
    k = np.array([1e6, -1e6, np.inf, -np.inf, 65520.0, 2.0**-25], np.float32)
    v = np.array([2.0**-24, -0.0, np.nan, 65504.0, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11], np.float32)
    _native.append(_native.Runtime(1, kernels), pool, 0, page, 0, k, v)
    halves = pool.array(page).view(np.float16)
    limit = 65504.0
    np.testing.assert_array_equal(halves[0:96:16], [limit, -limit, limit, -limit, limit, 0.0])
    values = halves[PAGE * 6 :][:6]
    expected = [2.0**-24, 0.0, np.nan, limit, 1.0, 1.0 + 2.0**-9]
    np.testing.assert_array_equal(values, np.array(expected, np.float16))
    assert np.signbit(values[1])


def test_pages_are_taken_once_released_once_and_used_again() -> None:
    pool = _native.PagePool([1, 2], [2, 4])
    pages = [pool.take() for _ in range(200)]
    assert sorted(pages) == list(range(200))
    assert pool.pages_in_use == 200
    for page in pages[::2]:
        pool.release(page)
    assert pool.pages_in_use == 100
    assert {pool.take() for _ in range(100)} == set(pages[::2])
    pool.release(7)
    with pytest.raises(ValueError, match="not taken"):
        pool.release(7)
    with pytest.raises(ValueError, match="not taken"):
        pool.array(7)


def test_growing_leaves_pages_where_they_are() -> None:
    pool = _native.PagePool([1], [64])
    array = pool.array(pool.take())
    array[:] = 7
    others = [pool.array(pool.take()) for _ in range(300)]
    for other in others:
        other[:] = 1
    assert (array == 7).all()
    assert all(other.ctypes.data % 64 == 0 for other in [array, *others])


def test_a_page_outlives_its_pool_in_python() -> None:
    pool = _native.PagePool([1], [64])
    array = pool.array(pool.take())
    del pool
    array[:] = 3
    assert array.sum() == 3 * len(array)


def test_a_page_holds_all_layers_in_float16() -> None:
    pool = _native.PagePool([4, 2], [128, 64])
    least = 2 * 2 * PAGE * (4 * 128 + 2 * 64)
    assert least <= pool.page_bytes <= least + 128


@pytest.mark.parametrize(
    ("groups", "sizes"), [([], []), ([1], [2, 2]), ([0], [2]), ([1], [3]), ([1], [0])]
)
def test_caches_of_impossible_shapes_are_refused(groups: list[int], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="cache needs"):
        _native.PagePool(groups, sizes)


@pytest.mark.parametrize(
    ("layer", "heads", "sequence", "position", "window", "message"),
    [
        (1, 2, 0, 0, 0, "layer"),
        (-1, 2, 0, 0, 0, "layer"),
        (0, 3, 0, 0, 0, "queries"),
        (0, 2, 1, 0, 0, "no page"),
        (0, 2, -1, 0, 0, "no page"),
        (0, 2, 0, 128, 0, "no page"),
        (0, 2, 0, -1, 0, "no page"),
        (0, 2, 0, 64, 0, "not taken"),
        (0, 2, 0, 0, -1, "window"),
    ],
)
def test_attending_outside_the_cache_is_refused(
    layer: int, heads: int, sequence: int, position: int, window: int, message: str
) -> None:
    pool = _native.PagePool([2], [4])
    pages = np.array([[pool.take(), 99]], np.int32)
    rows = np.zeros((1, 4 * heads), np.float32)
    where = (np.array([sequence], np.int32), np.array([position], np.int32))
    with pytest.raises(ValueError, match=message):
        _native.attend(
            _native.Runtime(1), pool, layer, rows, *where, pages, rows.copy(), window=window
        )
