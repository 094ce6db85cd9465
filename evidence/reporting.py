"""A claim's page: what is said, a table with its spread, a verdict a line, and a plot."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from evidence.claim import Claim
from evidence.judging import Outcomes, Spread, judge, measured, spread
from evidence.measures import MEASURES

FINDING = "finding.md"  # a paragraph by hand, kept when the page is made anew


def page(claim: Claim, outcomes: Outcomes, machine: str, seconds: float, finding: str) -> str:
    heading = claim.heading
    lines = [f"# {heading.title}", "", f"Published: {heading.published}", "", finding.strip(), ""]
    lines += _table(claim, outcomes)
    lines += ["", *_verdicts(claim, outcomes), "", f"![]({claim.name}.svg)", ""]
    seeds = ", ".join(map(str, heading.seeds))
    lines.append(
        f"Seeds {seeds}; mean (least to most). Made by `python -m evidence {claim.name}` in "
        f"{seconds / 60:.0f} minutes on {machine}."
    )
    return "\n".join(lines) + "\n"


def result(claim: Claim, outcomes: Outcomes) -> dict[str, Any]:
    """What the table of all claims is made of."""
    return {
        "title": claim.heading.title,
        "published": claim.heading.published,
        "verdicts": [
            {**asdict(found.judged), "ratio": _plain(found.ratio), "verdict": found.verdict}
            for found in judge(claim, outcomes)
        ],
    }


def index(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all claims, by folder."""
    lines = [
        "# Evidence",
        "",
        "Claims of the field, tried on the package's own texts with three seeds each: one held if",
        "it did with every seed, and is undecided where seeds disagree. `python -m evidence` runs",
        "all, `python -m evidence NAME` one; `--full` is the size for a GPU. A further claim is a",
        "folder with a `claim.toml` and a `recipe.toml`.",
        "",
        "| claim | tried | measured | verdict |",
        "|---|---|---|---|",
    ]
    for name, found in sorted(results.items()):
        for v in found["verdicts"]:
            measure = v["measure"].replace("_", " ")
            tried = f"{measure}: {v['arm']} over {v['against']}, {v['by']:g}x"
            times = _times(*v["ratio"].values())
            link = f"[{found['title']}]({name}/README.md)"
            lines.append(f"| {link} | {tried} | {times} | {v['verdict']} |")
    return "\n".join(lines) + "\n"


def _plain(ratio: Spread) -> dict[str, float | None]:
    """JSON has no name for what is without bound."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(ratio).items()}


def _times(mean: float | None, least: float | None, most: float | None) -> str:
    said = ["∞" if x is None or math.isinf(x) else f"{x:.2f}x" for x in (mean, least, most)]
    return f"{said[0]} ({said[1]} to {said[2]})"


def _table(claim: Claim, outcomes: Outcomes) -> list[str]:
    names = [name for name in claim.heading.measures if name in MEASURES]
    lines = [
        "| arm | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for arm in claim.arms:
        cells = [_cell(spread(measured(outcomes, name, arm))) for name in names]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: Spread) -> str:
    if values.mean == float("inf"):
        return "never"
    return f"{_number(values.mean)} ({_number(values.least)} to {_number(values.most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _verdicts(claim: Claim, outcomes: Outcomes) -> list[str]:
    lines = ["| claim | measured | verdict |", "|---|---|---|"]
    for found in judge(claim, outcomes):
        judged, ratio = found.judged, found.ratio
        said = f"{judged.measure.replace('_', ' ')}: {judged.arm} at least {judged.by:g}x better"
        times = _times(ratio.mean, ratio.least, ratio.most)
        lines.append(f"| {said} than {judged.against} | {times} | {found.verdict} |")
    return lines


def plot(claim: Claim, outcomes: Outcomes, path: Path) -> None:
    """Bits per byte against tokens, a line an arm: mean over seeds, a band from least to most."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for arm, runs in outcomes.items():
        tokens = [count / 1e6 for count in runs[0].tokens]
        columns = list(zip(*(run.bits for run in runs), strict=True))
        (line,) = axes.plot(tokens, [statistics.fmean(c) for c in columns], label=arm)
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(tokens, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set(xlabel="million tokens", ylabel="bits per byte, held-out text")
    axes.legend(frameon=False)
    # no date, no random ids: the same numbers make the same file
    with rc_context({"svg.hashsalt": claim.name}):
        figure.savefig(path, metadata={"Date": None})
