"""Which of a layer's experts a device computes, which the processor: by when all would be done.

Both work at the same time. The processor launches what the device has, prepares what is copied and
computes the rest; the device computes one expert after another as they are there. An expert's copy
takes the same time whatever its rows, so of those that the device lacks, those with the most rows
are the ones to copy: only how many has to be found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from expertly.store.pace import Pace

# a split has to be so much quicker before anything is copied for it, or all is taken off the device
_MARGIN = 0.99
# and before the processor takes over a part of what the device has: what is guessed wrong costs
# more than the last tenth gains
_TAKEOVER = 0.9


@dataclass(frozen=True, slots=True)
class Job:
    """An expert with rows to compute. `arrival`: seconds until the device has it, 0 for what it
    has, None for what it lacks. `is_in_memory`: the processor could compute it without a disk."""

    expert: int
    rows: int
    arrival: float | None
    is_in_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds. `launch` and `stage` (a copy's preparation) are the processor's, `device` and `link`
    (the copy itself) pass beside it. A launch's share of an "expert" is a call's, its share of a
    "row" an expert's."""

    host: Pace = field(default_factory=Pace)
    launch: Pace = field(default_factory=Pace)
    device: Pace = field(default_factory=Pace)
    stage: Pace = field(default_factory=Pace)
    link: Pace = field(default_factory=Pace)

    def all(self) -> tuple[Pace, ...]:
        return self.host, self.launch, self.device, self.stage, self.link


@dataclass(frozen=True, slots=True)
class Split:
    """Experts that the device has, that are copied to it first, and that the processor computes,
    each in the order of the work; all would be done after `seconds`."""

    held: tuple[int, ...]
    copied: tuple[int, ...]
    host: tuple[int, ...]
    seconds: float


def split(jobs: Sequence[Job], costs: Costs, lag: float, most_copies: int) -> Split:
    """The quickest that was found. `lag`: seconds for which the link is still busy.

    Nothing is copied for now before a copy was measured.
    """
    missing = sorted((job for job in jobs if job.arrival is None), key=lambda job: -job.rows)
    held = sorted(
        (job for job in jobs if job.arrival is not None),
        key=lambda job: (job.arrival, -job.rows),
    )
    if not costs.link.is_known and not costs.stage.is_known:
        most_copies = 0

    def moving(count: int) -> Split:
        moved = movable[:count]
        away = {job.expert for job in moved}
        kept = [job for job in held if job.expert not in away]
        return _with_copies(kept, moved, missing, costs, lag, most_copies)

    # what the processor can take over: first what comes last, then what has the fewest rows
    movable = [job for job in reversed(held) if job.is_in_memory and costs.host.is_known]
    none, everything = moving(0), moving(len(movable))
    some = none
    for count in range(1, len(movable)):
        found = moving(count)
        if found.seconds >= some.seconds:
            break
        some = found
    fit = [none]
    if some.seconds < _TAKEOVER * none.seconds:
        fit.append(some)
    if everything.seconds < _MARGIN * none.seconds:
        fit.append(everything)
    return min(fit, key=lambda each: each.seconds)


def _with_copies(
    held: Sequence[Job],
    moved: Sequence[Job],
    missing: Sequence[Job],
    costs: Costs,
    lag: float,
    most_copies: int,
) -> Split:
    """The best number of copies when the processor computes `moved`."""
    launched = costs.launch.seconds(1, len(held)) if held else 0.0
    host = launched + costs.host.seconds(len(moved) + len(missing), _rows(moved) + _rows(missing))
    device = launched
    for job in held:
        assert job.arrival is not None
        device = max(device, job.arrival) + costs.device.seconds(1, job.rows)
    best, num_copies, needed = max(host, device), 0, max(host, device)
    link, stage = costs.link.seconds(1, 0), costs.stage.seconds(1, 0)
    staged, arrival = launched, max(0.0, lag)
    for count, job in enumerate(missing[:most_copies], 1):
        launch = costs.launch.seconds(1, 1)
        host += stage + launch - costs.host.seconds(1, job.rows)
        staged += stage
        arrival = max(arrival, staged) + link
        device = max(device, arrival) + costs.device.seconds(1, job.rows)
        staged += launch
        needed = max(host, device)
        if needed < best * (_MARGIN if num_copies == 0 else 1.0):
            best, num_copies = needed, count
    return Split(
        held=_experts(held),
        copied=_experts(missing[:num_copies]),
        host=_experts([*missing[num_copies:], *moved]),
        seconds=best,
    )


def _rows(jobs: Sequence[Job]) -> int:
    return sum(job.rows for job in jobs)


def _experts(jobs: Sequence[Job]) -> tuple[int, ...]:
    return tuple(job.expert for job in jobs)
