"""How a memory budget is divided: whole bytes, by hand and by properties."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertly.checkpoint.budget import Budget, reserve_bytes, room_for, with_chunks
from expertly.errors import InputError
from expertly.families import read_config
from expertly.planner import known

QWEN = read_config(known.config(known.name_of("qwen3-30b-a3b")))


def budget(for_experts: int, tokens: int = 8192) -> Budget:
    reserve = reserve_bytes(QWEN, tokens)
    return Budget(total=for_experts + reserve + 100, used=100, reserve=reserve)


def test_a_longer_chunk_keeps_room_for_its_own_rows_and_no_more_cache() -> None:
    # a row, in float32: residual, normed row and two more; queries, keys, values and the answer;
    # of 8 experts their rows, hidden rows and results
    D, size, heads, kv, head = 2048, 768, 32, 4, 128
    row = 4 * (4 * D + 2 * (heads + kv) * head + 8 * (2 * D + size))
    assert reserve_bytes(QWEN, 8192, 2048) - reserve_bytes(QWEN, 8192, 512) == 1536 * row


def test_much_room_for_experts_makes_chunks_long_and_little_leaves_them() -> None:
    assert with_chunks(budget(1 << 40), QWEN, 8192)[1] == 8192
    assert with_chunks(budget(1 << 40), QWEN, 1000)[1] == 512
    found, chunk = with_chunks(budget(1 << 20), QWEN, 8192)
    assert chunk == 512 and found == budget(1 << 20)


@given(st.integers(0, 1 << 36), st.integers(1, 40_000))
def test_experts_keep_at_least_fifteen_sixteenths_of_their_room(room: int, tokens: int) -> None:
    before = budget(room, tokens)
    found, chunk = with_chunks(before, QWEN, tokens)
    assert chunk == 512 or chunk <= tokens
    assert found.for_experts >= before.for_experts * 15 / 16 - 1
    assert (found.total, found.used) == (before.total, before.used)
    assert found.reserve == reserve_bytes(QWEN, tokens, chunk)


def test_room_is_for_what_was_asked_and_otherwise_for_4096_or_the_models_context() -> None:
    assert room_for(None, QWEN) == 4096 and room_for(40_960, QWEN) == 40_960
    assert room_for(None, replace(QWEN, max_context=512)) == 512


@pytest.mark.parametrize("context", [0, -1, 40_961, 10**8])
def test_room_beyond_the_models_context_is_refused(context: int) -> None:
    with pytest.raises(InputError, match=f"room for {context:,} tokens, .* is 40,960"):
        room_for(context, QWEN)
