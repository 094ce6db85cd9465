import itertools

from bench_fakes import FakeModel

from expertly.bench import Ours, plan
from expertly.bench.work import DECODE_STEPS, Work


def decoding(context: int, streams: int) -> Work:
    (work,) = plan([], [context], [streams], vocab_size=50, max_context=4096)
    return work


def test_prompts_go_into_a_cache_of_the_batch_s_size_in_chunks() -> None:
    model = FakeModel()
    Ours(model).prepare(decoding(1100, 2))
    assert model.seen == [((2, 512), 0), ((2, 512), 512), ((2, 76), 1024)]
    assert [cache.batch_size for cache in model.caches] == [2]


def test_an_empty_context_needs_no_call_before_the_first_step() -> None:
    model = FakeModel()
    ours, work = Ours(model), decoding(0, 3)
    ours.prepare(work)
    assert model.seen == []
    ours.seconds(work)
    assert model.seen == [((3, 1), step) for step in range(DECODE_STEPS)]


def test_every_run_begins_at_the_same_length() -> None:
    model, work = FakeModel(), decoding(5, 1)
    ours = Ours(model)
    ours.prepare(work)
    for _ in range(3):
        ours.seconds(work)
        ours.touched(work)
        assert model.caches[-1].length == 5
    assert [length for shape, length in model.seen if shape == (1, 1)] == [*range(5, 37)] * 6


def test_only_the_calls_are_timed() -> None:
    ticks = itertools.count(step=7)
    model = FakeModel()
    ours, work = Ours(model, clock=lambda: float(next(ticks))), decoding(5, 1)
    ours.prepare(work)
    assert ours.seconds(work) == 7.0


def test_experts_are_counted_once_a_call_however_many_streams_want_them() -> None:
    calls = (((0,), (4,)), ((0,), (1,)), ((0,), (2,)))
    work = Work(phase="decode", prompts=((), ()), calls=calls)
    ours = Ours(FakeModel())
    ours.prepare(work)
    # 0 and 1; 0, 1 and 2; all four
    assert ours.touched(work) == [2 + 3 + 4] * 2


def test_a_new_piece_of_work_gets_a_new_cache() -> None:
    model = FakeModel()
    ours = Ours(model)
    ours.prepare(decoding(5, 1))
    ours.prepare(decoding(0, 4))
    assert [cache.batch_size for cache in model.caches] == [1, 4]
    assert ours.touched(decoding(0, 4)) != [0, 0]
