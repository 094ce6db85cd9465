"""`python -m evidence [CLAIM ...] [--full]`: runs claims and writes each one's page and plot."""

import argparse
import time
from pathlib import Path

from evidence.claim import ROOT, names, read_claim
from evidence.reporting import FINDING, page, plot
from evidence.running import run
from expertly import _native
from expertly.machine import describe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=f"of {', '.join(names())}")
    parser.add_argument("--full", action="store_true", help="the size for a GPU")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="where runs go")
    options = parser.parse_args()
    unknown = sorted(set(options.claims) - set(names()))
    if unknown:
        parser.error(f"no claim {unknown[0]!r}; there are {', '.join(names())}")
    for name in options.claims or names():
        _make(name, options.runs, options.full)


def _make(name: str, runs: Path, is_full: bool) -> None:
    claim, folder = read_claim(name), ROOT / name
    size = "full" if is_full else "small"
    began = time.monotonic()
    outcomes = run(claim, runs / size / name, is_full=is_full)
    seconds = time.monotonic() - began
    finding = folder / FINDING
    said = finding.read_text("utf-8") if finding.is_file() else ""
    (folder / "README.md").write_text(
        page(claim, outcomes, str(describe(_native.kernel_sets())), seconds, said), "utf-8"
    )
    plot(claim, outcomes, folder / f"{name}.svg")
    print(folder / "README.md")


if __name__ == "__main__":
    main()
