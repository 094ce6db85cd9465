"""Who computes what, by hand-made times."""

from hypothesis import given
from hypothesis import strategies as st

from expertly.store.split import Costs, Job, Split, split


def costs_of(
    host: float = 0.0,
    *,
    launch: float = 0.0,
    device: float = 0.0,
    stage: float = 0.0,
    link: float = 0.0,
) -> Costs:
    """Seconds of an expert with 16 rows, half of them its own share and half its rows'; of a
    copy."""
    costs = Costs()
    for pace, seconds in ((costs.host, host), (costs.device, device)):
        pace.took(seconds, 1, 16)
    costs.launch.took(launch, 1, 1)
    costs.stage.took(stage, 1, 0)
    costs.link.took(link, 1, 0)
    return costs


def held(*experts: int, rows: int = 16, arrival: float = 0.0) -> list[Job]:
    return [Job(expert, rows, arrival) for expert in experts]


def missing(*experts: int, rows: int = 16) -> list[Job]:
    return [Job(expert, rows, None) for expert in experts]


def test_a_quick_device_computes_what_it_has_and_the_processor_the_rest() -> None:
    costs = costs_of(host=10.0, device=1.0, link=100.0)
    found = split([*held(1, 2), *missing(3)], costs, lag=0.0, most_copies=9)
    assert found == Split(held=(1, 2), copied=(), host=(3,), seconds=10.0)


def test_a_copy_is_made_when_it_and_its_answer_come_before_the_processors() -> None:
    # two on the processor take 20; one there and one copied are done after max(10, 7 + 1)
    costs = costs_of(host=10.0, device=1.0, link=7.0)
    found = split(missing(1, 2), costs, lag=0.0, most_copies=9)
    assert (found.copied, found.host, found.seconds) == ((1,), (2,), 10.0)


def test_copies_that_are_under_way_make_a_new_one_come_later() -> None:
    costs = costs_of(host=10.0, device=1.0, link=7.0)
    found = split(missing(1, 2), costs, lag=13.0, most_copies=9)
    assert (found.copied, found.host, found.seconds) == ((), (1, 2), 20.0)


def test_the_experts_with_the_most_rows_are_copied() -> None:
    costs = costs_of(host=16.0, device=0.001, link=5.0)
    jobs = [*missing(1, rows=4), *missing(2, rows=400), *missing(3, rows=40)]
    # on the processor 10, 208 and 28 seconds
    found = split(jobs, costs, lag=0.0, most_copies=9)
    assert (found.copied, found.host) == ((2, 3), (1,))


def test_no_more_is_copied_than_may_be() -> None:
    costs = costs_of(host=10.0, device=0.1, link=0.1)
    found = split(missing(1, 2, 3, 4), costs, lag=0.0, most_copies=2)
    assert len(found.copied) == 2 and len(found.host) == 2


def test_preparing_a_copy_keeps_the_processor_from_computing() -> None:
    cheap = split(missing(1, 2), costs_of(host=10.0, link=1.0), lag=0.0, most_copies=9)
    assert cheap.copied == (1, 2)
    dear = split(missing(1, 2), costs_of(host=10.0, link=1.0, stage=12.0), lag=0.0, most_copies=9)
    assert dear.copied == () and dear.seconds == 20.0


def test_nothing_is_copied_for_now_before_any_copy_was_measured() -> None:
    assert split(missing(1, 2), costs_of(host=10.0), lag=0.0, most_copies=9).copied == ()


def test_a_slow_device_leaves_some_of_its_own_to_the_processor() -> None:
    # four at 2 a piece on the device, or 3 a piece on the processor
    costs = costs_of(host=3.0, device=2.0)
    found = split(held(1, 2, 3, 4), costs, lag=0.0, most_copies=0)
    assert (len(found.held), len(found.host), found.seconds) == (3, 1, 6.0)


def test_a_device_slower_than_the_processor_altogether_gets_nothing() -> None:
    costs = costs_of(host=1.0, device=50.0)
    assert split(held(1, 2), costs, lag=0.0, most_copies=0).held == ()


def test_a_part_is_taken_over_only_for_a_tenth_and_all_for_a_hundredth() -> None:
    # nine of ten, and the tenth beside them, are 9 seconds in place of 10
    costs = costs_of(host=8.9, device=1.0)
    assert split(held(*range(10)), costs, lag=0.0, most_copies=0).host == ()
    costs = costs_of(host=4.0, device=1.0)
    assert len(split(held(*range(10)), costs, lag=0.0, most_copies=0).host) == 2
    # two on the device take 2, here 1.97
    costs = costs_of(host=0.985, device=1.0)
    assert split(held(1), costs, lag=0.0, most_copies=0).host == (1,)
    costs = costs_of(host=0.995, device=1.0)
    assert split(held(1), costs, lag=0.0, most_copies=0).host == ()


def test_what_would_need_a_disk_first_stays_with_a_slow_device() -> None:
    jobs = [Job(1, 16, 0.0, is_in_memory=False), Job(2, 16, 0.0)]
    found = split(jobs, costs_of(host=1.0, device=50.0), lag=0.0, most_copies=0)
    assert (found.held, found.host) == ((1,), (2,))


def test_an_expert_whose_copy_is_late_is_computed_here_instead() -> None:
    costs = costs_of(host=10.0, device=1.0)
    late = split([*held(1), *held(2, arrival=30.0)], costs, lag=30.0, most_copies=0)
    assert (late.held, late.host) == ((1,), (2,))
    soon = split([*held(1), *held(2, arrival=3.0)], costs, lag=3.0, most_copies=0)
    assert (soon.held, soon.host, soon.seconds) == ((1, 2), (), 4.0)


def test_launching_counts_as_the_processors_work() -> None:
    costs = costs_of(host=10.0, launch=11.0, device=0.1)
    assert split(held(1), costs, lag=0.0, most_copies=0).host == (1,)


def test_a_processor_that_nobody_has_measured_takes_over_nothing() -> None:
    assert split(held(1, 2), costs_of(device=5.0), lag=0.0, most_copies=0).held == (1, 2)


def test_no_experts_take_no_time() -> None:
    assert split([], costs_of(host=1.0), lag=0.0, most_copies=4) == Split((), (), (), 0.0)


SECONDS = st.floats(1e-3, 1e3)


def finish(jobs: list[Job], copied: int, costs: Costs) -> float:
    """All of these are missing: the first are copied, the others computed here."""
    host = device = staged = arrival = 0.0
    for job in jobs[:copied]:
        host += costs.stage.seconds(1, 0) + costs.launch.seconds(1, 1)
        staged += costs.stage.seconds(1, 0)
        arrival = max(arrival, staged) + costs.link.seconds(1, 0)
        device = max(device, arrival) + costs.device.seconds(1, job.rows)
        staged += costs.launch.seconds(1, 1)
    host += sum(costs.host.seconds(1, job.rows) for job in jobs[copied:])
    return max(host, device)


@given(
    st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
    st.lists(st.integers(1, 500), min_size=1, max_size=12),
)
def test_the_number_of_copies_is_the_best_there_is(times, counts) -> None:
    host, launch, device, stage, link = times
    costs = costs_of(host, launch=launch, device=device, stage=stage, link=link)
    jobs = [Job(expert, rows, None) for expert, rows in enumerate(sorted(counts, reverse=True))]
    found = split(jobs, costs, lag=0.0, most_copies=len(jobs))
    best = min(finish(jobs, count, costs) for count in range(len(jobs) + 1))
    # a copy has to bring a hundredth
    assert best * (1 - 1e-9) <= found.seconds <= best / 0.99 * (1 + 1e-9)


@given(
    st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
    st.lists(
        st.tuples(st.integers(1, 500), st.none() | st.floats(0.0, 50.0), st.booleans()), max_size=12
    ),
    st.floats(-5.0, 5.0),
)
def test_every_expert_is_somebodys_and_nobody_alone_would_be_quicker(
    times, given_jobs, lag
) -> None:
    host, launch, device, stage, link = times
    costs = costs_of(host, launch=launch, device=device, stage=stage, link=link)
    jobs = [Job(e, rows, arrival, here) for e, (rows, arrival, here) in enumerate(given_jobs)]
    found = split(jobs, costs, lag, most_copies=len(jobs))
    assert sorted([*found.held, *found.copied, *found.host]) == list(range(len(jobs)))
    by_expert = {job.expert: job for job in jobs}
    assert all(by_expert[e].arrival is not None for e in found.held)
    assert all(by_expert[e].arrival is None for e in found.copied)
    device_only = {e for e, job in by_expert.items() if job.arrival is not None}
    assert all(by_expert[e].is_in_memory for e in found.host if e in device_only)
    missing_alone = [job for job in jobs if job.arrival is None]
    if len(missing_alone) == len(jobs):
        alone = sum(costs.host.seconds(1, job.rows) for job in jobs)
        assert found.seconds <= alone * (1 + 1e-9)
