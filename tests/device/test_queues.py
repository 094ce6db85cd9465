"""What waits for what on a GPU: the marks that copies and answers set and heed, with queues that
write them down in place of streams."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from test_torch_device import D, F, expert_of, rows

from expertly.device import TorchDevice
from expertly.device import torch_device as module
from expertly.device.torch_device import slot_numbers

Log = list[tuple[str, str]]


class Mark:
    """An event: reached when somebody waits for it."""

    def __init__(self, name: str, log: Log) -> None:
        self.name, self._log = name, log
        self.is_reached = False

    def synchronize(self) -> None:
        self._log.append(("wait", self.name))
        self.is_reached = True

    def query(self) -> bool:
        return self.is_reached

    def elapsed_time(self, other: "Mark") -> float:
        assert other.is_reached
        return 250.0


class Queue:
    """Names its marks `link 0`, `link 1`, ..., or `work ...` for the second queue that is made."""

    made = 0

    def __init__(self, device: torch.device) -> None:
        self.name = ("link", "work")[Queue.made % 2]
        Queue.made += 1
        self.log: Log = []
        self._marks = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        yield

    def mark(self) -> Mark:
        self._marks += 1
        self.log.append(("mark", f"{self.name} {self._marks - 1}"))
        return Mark(f"{self.name} {self._marks - 1}", self.log)

    def after(self, mark: Mark | None) -> None:
        if mark is not None:
            self.log.append(("after", mark.name))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchDevice]:
    monkeypatch.setattr(module, "_Queue", Queue)
    Queue.made = 0
    made = TorchDevice(torch.device("cpu"), 2, slot_numbers(D, F), torch.float32)
    yield made
    made.close()


def logs(device: TorchDevice) -> tuple[Log, Log]:
    return device._link.log, device._work.log  # type: ignore[attr-defined]


def test_an_answer_begins_after_the_copies_of_its_slots(device: TorchDevice) -> None:
    device.copy(0, expert_of(1))
    device.copy(1, expert_of(2))
    device.compute([1, 0], [1, 1], rows(2))
    _, work = logs(device)
    # a copy lies between two marks
    assert work == [
        ("after", "link 3"),
        ("after", "link 1"),
        ("mark", "work 0"),
        ("mark", "work 1"),
    ]


def test_a_copy_begins_after_the_last_answer_that_needs_its_slot(device: TorchDevice) -> None:
    device.copy(0, expert_of(1))
    device.compute([0], [1], rows(1))
    device.compute([0], [1], rows(1))
    device.copy(0, expert_of(2))
    link, _ = logs(device)
    assert link[2:] == [("after", "work 3"), ("mark", "link 2"), ("mark", "link 3")]


def test_a_slot_that_nobody_computed_with_is_not_waited_for(device: TorchDevice) -> None:
    device.copy(0, expert_of(1))
    device.compute([0], [1], rows(1))
    device.copy(1, expert_of(2))
    assert "after" not in [what for what, _ in logs(device)[0]]


def test_a_buffer_is_filled_again_only_when_it_was_sent(device: TorchDevice) -> None:
    for turn in range(4):
        device.copy(turn % 2, expert_of(turn))
    waits = [name for what, name in logs(device)[0] if what == "wait"]
    # two buffers: the third copy waits for the first, the fourth for the second
    assert waits == ["link 1", "link 3"]


def test_a_failed_copy_leaves_the_buffers_in_order(device: TorchDevice) -> None:
    device.copy(0, expert_of(0))
    device.copy(1, expert_of(1))
    with pytest.raises(RuntimeError):
        device.copy(0, expert_of(2, width=2 * F))
    device.copy(0, expert_of(3))
    device.copy(1, expert_of(4))
    waits = [name for what, name in logs(device)[0] if what == "wait"]
    assert waits[0] == "link 1" and {"link 1", "link 3"} <= set(waits)


def test_a_copy_of_several_buffers_takes_the_time_of_all(
    monkeypatch: pytest.MonkeyPatch, device: TorchDevice
) -> None:
    monkeypatch.setattr(module, "_PART_NUMBERS", D * F)
    for buffer in device._buffers:
        buffer.size = D * F
    copy = device.copy(0, expert_of(1))
    assert not copy.is_done()
    # gate, up and down in a buffer each, both biases in one
    assert copy.wait() == 4 * 0.25
    assert copy.is_done()


def test_an_answer_is_read_when_it_is_there(device: TorchDevice) -> None:
    device.copy(0, expert_of(1))
    answer = device.compute([0], [2], rows(2))
    assert ("wait", "work 1") not in logs(device)[1]
    y_RD, seconds = answer.wait()
    assert ("wait", "work 1") in logs(device)[1]
    assert y_RD.shape == (2, D) and seconds == 0.25
