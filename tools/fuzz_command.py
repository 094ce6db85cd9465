"""What the fuzzers of parsers share: options, seeds that must pass, finds kept, a line of JSON."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fuzz_work import Check, Find, Source, fuzz


def run(
    parser: str,
    about: str | None,
    check: Check,
    seeds: list[bytes],
    mutants: Callable[[int], Source],
) -> int:
    """Fuzz `check` with the mutants of a salt; the exit code is 1 if anything was found."""
    options = _options(about)
    assert all(check(data) for data in seeds), "a seed is refused"
    source, begun = mutants(options.salt), time.monotonic()
    result = fuzz(check, source, options.mutants, options.minutes * 60, options.jobs)
    for find in result.finds:
        _keep(parser, find, source, options.keep)
    seconds = time.monotonic() - begun
    line = {
        "parser": parser,
        "mutants": result.mutants,
        "accepted": result.accepted,
        "finds": len(result.finds),
        "seconds": round(seconds, 1),
        "mutants_per_second": round(result.mutants / seconds),
        "slowest_milliseconds": round(result.slowest_seconds * 1e3, 1),
    }
    print(json.dumps(line))
    return 1 if result.finds else 0


def _options(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--salt", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("finds"))
    return parser.parse_args()


def _keep(parser: str, find: Find, source: Source, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"{parser}-{find.number}.bin"
    path.write_bytes(source.mutant(find.number))
    print(f"{path}: {find.what}", file=sys.stderr)
