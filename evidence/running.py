"""Every arm with every seed, one run after the other; finished ones are read, not run again."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from evidence.claim import Claim
from evidence.judging import Outcomes
from evidence.measures import Outcome, read_outcome
from expertly.rewrite import Upcycling, upcycle
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
            start = _start(claim, arm, seed, folder, is_full)
            recipe = claim.recipe_of(arm, seed, is_full=is_full, start=start)
            outcomes[arm].append(read_outcome(_trained(recipe, folder, arm, seed)))
    return outcomes


def _start(claim: Claim, arm: str, seed: int, folder: Path, is_full: bool) -> Path | None:
    """The folder that an arm begins with: a stage's final model, upcycled if it is to be."""
    said = claim.start_of(arm)
    if said is None:
        return None
    how = {key: value for key, value in said.items() if key != "stage"}
    recipe = claim.recipe_of(said["stage"], seed, is_full=is_full)
    run = _trained(recipe, folder, said["stage"], seed)
    if not how:
        return run / "final"
    out = run / f"upcycled-{arm}"
    if not out.is_dir():
        upcycle(run / "final", out, Upcycling(**how, seed=seed))
    return out


def _folder_name(recipe: Recipe, arm: str, seed: int) -> str:
    """Changes with anything in the recipe, so that no old run is taken for a new one."""
    digest = hashlib.sha256(recipe.source.encode()).hexdigest()[:8]
    return f"{arm}-{seed}-{digest}"


def _trained(recipe: Recipe, folder: Path, arm: str, seed: int) -> Path:
    run = folder / _folder_name(recipe, arm, seed)
    if not (run / "final").is_dir():
        train(recipe, run, resume=run.exists())
    return run
