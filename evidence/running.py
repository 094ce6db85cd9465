"""Every arm with every seed, one run after the other; finished ones are read, not run again."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from evidence.claim import Claim
from evidence.judging import Outcomes
from evidence.measures import Outcome, read_outcome
from expertly.train import Recipe, train


def run(
    claim: Claim, folder: Path, *, is_full: bool = False, note: Callable[[str], None] = print
) -> Outcomes:
    """Trains in `folder`; seeds are the outer loop, so that a run that is cut short has compared
    all arms with some."""
    outcomes: dict[str, list[Outcome]] = {arm: [] for arm in claim.arms}
    for seed in claim.heading.seeds:
        for arm in claim.arms:
            note(f"{claim.name}: {arm}, seed {seed}")
            recipe = claim.recipe_of(arm, seed, is_full=is_full)
            outcomes[arm].append(_outcome(recipe, folder / _folder_name(recipe, arm, seed)))
    return outcomes


def _folder_name(recipe: Recipe, arm: str, seed: int) -> str:
    """Changes with anything in the recipe, so that no old run is taken for a new one."""
    digest = hashlib.sha256(recipe.source.encode()).hexdigest()[:8]
    return f"{arm}-{seed}-{digest}"


def _outcome(recipe: Recipe, folder: Path) -> Outcome:
    if not (folder / "final").is_dir():
        train(recipe, folder, resume=folder.exists())
    return read_outcome(folder)
