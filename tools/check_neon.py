"""Do the NEON kernels agree with the generic ones? Runs csrc/tests on emulated processors.

    python tools/check_neon.py [--build build/check-neon] [--jobs 2]

Needs cmake and two Debian packages: apt-get install g++-aarch64-linux-gnu qemu-user
Emulation shows that results are right, and nothing of speed. Prints a line for each set of kernels
that a processor is offered; exit code 1 if one fails or another set was expected, 2 if a program
is missing.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
CROSS = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_CXX_COMPILER={COMPILER}",
)
# processors as the emulator names them, and the sets that they must be offered, best first
PROCESSORS: Mapping[str, tuple[str, ...]] = {
    "max": ("neon-i8mm", "neon", "generic"),
    "neoverse-n1": ("neon", "generic"),  # dot products, no matrix products
    "cortex-a57": ("generic",),  # neither
}


@dataclass(frozen=True)
class Outcome:
    """What a run of check_kernels printed."""

    exit_code: int
    checks: Mapping[str, int]  # of each set, in order
    failures: Sequence[str]  # a line each


def missing(*programs: str) -> list[str]:
    """Those of the programs that are not on the path."""
    return [name for name in programs if shutil.which(name) is None]


def build(folder: Path, *options: str, jobs: int = 2) -> Path:
    """Compiles csrc/tests into `folder`; where the program is. CalledProcessError: it does not."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DEXPERTLY_CHECKS=ON", *options]
    make = ["cmake", "--build", str(folder), "-j", str(jobs)]
    for command in (configure, make):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "check_kernels"


def emulated(program: Path, processor: str) -> list[str]:
    return [EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu", processor, str(program)]


def outcome(command: Sequence[str | Path]) -> Outcome:
    """Runs the program; the lines of its sets, and of its failures."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    checks, failures = {}, []
    for line in ran.stdout.splitlines():
        if summary := re.fullmatch(r"(\S+): (\d+) checks, \d+ failures", line):
            checks[summary[1]] = int(summary[2])
        else:
            failures.append(line)
    return Outcome(ran.returncode, checks, failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "check-neon")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if absent := missing("cmake", COMPILER, EMULATOR):
        print(f"missing: {', '.join(absent)}", file=sys.stderr)
        print("hint: apt-get install cmake g++-aarch64-linux-gnu qemu-user", file=sys.stderr)
        return 2
    program = build(args.build, *CROSS, jobs=args.jobs)
    is_good = True
    for processor, sets in PROCESSORS.items():
        found = outcome(emulated(program, processor))
        for line in found.failures:
            print(f"{processor}: {line}")
        for name, checks in found.checks.items():
            print(f"{processor}: {name}: {checks} checks")
        is_right = found.exit_code == 0 and tuple(found.checks) == sets
        if not is_right:
            print(f"{processor}: exit code {found.exit_code}, expected sets: {', '.join(sets)}")
        is_good &= is_right
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
