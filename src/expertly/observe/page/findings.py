"""What is fine in a report and what is not, in plain words, by thresholds that are named."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from expertly.observe.report import LayerReport, Report

MAX_VIOLATION = 1.0  # the busiest expert has twice its fair share
MIN_ENTROPY = 0.9
ENOUGH_ROWS = 100  # a fair share: with it, an expert under 1% of it had none at all


@dataclass(frozen=True, kw_only=True)
class Finding:
    kind: Literal["fine", "look", "note"]
    text: str


def findings(report: Report) -> list[Finding]:
    layers = report.layers
    return [
        _rule(
            layers,
            lambda layer: layer.num_rows >= ENOUGH_ROWS * layer.num_experts,
            f"Enough text: {ENOUGH_ROWS} rows or more a fair share.",
            f"Little text: under {ENOUGH_ROWS} rows a fair share, so that an expert can look dead "
            "or special by chance",
        ),
        _rule(
            layers,
            lambda layer: layer.max_violation <= MAX_VIOLATION,
            f"No expert has more than twice its fair share (MaxVio up to {MAX_VIOLATION}).",
            f"An expert has more than twice its fair share (MaxVio over {MAX_VIOLATION})",
        ),
        _rule(
            layers,
            lambda layer: layer.entropy >= MIN_ENTROPY,
            f"The load is spread widely (entropy of at least {MIN_ENTROPY} of 1).",
            f"The load stands on few experts (entropy under {MIN_ENTROPY} of 1)",
        ),
        _rule(
            layers,
            lambda layer: not layer.dead_experts,
            "No expert is dead (under 1% of its fair share).",
            "Experts are dead (under 1% of their fair share)",
        ),
        *_specialisation(report),
    ]


def is_special(layer: LayerReport) -> bool:
    """Whether domain and expert share more than in every shuffle."""
    return layer.information > max(layer.shuffled_information)


def _rule(
    layers: Sequence[LayerReport], holds: Callable[[LayerReport], bool], fine: str, bad: str
) -> Finding:
    broken = [str(layer.layer) for layer in layers if not holds(layer)]
    if not broken:
        return Finding(kind="fine", text=fine)
    return Finding(kind="look", text=f"{bad}: layer {', '.join(broken)}.")


def _specialisation(report: Report) -> Iterator[Finding]:
    if len(report.tokens_by_domain) < 2:
        yield Finding(kind="note", text="One text: nothing is said of specialisation by domain.")
        return
    special = [layer for layer in report.layers if is_special(layer)]
    if not special:
        text = "No layer's experts follow the domains by more than chance."
        yield Finding(kind="note", text=text)
        return
    best = max(special, key=lambda layer: layer.information)
    halves, shuffled = best.halves_information, max(best.shuffled_information)
    within = "" if halves is None else f"; halves of one text {halves:.3f}"
    yield Finding(
        kind="note",
        text=f"In {len(special)} of {len(report.layers)} layers the experts follow the domains by "
        f"more than chance, most in layer {best.layer} ({best.information:.3f} bits of at most "
        f"{best.domain_entropy:.3f}; shuffled at most {shuffled:.3f}{within}).",
    )
