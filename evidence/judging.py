"""From the numbers of all seeds to a verdict that does not say more than they do."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evidence.claim import Claim, Judged
from evidence.measures import AGAINST, MEASURES, Outcome

Verdict = Literal["held", "did not hold", "undecided at this size"]
Outcomes = Mapping[str, Sequence[Outcome]]  # by arm, one a seed


@dataclass(frozen=True, kw_only=True)
class Spread:
    mean: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """`ratio`: how many times better the arm was, a seed at a time."""

    judged: Judged
    ratio: Spread
    verdict: Verdict


def spread(values: Sequence[float]) -> Spread:
    return Spread(mean=statistics.fmean(values), least=min(values), most=max(values))


def measured(outcomes: Outcomes, measure: str, arm: str, against: str = "") -> list[float]:
    """One number a seed; what compares runs is taken against arm `against`."""
    if measure in MEASURES:
        return [MEASURES[measure](outcome) for outcome in outcomes[arm]]
    pairs = zip(outcomes[arm], outcomes[against], strict=True)
    return [AGAINST[measure](outcome, other) for outcome, other in pairs]


def judge(claim: Claim, outcomes: Outcomes) -> list[Judgement]:
    return [_judge(judged, outcomes) for judged in claim.judged]


def _judge(judged: Judged, outcomes: Outcomes) -> Judgement:
    ours = measured(outcomes, judged.measure, judged.arm, judged.against)
    if judged.measure in AGAINST:
        ratios = ours
    else:
        theirs = measured(outcomes, judged.measure, judged.against)
        ratios = [_times_better(a, b, judged.better) for a, b in zip(ours, theirs, strict=True)]
    return Judgement(judged=judged, ratio=spread(ratios), verdict=verdict_of(ratios, judged.by))


def _times_better(ours: float, theirs: float, better: str) -> float:
    """Two zeros are equal; nothing against something is infinitely better."""
    good, bad = (theirs, ours) if better == "less" else (ours, theirs)
    if good == bad:
        return 1.0
    return good / bad if bad else float("inf")


def verdict_of(ratios: Sequence[float], by: float) -> Verdict:
    """What every seed says; where seeds disagree, nothing is decided."""
    if all(ratio >= by for ratio in ratios):
        return "held"
    if all(ratio < by for ratio in ratios):
        return "did not hold"
    return "undecided at this size"
