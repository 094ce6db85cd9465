"""The ladder on simulated machines, by an exact clock: never slower than either side alone."""

import dataclasses

import pytest

from benchmarks.ladder import MACHINES, Machine, Run, compare, host_alone, turns_of

# of the processor alone, what learning and trying may cost
MARGIN = 0.98


@pytest.mark.parametrize("name", MACHINES)
def test_never_below_the_processor_alone_nor_below_the_device_alone(name: str) -> None:
    for phase, rates in compare(MACHINES[name]).items():
        assert rates["ladder"] >= MARGIN * rates["processor"], phase
        assert rates["ladder"] >= MARGIN * rates["device"], phase


def test_a_fast_link_gains_much_over_both() -> None:
    rates = compare(MACHINES["fast link"])["decode"]
    assert rates["ladder"] > 1.3 * max(rates["processor"], rates["device"])


def test_a_copy_that_is_dear_to_prepare_is_made_seldom_but_made() -> None:
    machine = dataclasses.replace(MACHINES["unpacked on the way"], num_slots=230)
    run = Run(machine)
    before = run.ladder.tally.copies
    turns = turns_of(0, 100, 1)
    run.seconds(turns)
    copies = run.ladder.tally.copies - before
    # each turn of eight experts here takes a third of a copy's preparation
    assert 10 < copies < len(turns) / 4


def test_the_simulation_does_what_its_numbers_say() -> None:
    machine = Machine(num_slots=1, host=1.0, host_row=0.5)
    turns = [{1: 1, 2: 3}, {5: 2}]
    assert host_alone(machine, turns) == 1.5 + 2.5 + 2.0
    assert Machine(expert_bytes=1000, link_bytes_per_second=1e3, latency=0.5).copy == 1.5
