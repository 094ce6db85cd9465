"""Do the tests notice? Breaks the package in many small ways, one at a time, and runs the tests.

    python tools/mutants.py [--count 200] [--seed 0] [--jobs 2] [--only PART]

Mutants are drawn at random from config, families, mixture and model and run in temporary copies;
the working tree is never touched. Each runs the tests of its folder, cheapest first, to the first
failure. Prints the diff of every survivor and the rate; exit code 1 below 80%.
"""

import argparse
import contextlib
import difflib
import importlib.util
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mutation import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/expertly")
AIM = 0.8
# where a change must be noticed: the tests of its own floor, then those that stand on it
TESTS = {
    "config.py": ["tests/config", "tests/families", "tests/model"],
    "families": ["tests/families", "tests/planner", "tests/model"],
    "mixture": ["tests/mixture", "tests/model"],
    "model": ["tests/model"],
}
COPIED = ["src", "tests", "pyproject.toml"]
KILLED_BY_TIME = -1


@dataclass(frozen=True)
class Case:
    path: Path  # from the root
    mutant: Mutant

    @property
    def part(self) -> str:
        return self.path.relative_to(PACKAGE).parts[0]

    def source(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    def diff(self) -> str:
        before = self.source()
        lines = difflib.unified_diff(
            before.splitlines(), self.mutant.apply(before).splitlines(),
            str(self.path), str(self.path), n=1, lineterm="",
        )  # fmt: skip
        return "\n".join(list(lines)[2:])


def cases(only: str) -> list[Case]:
    """Every mutant of every module whose path contains `only`."""
    tops = [ROOT / PACKAGE / part for part in TESTS]
    files = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*.py"))]
    paths = sorted(path.relative_to(ROOT) for path in files)
    return [
        Case(path, mutant)
        for path in paths
        if only in str(path)
        for mutant in mutants((ROOT / path).read_text(encoding="utf-8"))
    ]


def make_copy(folder: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def write(path: Path, source: str) -> None:
    """Changes a module; its byte code goes too, as it may have the same size and second."""
    path.write_text(source, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def run_tests(copy: Path, tests: list[str], timeout: float) -> int:
    """Exit code of pytest over a copy of the package, or KILLED_BY_TIME.

    A fork of a process that has imported torch and transformers already, but nothing of ours.
    """
    assert "expertly" not in sys.modules
    child = os.fork()
    if child == 0:
        _child(copy, tests)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return KILLED_BY_TIME


def _child(copy: Path, tests: list[str]) -> None:
    code = 3
    try:
        os.setsid()
        os.chdir(copy)
        output = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.path.insert(0, str(copy / "src"))
        os.environ["PYTHONPATH"] = str(copy / "src")
        import hypothesis
        import pytest

        import expertly

        # a failure need not be made small: it is only counted
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
        assert Path(expertly.__file__).is_relative_to(copy), expertly.__file__
        present = [test for test in tests if (copy / test).exists()]
        # what was imported before the fork cannot be rewritten, which pytest warns of
        options = ["-x", "-q", "--hypothesis-seed=0", "--hypothesis-profile=mutants"]
        options += ["-W", "ignore::pytest.PytestWarning"]
        code = int(pytest.main([*options, *present]))
    except BaseException as error:
        # a mutant may break the import itself, which is a way to be noticed
        traceback.print_exc()
        code = 1 if isinstance(error, Exception) else 3
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def preload() -> None:
    import pytest  # noqa: F401
    import torch
    from transformers import MixtralForCausalLM  # noqa: F401

    torch.set_num_threads(1)


def work(jobs: "multiprocessing.Queue[Case | None]", results: "multiprocessing.Queue[object]",
         timeouts: dict[str, float]) -> None:  # fmt: skip
    preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder).resolve()
        make_copy(copy)
        while (case := jobs.get()) is not None:
            before = case.source()
            write(copy / case.path, case.mutant.apply(before))
            code = run_tests(copy, TESTS[case.part], timeouts[case.part])
            write(copy / case.path, before)
            results.put((case, code))


def baseline(parts: list[str], results: "multiprocessing.Queue[object]") -> None:
    preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder).resolve()
        make_copy(copy)
        for part in parts:
            began = time.monotonic()
            code = run_tests(copy, TESTS[part], 1200)
            if code != 0:
                print((copy / "output.txt").read_text(encoding="utf-8")[-4000:], flush=True)
            results.put((part, code, time.monotonic() - began))
            if code != 0:
                return


def measure_baseline(parts: list[str]) -> dict[str, float]:
    """Seconds that each part's tests take unbroken, times four and some; they must pass."""
    results: multiprocessing.Queue[object] = multiprocessing.Queue()
    process = multiprocessing.Process(target=baseline, args=(parts, results))
    process.start()
    timeouts = {}
    for _ in parts:
        part, code, seconds = results.get()  # type: ignore[misc]
        if code != 0:
            sys.exit(f"the tests of {part} do not pass as they are (pytest exit code {code})")
        print(f"{part}: tests pass in {seconds:.0f} s", flush=True)
        timeouts[part] = 4 * seconds + 20
    process.join()
    return timeouts


def run(drawn: list[Case], jobs: int, timeouts: dict[str, float]) -> list[tuple[Case, int]]:
    todo: multiprocessing.Queue[Case | None] = multiprocessing.Queue()
    results: multiprocessing.Queue[object] = multiprocessing.Queue()
    for item in [*drawn, *[None] * jobs]:
        todo.put(item)
    workers = [
        multiprocessing.Process(target=work, args=(todo, results, timeouts)) for _ in range(jobs)
    ]
    for worker in workers:
        worker.start()
    done: list[tuple[Case, int]] = []
    for i in range(len(drawn)):
        case, code = results.get()  # type: ignore[misc]
        done.append((case, code))
        word = {0: "SURVIVED", KILLED_BY_TIME: "killed by time"}.get(code, "killed")
        print(f"{i + 1}/{len(drawn)} {case.path}:{case.mutant.line} {word}", flush=True)
    for worker in workers:
        worker.join()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--list", action="store_true", help="print the drawn mutants, run nothing")
    options = parser.parse_args()
    every = cases(options.only)
    drawn = random.Random(options.seed).sample(every, min(options.count, len(every)))
    print(f"{len(drawn)} of {len(every)} mutants, seed {options.seed}", flush=True)
    if options.list:
        print("\n".join(f"{case.path}:{case.mutant.line}\n{case.diff()}" for case in drawn))
        return
    timeouts = measure_baseline(sorted({case.part for case in drawn}))
    done = run(drawn, options.jobs, timeouts)
    survivors = [case for case, code in done if code == 0]
    for case in survivors:
        print(f"\nsurvived: {case.path}:{case.mutant.line}\n{case.diff()}")
    parts = Counter(case.part for case, _ in done)
    alive = Counter(case.part for case in survivors)
    for part, total in sorted(parts.items()):
        print(f"{part}: {total - alive[part]} of {total} killed")
    rate = 1 - len(survivors) / max(1, len(done))
    print(f"killed {len(done) - len(survivors)} of {len(done)}: {rate:.1%} (aim {AIM:.0%})")
    sys.exit(rate < AIM)


if __name__ == "__main__":
    main()
