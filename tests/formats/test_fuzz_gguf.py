"""A small share of the mutants, and whether the fuzzer sees what it is there to see."""

import os
import time
from collections.abc import Callable
from itertools import count

import fuzz_gguf
import pytest
from fuzz_mutate import Mutator
from fuzz_seeds import gguf_seeds
from fuzz_work import Result, checked, fuzz

SEEDS = gguf_seeds()
FOREVER = float("inf")


def test_no_mutant_of_ten_thousand_gets_past_the_reader() -> None:
    result = checked(fuzz_gguf.check, Mutator(SEEDS, salt=1), range(10_000), FOREVER, [0, 0])
    assert result.finds == []
    assert result.mutants == 10_000
    # most are refused and many are not: both ways through the reader are walked
    assert 1_000 < result.accepted < 5_000


def test_all_seeds_are_files_and_most_of_their_mutants_differ() -> None:
    assert len(SEEDS) >= 6 and all(fuzz_gguf.check(data) for data in SEEDS)
    mutator = Mutator(SEEDS)
    made = [mutator.mutant(number) for number in range(1000)]
    assert len({*made, *SEEDS}) > 900
    assert made == [Mutator(SEEDS).mutant(number) for number in range(1000)]
    assert made != [Mutator(SEEDS, salt=2).mutant(number) for number in range(1000)]


class Numbers:
    """Mutants that are their own numbers."""

    def mutant(self, number: int) -> bytes:
        return bytes([number])


def when(number: int, act: Callable[[], object]) -> Callable[[bytes], bool]:
    """A check that acts on one mutant and accepts the even ones of the rest."""

    def check(data: bytes) -> bool:
        if data[0] == number:
            act()
        return data[0] % 2 == 0

    return check


def fail() -> None:
    raise KeyError("of the parser")


def use_a_second() -> None:
    until = time.process_time() + 1.05
    while time.process_time() < until:
        pass


def take_memory() -> int:
    return len(bytes(1 << 30))


def fuzzed(
    check: Callable[[bytes], bool],
    jobs: int = 2,
    seconds: float = 60.0,
    stuck_seconds: float = 1.5,
) -> Result:
    return fuzz(check, Numbers(), 20, seconds, jobs, stuck_seconds=stuck_seconds)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (fail, "KeyError: 'of the parser'"),
        (lambda: os._exit(3), "killed the process: exit code 3"),
        (lambda: time.sleep(600), "no answer in 1.5 seconds"),
        (use_a_second, "took 1."),
        (take_memory, "MemoryError"),
    ],
    ids=["another error", "a crash", "a hang", "slow", "memory"],
)
def test_each_kind_of_find_is_seen_and_the_rest_goes_on(
    act: Callable[[], object], said: str
) -> None:
    # a second of work takes many on a machine with other things to do
    result = fuzzed(when(7, act), stuck_seconds=30.0 if act is use_a_second else 1.5)
    assert [find.number for find in result.finds] == [7]
    assert said in result.finds[0].what
    assert result.mutants == 20
    assert result.accepted == 10


@pytest.mark.parametrize("jobs", [1, 2, 30])
def test_every_mutant_is_checked_once_whatever_the_number_of_workers(jobs: int) -> None:
    result = fuzzed(when(99, fail), jobs)
    assert (result.mutants, result.accepted, result.finds) == (20, 10, [])


def test_a_crash_of_the_last_mutant_ends_the_run() -> None:
    result = fuzzed(when(19, lambda: os._exit(1)))
    assert (result.mutants, [find.number for find in result.finds]) == (20, [19])


def test_time_that_is_up_ends_the_run() -> None:
    assert fuzzed(when(99, fail), seconds=-1.0) == Result()


def test_memory_beyond_four_files_and_16_mib_is_a_find() -> None:
    kept: list[bytes] = []
    check = when(0, lambda: kept.append(bytes(17 << 20)))
    (find,) = checked(check, Numbers(), range(3), FOREVER, [0, 0]).finds
    assert find.number == 0 and "bytes for a file of 1" in find.what


def test_a_find_is_kept_under_its_number_and_the_exit_code_is_1(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = count()

    def check(data: bytes) -> bool:
        # the seeds are checked before the mutants
        if next(numbers) >= len(SEEDS):
            fail()
        return True

    monkeypatch.setattr(fuzz_gguf, "check", check)
    keep = os.path.join(tmp_path, "finds")
    options = ["--mutants", "3", "--jobs", "1", "--keep", keep]
    monkeypatch.setattr("sys.argv", ["fuzz_gguf.py", *options])
    assert fuzz_gguf.main() == 1
    assert sorted(os.listdir(keep)) == ["gguf-0.bin", "gguf-1.bin", "gguf-2.bin"]
    with open(os.path.join(keep, "gguf-1.bin"), "rb") as file:
        assert file.read() == Mutator(SEEDS).mutant(1)
    assert '"finds": 3' in capsys.readouterr().out


@pytest.mark.parametrize("salt", [0, 5])
def test_a_run_without_finds_ends_with_one_line_and_exit_code_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], salt: int
) -> None:
    options = ["--mutants", "500", "--jobs", "1", "--salt", str(salt)]
    monkeypatch.setattr("sys.argv", ["fuzz_gguf.py", *options])
    assert fuzz_gguf.main() == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert '"parser": "gguf", "mutants": 500' in said and '"finds": 0' in said
