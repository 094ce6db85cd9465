"""A verdict says no more than every seed does."""

import json
from pathlib import Path

import pytest

from evidence.claim import Claim, Heading, Judged
from evidence.judging import judge, spread, verdict_of
from evidence.measures import Outcome
from evidence.reporting import index, page, plot, result


def run(bits: float, *, flops: float = 1.0, warned: int | None = None) -> Outcome:
    rows = () if warned is None else ({"kind": "warning", "step": warned},)
    return Outcome(rows=rows, tokens=(50, 100), bits=(5.0, bits), flops_per_token=flops)


def claim_of(*judged: Judged) -> Claim:
    return Claim(
        name="tried",
        heading=Heading(
            title="A title", published="somewhere", measures=("bits_per_byte", "warned_at")
        ),
        recipe="",
        stages={},
        arms={"ours": {}, "theirs": {}},
        full={},
        judged=judged,
    )


LESS = Judged(measure="bits_per_byte", arm="ours", against="theirs", by=1.5)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([2.0, 2.1, 2.5], "held"),
        ([1.9, 1.5, 0.1], "did not hold"),
        ([1.9, 2.1, 2.5], "undecided at this size"),
    ],
)
def test_only_seeds_that_agree_decide(ratios: list[float], verdict: str) -> None:
    assert verdict_of(ratios, 2.0) == verdict


def test_the_smaller_number_is_the_better_one_unless_said_otherwise() -> None:
    outcomes = {"ours": [run(1.0), run(2.0)], "theirs": [run(3.0), run(3.0)]}
    more = Judged(measure="bits_per_byte", arm="ours", against="theirs", better="more")
    first, second = judge(claim_of(LESS, more), outcomes)
    assert (first.ratio.least, first.ratio.most) == (1.5, 3.0)
    assert first.verdict == "held"
    assert (second.ratio.least, second.ratio.most) == (1 / 3, 2 / 3)
    assert second.verdict == "did not hold"


def test_seeds_are_compared_one_by_one() -> None:
    outcomes = {"ours": [run(1.0), run(4.0)], "theirs": [run(2.0), run(2.0)]}
    (found,) = judge(claim_of(LESS), outcomes)
    assert (found.ratio.least, found.ratio.most) == (0.5, 2.0)
    assert found.verdict == "undecided at this size"


def test_nothing_against_nothing_is_equal_and_against_something_better_without_bound() -> None:
    outcomes = {"ours": [run(0.0)], "theirs": [run(0.0)]}
    assert judge(claim_of(LESS), outcomes)[0].ratio == spread([1.0])
    outcomes = {"ours": [run(0.0)], "theirs": [run(1.0)]}
    assert judge(claim_of(LESS), outcomes)[0].ratio.least == float("inf")


def test_what_compares_runs_is_judged_as_it_is() -> None:
    saved = Judged(measure="flops_saved", arm="ours", against="theirs", better="more", by=2.0)
    outcomes = {"ours": [run(1.0)], "theirs": [run(3.0, flops=4.0)]}
    (found,) = judge(claim_of(saved), outcomes)
    # at 3.0 after 75 of 100 tokens, each a quarter of the operations
    assert found.ratio.mean == pytest.approx(100 / 75 * 4)
    assert found.verdict == "held"


def test_the_page_says_every_arm_the_verdict_and_what_was_found() -> None:
    outcomes = {"ours": [run(1.0, warned=40)] * 3, "theirs": [run(3.0), run(2.0), run(4.0)]}
    text = page(claim_of(LESS), outcomes, "a machine", 120.0, "What was found.\n")
    assert "| ours | 1.000 (1.000 to 1.000) | 40.000 (40.000 to 40.000) |" in text
    assert "| theirs | 3.000 (2.000 to 4.000) | never |" in text
    assert "than theirs | 3.00x (2.00x to 4.00x) | held |" in text
    assert "What was found." in text and "2 minutes on a machine" in text


def test_the_table_of_all_claims_has_a_line_a_verdict() -> None:
    outcomes = {"ours": [run(1.0)] * 3, "theirs": [run(3.0), run(2.0), run(4.0)]}
    found = json.loads(json.dumps(result(claim_of(LESS), outcomes)))
    (line,) = [row for row in index({"tried": found}).splitlines() if "A title" in row]
    assert line == (
        "| [A title](tried/README.md) | bits per byte: ours over theirs, 1.5x "
        "| 3.00x (2.00x to 4.00x) | held |"
    )


def test_what_is_better_without_bound_says_so_and_stays_json() -> None:
    outcomes = {"ours": [run(0.0)], "theirs": [run(1.0)]}
    text = json.dumps(result(claim_of(LESS), outcomes), allow_nan=False)
    assert "∞ (∞ to ∞)" in index({"tried": json.loads(text)})
    assert "∞ (∞ to ∞)" in page(claim_of(LESS), outcomes, "a machine", 1.0, "")


def test_the_same_numbers_make_the_same_plot(tmp_path: Path) -> None:
    outcomes = {"ours": [run(1.0)] * 3, "theirs": [run(3.0), run(2.0), run(4.0)]}
    for name in ("a.svg", "b.svg"):
        plot(claim_of(LESS), outcomes, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
