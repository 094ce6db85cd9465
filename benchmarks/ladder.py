"""VRAM above RAM, on a device of set bandwidths: `python -m benchmarks.ladder`.

The real ladder and tier over made-up work and a clock that only work moves, so that every figure is
exact and the same on every machine. Choices are drawn as real routers were seen to choose. Beside
the ladder: the processor alone, and the device alone, which copies whatever it lacks.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from expertly.bench.modelled import MEASURED, drawn
from expertly.device import DeviceTier, HostExpert
from expertly.device.protocol import Floats
from expertly.store import ExpectedUse
from expertly.store.ladder import Ladder
from expertly.store.split import Split

LAYERS, EXPERTS, CHOSEN = 12, 64, 8
# a prompt's tokens at once, and how many times; then tokens one by one, those that are not counted
# and those that are
PROMPT, PROMPTS, WARM, DECODED = 256, 3, 50, 150


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Seconds and bytes of one expert. On both sides its weights are read once, then each row
    takes its time."""

    num_slots: int = 230
    expert_bytes: int = 8_000_000
    link_bytes_per_second: float = 20e9
    latency: float = 1e-5
    stage: float = 0.0
    launch: float = 1e-5
    host: float = 2e-4
    host_row: float = 2e-5
    device: float = 2e-5
    device_row: float = 2e-7

    @property
    def copy(self) -> float:
        return self.latency + self.expert_bytes / self.link_bytes_per_second


# experts that are unpacked on their way keep the processor busy
MACHINES = {
    "fast link": Machine(link_bytes_per_second=50e9),
    "slow link": Machine(link_bytes_per_second=2e9),
    "tiny arena": Machine(num_slots=6),
    "unpacked on the way": Machine(stage=5e-3),
    "slow device": Machine(device=8e-4, device_row=8e-5),
    "quick processor": Machine(host=1e-5, host_row=1e-6, launch=3e-5),
    "dear launches": Machine(
        num_slots=LAYERS * EXPERTS, launch=5e-5, host=2.8e-5, host_row=1.5e-6, device=1.7e-6
    ),
    "everything fits": Machine(num_slots=LAYERS * EXPERTS),
}


class Clock:
    """Time that passes only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds

    def reach(self, moment: float) -> None:
        self.now = max(self.now, moment)


class Promise:
    """Something that is done at a moment; it fails if it was to fail."""

    def __init__(self, clock: Clock, moment: float, seconds: float, *, is_lost: bool) -> None:
        self._clock = clock
        self.moment, self.seconds, self.is_lost = moment, seconds, is_lost

    def is_done(self) -> bool:
        return self._clock.now >= self.moment

    def reach(self) -> None:
        self._clock.reach(self.moment)
        if self.is_lost:
            raise RuntimeError("lost on the way")


class SimulatedCopy(Promise):
    def wait(self) -> float:
        self.reach()
        return self.seconds


class SimulatedAnswer(Promise):
    def wait(self) -> tuple[Floats, float]:
        self.reach()
        return np.zeros((0, 0), np.float32), self.seconds


class SimulatedDevice:
    """Copies one after another, and answers too; `fails()` says of each copy whether it will."""

    def __init__(
        self, machine: Machine, clock: Clock, fails: Callable[[], bool] = lambda: False
    ) -> None:
        self.slot_bytes = machine.expert_bytes
        self._machine, self._clock, self._fails = machine, clock, fails
        self._link_free = self._free = 0.0
        self._copies: dict[int, SimulatedCopy] = {}
        self._used: dict[int, float] = {}

    def copy(self, slot: int, expert: HostExpert) -> SimulatedCopy:
        self._clock.work(self._machine.stage)
        begin = max(self._clock.now, self._link_free, self._used.get(slot, 0.0))
        seconds = self._machine.copy
        self._link_free = begin + seconds
        copy = SimulatedCopy(self._clock, self._link_free, seconds, is_lost=self._fails())
        self._copies[slot] = copy
        return copy

    def compute(self, slots: Sequence[int], counts: Sequence[int], x_RD: Floats) -> SimulatedAnswer:
        machine = self._machine
        self._clock.work(machine.launch)
        copies = [self._copies[slot] for slot in slots]
        begin = max(self._clock.now, self._free, *(copy.moment for copy in copies))
        seconds = machine.device * len(slots) + machine.device_row * sum(counts)
        self._free = begin + seconds
        self._used.update(dict.fromkeys(slots, self._free))
        is_lost = any(copy.is_lost for copy in copies)
        return SimulatedAnswer(self._clock, self._free, seconds, is_lost=is_lost)

    def close(self) -> None:
        pass


class SimulatedWork:
    """A layer's rows on the processor; `done` counts how often each expert was computed."""

    def __init__(self, machine: Machine, clock: Clock, rows: Mapping[int, int]) -> None:
        self._machine, self._clock, self._rows = machine, clock, rows
        self.done: Counter[int] = Counter()

    def rows_of(self, experts: Sequence[int]) -> Floats:
        return np.zeros((sum(self._rows[e] for e in experts), 0), np.float32)

    def put_rows(self, experts: Sequence[int], y_RD: Floats) -> None:
        self.done.update(experts)

    def add(self, experts: Sequence[int]) -> None:
        machine = self._machine
        rows = sum(self._rows[e] for e in experts)
        self._clock.work(machine.host * len(experts) + machine.host_row * rows)
        self.done.update(experts)


class DeviceAlone(Ladder):
    """Whatever the device lacks is copied to it first."""

    def plan(
        self, now: float, layer: int, rows: Mapping[int, int], in_memory: Collection[int]
    ) -> Split:
        super().plan(now, layer, rows, in_memory)
        held = tuple(e for e in rows if self.holds((layer, e)))
        return Split(held, tuple(e for e in rows if e not in held), (), 0.0)

    def unmeasured(
        self, layer: int, rows: Mapping[int, int], in_memory: Collection[int]
    ) -> list[int]:
        return []

    def wants(self, now: float, key: tuple[int, int]) -> bool:
        return False


class Run:
    """A tier on a machine, and the choices that it is given."""

    def __init__(self, machine: Machine, kind: type[Ladder] = Ladder) -> None:
        self.machine, self.clock = machine, Clock()
        self.ladder = kind(machine.num_slots, ExpectedUse([EXPERTS] * LAYERS))
        device = SimulatedDevice(machine, self.clock)
        # a made-up device copies nothing
        self._tier = DeviceTier(device, self.ladder, lambda layer, expert: None, self.clock)  # type: ignore[arg-type,return-value]
        self._tier.fill([EXPERTS] * LAYERS, 1, None)

    def seconds(self, turns: Sequence[Mapping[int, int]]) -> float:
        """Of turns, each of the next layer."""
        begin = self.clock.now
        for turn, rows in enumerate(turns):
            work = SimulatedWork(self.machine, self.clock, rows)
            self._tier.run(turn % LAYERS, rows, work)
            assert work.done == Counter(list(rows)), "each expert is computed once"
        return self.clock.now - begin


def turns_of(first: int, tokens: int, at_once: int) -> list[Counter[int]]:
    """Rows of each chosen expert, turn by turn, of tokens from `first` on."""
    last = PROMPT * PROMPTS + WARM + DECODED
    made = drawn(MEASURED, [EXPERTS] * LAYERS, [CHOSEN] * LAYERS, tokens=last)
    nothing, ids = np.zeros((1, CHOSEN), np.float32), np.zeros((1, CHOSEN), np.int32)
    turns = []
    for begin in range(first, first + tokens, at_once):
        position_T = np.arange(begin, begin + at_once)
        for layer in range(LAYERS):
            chosen, _ = made(layer, np.zeros_like(position_T), position_T, ids, nothing, nothing)
            turns.append(Counter(sorted(chosen.ravel().tolist())))
    return turns


@cache
def work() -> tuple[list[Counter[int]], list[Counter[int]], list[Counter[int]]]:
    """Turns of a prompt, of tokens that only warm the arena, and of those that are counted."""
    first = PROMPT * PROMPTS
    prompt, warm = turns_of(0, first, PROMPT), turns_of(first, WARM, 1)
    return prompt, warm, turns_of(first + WARM, DECODED, 1)


def host_alone(machine: Machine, turns: Sequence[Mapping[int, int]]) -> float:
    experts, rows = sum(map(len, turns)), sum(sum(turn.values()) for turn in turns)
    return machine.host * experts + machine.host_row * rows


def compare(machine: Machine) -> dict[str, dict[str, float]]:
    """Tokens a second of prompts and of decoding."""
    prompt, warm, decode = work()
    ladder, device = Run(machine), Run(machine, DeviceAlone)
    found: dict[str, dict[str, float]] = {}
    for name, turns, tokens in (("prompt", prompt, PROMPT * PROMPTS), ("", warm, WARM),
                                ("decode", decode, DECODED)):  # fmt: skip
        seconds = {
            "ladder": ladder.seconds(turns),
            "processor": host_alone(machine, turns),
            "device": device.seconds(turns),
        }
        if name:
            found[name] = {who: tokens / taken for who, taken in seconds.items()}
    return found


def main() -> None:
    found = {name: compare(machine) for name, machine in MACHINES.items()}
    print("tokens/s, of experts alone | ladder | processor alone | device and copies alone")
    for name, phases in found.items():
        for phase, rates in phases.items():
            said = " | ".join(f"{rate:,.1f}" for rate in rates.values())
            print(f"{name}, {phase} | {said}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
