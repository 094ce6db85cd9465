import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertly.bench.work import DECODE_STEPS, Work, plan
from expertly.errors import InputError


def planned(prefill: list[int], decode: list[int], batch: list[int]) -> list[Work]:
    return plan(prefill, decode, batch, vocab_size=100, max_context=1000)


def test_prompts_come_first_then_contexts_then_batches() -> None:
    works = planned([64, 16], [200, 0], [8, 1])
    assert [str(work) for work in works] == [
        "prefill of 16",
        "prefill of 64",
        "decode at 0",
        "decode at 200",
        "decode at 0, 8 streams",
    ]


def test_a_prefill_is_one_call_into_an_empty_cache() -> None:
    (work,) = planned([16], [], [1])
    assert (work.phase, work.batch, work.context, work.room) == ("prefill", 1, 0, 16)
    assert len(work.calls) == 1 and work.num_tokens == 16


def test_decoding_adds_a_token_to_every_stream_a_call() -> None:
    (work,) = planned([], [5], [3])
    assert (work.phase, work.batch, work.context, work.room) == ("decode", 3, 5, DECODE_STEPS)
    assert len(work.calls) == DECODE_STEPS
    assert all(len(call) == 3 and all(len(ids) == 1 for ids in call) for call in work.calls)
    assert work.num_tokens == 3 * DECODE_STEPS


def test_streams_have_prompts_and_continuations_of_their_own() -> None:
    (work,) = planned([], [40], [4])
    assert len(set(work.prompts)) == 4
    continuations = {tuple(call[stream] for call in work.calls) for stream in range(4)}
    assert len(continuations) == 4


def test_the_same_plan_has_the_same_ids() -> None:
    assert planned([9], [0, 4], [1, 2]) == planned([9], [0, 4], [1, 2])


@given(vocab_size=st.integers(1, 300), tokens=st.integers(1, 50))
def test_ids_are_of_the_vocabulary(vocab_size: int, tokens: int) -> None:
    works = plan([tokens], [tokens], [2], vocab_size=vocab_size, max_context=1000)
    ids = {id_ for work in works for call in work.calls for part in call for id_ in part}
    ids |= {id_ for work in works for prompt in work.prompts for id_ in prompt}
    assert min(ids) >= 0 and max(ids) < vocab_size


@pytest.mark.parametrize(
    ("prefill", "decode", "batch", "named"),
    [
        ([], [], [1], "nothing to measure"),
        ([], [0], [], "nothing to measure"),
        ([0], [], [1], "prefill [0]"),
        ([5], [0], [0], "batch [0]"),
        ([5], [-1], [1], "batch [1]"),
        ([1001], [], [1], "1001 tokens"),
        ([], [980], [1], "1012 tokens"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    prefill: list[int], decode: list[int], batch: list[int], named: str
) -> None:
    with pytest.raises(InputError) as caught:
        planned(prefill, decode, batch)
    assert named in caught.value.message and caught.value.hint
