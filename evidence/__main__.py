"""`python -m evidence [CLAIM ...] [--full]`: runs claims and writes each one's page and plot."""

import argparse
import json
from pathlib import Path

from evidence.claim import ROOT, names, read_claim
from evidence.measures import seconds
from evidence.reporting import FINDING, index, page, plot, result
from evidence.running import run
from expertly import _native
from expertly.machine import describe
from expertly.parallel import describe_device, resolve_device

RESULT = "result.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=f"of {', '.join(names())}")
    parser.add_argument(
        "--full", action="store_true", help="the size for a GPU, which it takes where torch has one"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="where runs go")
    options = parser.parse_args()
    unknown = sorted(set(options.claims) - set(names()))
    if unknown:
        parser.error(f"no claim {unknown[0]!r}; there are {', '.join(names())}")
    for name in options.claims or names():
        _make(name, options.runs, options.full)
        _write_index()


def _make(name: str, runs: Path, is_full: bool) -> None:
    claim, folder = read_claim(name, ROOT), ROOT / name
    size = "full" if is_full else "small"
    outcomes = run(claim, runs / size / name, is_full=is_full)
    # of runs that were there before, too
    total = sum(seconds(outcome) for arm in outcomes.values() for outcome in arm)
    finding = folder / FINDING
    said = finding.read_text("utf-8") if finding.is_file() else ""
    (folder / "README.md").write_text(page(claim, outcomes, _machine(), total, said), "utf-8")
    plot(claim, outcomes, folder / f"{name}.svg")
    text = json.dumps(result(claim, outcomes), indent=1)
    (folder / RESULT).write_text(text + "\n", "utf-8")
    print(folder / "README.md")


def _machine() -> str:
    """Where recipes run that name no device."""
    said, device = str(describe(_native.kernel_sets())), resolve_device("auto")
    return said if device.type == "cpu" else f"{said}, {describe_device(device)}"


def _write_index() -> None:
    files = {path.parent.name: path for path in ROOT.glob(f"*/{RESULT}")}
    results = {name: json.loads(path.read_text("utf-8")) for name, path in files.items()}
    (ROOT / "README.md").write_text(index(results), "utf-8")


if __name__ == "__main__":
    main()
