"""A claim as a folder: what is said, the arms that try it, and how they are judged."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from expertly.errors import RecipeError
from expertly.train import Recipe
from expertly.train.recipe import parse_recipe
from expertly.train.tables import read_table, refuse_unknown

ROOT = Path(__file__).parent
Overrides = Mapping[str, Any]  # "table.key", or deeper, to its value in a recipe


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One measure of `evidence.measures`, and where it should be for the claim to hold: arm `arm`
    against `against`, better by a factor of `by` or more (`less`: the smaller is the better)."""

    measure: str
    arm: str
    against: str
    by: float = 1.0
    better: Literal["less", "more"] = "less"


@dataclass(frozen=True, kw_only=True)
class Heading:
    title: str
    published: str
    seeds: tuple[int, ...] = (1, 2, 3)
    measures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    name: str
    heading: Heading
    recipe: str  # TOML text, which each arm changes
    stages: Mapping[str, Overrides]  # runs that arms start from
    arms: Mapping[str, Overrides]
    full: Overrides  # what a GPU's size changes beside
    judged: tuple[Judged, ...]

    def start_of(self, arm: str) -> Mapping[str, Any] | None:
        """The `stage` that an arm starts from, and beside it how it is upcycled, if it is."""
        return self.arms.get(arm, {}).get("start")

    def recipe_of(
        self, arm: str, seed: int, *, is_full: bool = False, start: Path | None = None
    ) -> Recipe:
        """Of an arm or a stage; `start`: the folder whose weights and tokenizer it begins with.

        Raises RecipeError for what an arm sets that no recipe knows.
        """
        changes = {**(self.arms | self.stages)[arm], **(self.full if is_full else {})}
        changes.pop("start", None)
        tables = tomllib.loads(self.recipe)
        for key, value in {**changes, "run.seed": seed}.items():
            _put(tables, key, value)
        if start is not None:
            tables["model"] = {"start": str(start.absolute())}
            tables["tokenizer"] = {"path": str(start.absolute())}
        text = tomli_w.dumps(tables)
        return parse_recipe(text, name=f"{self.name}-{arm}-{seed}", folder=ROOT / self.name)


def names(root: Path = ROOT) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/claim.toml"))


def read_claim(name: str, root: Path = ROOT) -> Claim:
    """The claim in folder `name`: claim.toml and recipe.toml.

    Raises RecipeError for unknown keys, and arms that a verdict names and nobody describes.
    """
    path = root / name / "claim.toml"
    tables = tomllib.loads(path.read_text("utf-8"))
    refuse_unknown(tables, ["claim", "stages", "arms", "full", "judged"], str(path))
    judged = tuple(read_table(Judged, table, "[[judged]]") for table in tables.get("judged", []))
    stages, arms = tables.get("stages", {}), tables["arms"]
    for arm in arms.values():
        if "start" in arm:
            refuse_unknown([arm["start"]["stage"]], stages, "[arms] start")
    for verdict in judged:
        refuse_unknown([verdict.arm, verdict.against], arms, "[[judged]]")
    return Claim(
        name=name,
        heading=read_table(Heading, tables["claim"], "[claim]"),
        recipe=(root / name / "recipe.toml").read_text("utf-8"),
        stages=stages,
        arms=arms,
        full=tables.get("full", {}),
        judged=judged,
    )


def _put(tables: dict[str, Any], key: str, value: Any) -> None:
    """`key` is "table.key", or deeper; the empty text takes a key away."""
    *path, name = key.split(".")
    if not path:
        raise RecipeError(f"an arm sets {key!r}", hint='write "table.key" = value, in quotes')
    for table in path:
        tables = tables.setdefault(table, {})
    if value == "":
        tables.pop(name, None)
    else:
        tables[name] = value
