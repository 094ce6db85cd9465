"""The check program of csrc/tests: passes here and on emulated ARM, and finds what is wrong."""

import re
import sys
from pathlib import Path

import check_neon
import pytest
from check_neon import COMPILER, CROSS, EMULATOR, PROCESSORS, build, emulated, missing, outcome
from native_cases import FORMATS

from expertly import _native

# a build takes half a minute, and so do some of the runs
slow = pytest.mark.slow

# of each set
MIN_CHECKS = 30_000
CSRC = Path(__file__).parents[2] / "csrc"


def functions() -> set[str]:
    """What a set of kernels offers: members of two structs, but for the probes."""
    members = {"tile"}
    for file, struct in (("kernels.h", "Kernels"), ("attention_chunk.h", "AttentionKernels")):
        body = re.search(rf"struct {struct} {{(.*?)\n}};", (CSRC / file).read_text(), re.DOTALL)
        assert body is not None
        members |= set(re.findall(r"\(\*(\w+)\)", body[1]))
    return members


def built(tmp_path_factory: pytest.TempPathFactory, needs: list[str], *options: str) -> Path:
    if absent := missing("cmake", *needs):
        pytest.skip(f"not installed: {', '.join(absent)}")
    return build(tmp_path_factory.mktemp("checks"), *options)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory, ["c++"])


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory, [COMPILER, EMULATOR], *CROSS)


@slow
def test_every_set_that_this_processor_offers_passes(program: Path) -> None:
    found = outcome([program])
    assert found.failures == [] and found.exit_code == 0
    assert list(found.checks) == _native.kernel_sets()
    assert min(found.checks.values()) > MIN_CHECKS


@slow
def test_every_function_is_found_that_is_off_by_one_bit(program: Path) -> None:
    found = outcome([program, "faulty"])
    assert found.exit_code == 1
    # a new function needs a check and a fault too
    assert set(found.checks) == functions()
    assert {line.partition(":")[0] for line in found.failures} == functions()
    tiles = [line.split()[1].strip(",") for line in found.failures if line.startswith("tile: ")]
    assert set(tiles) == set(FORMATS)


@slow
def test_a_kernel_that_reads_past_its_row_is_killed(program: Path) -> None:
    assert outcome([program, "overrunning"]).exit_code < 0


@slow
def test_no_sanitizer_has_anything_to_say(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UBSAN_OPTIONS", "halt_on_error=1")
    found = outcome([built(tmp_path_factory, ["c++"], "-DEXPERTLY_SANITIZE=ON")])
    assert found.failures == [] and found.exit_code == 0


@slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_an_emulated_processor_passes_with_the_sets_that_it_has(
    arm_program: Path, processor: str
) -> None:
    found = outcome(emulated(arm_program, processor))
    assert found.failures == [] and found.exit_code == 0
    assert tuple(found.checks) == PROCESSORS[processor]
    assert min(found.checks.values()) > MIN_CHECKS


def printing(*lines: str, exit_code: int = 0) -> list[str]:
    """A command that does what a check program might."""
    script = f"print({chr(10).join(lines)!r}); raise SystemExit({exit_code})"
    return [sys.executable, "-c", script]


def test_sets_and_failures_are_told_apart() -> None:
    lines = ("neon: dot of 3 numbers: number 0 is 1, not 2", "neon: 12 checks, 1 failures")
    found = outcome(printing(*lines, "generic: 9 checks, 0 failures", exit_code=1))
    assert found.checks == {"neon": 12, "generic": 9} and found.exit_code == 1
    assert found.failures == [lines[0]]


@pytest.mark.parametrize(
    ("lines", "exit_code", "expected"),
    [
        (("neon: 5 checks, 0 failures", "generic: 5 checks, 0 failures"), 0, 0),
        (("neon: 5 checks, 0 failures", "generic: 5 checks, 0 failures"), 1, 1),
        (("generic: 5 checks, 0 failures",), 0, 1),
        (("neon: 5 checks, 0 failures",), 139, 1),
    ],
    ids=["as expected", "failed", "a set is missing", "killed before the last set"],
)
def test_the_tool_fails_when_checks_do_or_sets_are_missing(
    monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], exit_code: int, expected: int
) -> None:
    monkeypatch.setattr("sys.argv", ["check_neon"])
    monkeypatch.setattr(check_neon, "PROCESSORS", {"max": ("neon", "generic")})
    monkeypatch.setattr(check_neon, "missing", lambda *programs: [])
    monkeypatch.setattr(check_neon, "build", lambda folder, *options, jobs: folder)
    command = printing(*lines, exit_code=exit_code)
    monkeypatch.setattr(check_neon, "emulated", lambda program, processor: command)
    assert check_neon.main() == expected


def test_programs_that_are_missing_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check_neon"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_neon.main() == 2
    assert capsys.readouterr().err.splitlines() == [
        f"missing: cmake, {COMPILER}, {EMULATOR}",
        "hint: apt-get install cmake g++-aarch64-linux-gnu qemu-user",
    ]
