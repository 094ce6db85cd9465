"""Which models make one mixture, and how: as values, and as a TOML file."""

import dataclasses
import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from expertly.errors import RecipeError

Gate = Literal["random", "hidden"]
Others = Literal["average", "base"]
_TEXTS = ("positive", "negative")


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise RecipeError(message, hint=hint)


@dataclass(frozen=True, kw_only=True)
class MergeExpert:
    """A dense model whose feed-forwards become an expert of each layer; prompts that should reach
    it, and prompts that should not."""

    source: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MergeRecipe:
    """`base` (the first expert's source, unless given) gives config, tokenizer and, with others =
    "base", all that is not a feed-forward; "average" takes the experts' mean of that
    (Branch-Train-MiX, arXiv 2403.07816). Gates are random, or made from the prompts
    ("hidden"). Raises RecipeError for what does not go together."""

    experts: tuple[MergeExpert, ...]
    base: str = ""
    num_chosen: int = 2
    gate: Gate = "random"
    others: Others = "average"
    family: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require(
            2 <= self.num_chosen <= len(self.experts),
            f"{self.num_chosen} experts chosen out of {len(self.experts)}",
            "give at least two experts, and choose 2 or more: the weights of the chosen sum to 1, "
            "so that a single one's is always 1",
        )
        for name, value, known in (
            ("gate", self.gate, get_args(Gate)),
            ("others", self.others, get_args(Others)),
        ):
            _require(value in known, f"{name} is {value!r}", f"it must be {' or '.join(known)}")
        for expert in self.experts:
            if self.gate == "hidden":
                _require(
                    len(expert.positive) > 0,
                    f'gate = "hidden", and the expert {expert.source} has no positive prompts',
                    "say what should reach it: positive = [...]",
                )
            else:
                _require(
                    not expert.positive and not expert.negative,
                    f"the expert {expert.source} has prompts, and gates are random",
                    'gate = "hidden" makes gates of prompts',
                )

    @property
    def base_source(self) -> str:
        return self.base or self.experts[0].source


def read_merge_recipe(path: Path) -> MergeRecipe:
    """The recipe in a TOML file; sources that are folders beside it are found from anywhere.
    RecipeError names what is missing, unknown or of the wrong type."""
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe {path}: {error.strerror}", hint="give the path of a .toml file"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"the recipe {path} is not TOML: {error}", hint="mend that line; strings need quotes"
        ) from error
    return parse_merge_recipe(tables, path.parent)


def parse_merge_recipe(tables: Mapping[str, Any], folder: Path) -> MergeRecipe:
    """The recipe in parsed TOML; relative sources start at `folder`."""
    names = [field.name for field in dataclasses.fields(MergeRecipe)]
    _refuse_unknown(tables, names, "the recipe")
    rows = tables.get("experts")
    _require(
        isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows),
        f"experts is {rows!r}" if "experts" in tables else "the recipe lacks experts",
        "give each a table: [[experts]], then source = ...",
    )
    assert isinstance(rows, list)
    values = {name: value for name, value in tables.items() if name != "experts"}
    for name, value in values.items():
        kind = int if name in ("num_chosen", "seed") else str
        _require(
            isinstance(value, kind) and not isinstance(value, bool),
            f"{name} is {value!r}",
            "it must be a whole number" if kind is int else "it must be a text in quotes",
        )
    if "base" in values:
        values["base"] = _placed(values["base"], folder)
    experts = tuple(_expert(row, f"expert {i + 1}", folder) for i, row in enumerate(rows))
    return MergeRecipe(experts=experts, **values)


def _expert(row: Mapping[str, Any], where: str, folder: Path) -> MergeExpert:
    _refuse_unknown(row, ["source", *_TEXTS], where)
    source = row.get("source")
    _require(
        isinstance(source, str) and source != "",
        f"{where} has the source {source!r}" if "source" in row else f"{where} lacks a source",
        'name a folder or a hub id: source = "..."',
    )
    for name in _TEXTS:
        texts = row.get(name, [])
        _require(
            isinstance(texts, list) and all(isinstance(text, str) and text for text in texts),
            f"{where} has {name} {texts!r}",
            "give a list of texts in quotes, none of them empty",
        )
    prompts = {name: tuple(row.get(name, ())) for name in _TEXTS}
    return MergeExpert(source=_placed(str(source), folder), **prompts)


def _placed(source: str, folder: Path) -> str:
    """A folder beside the recipe, or what was given: a folder elsewhere, a hub id."""
    beside = folder / source
    return str(beside) if beside.is_dir() else source


def _refuse_unknown(keys: Collection[str], known: list[str], where: str) -> None:
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known) or sorted(known)
            raise RecipeError(
                f"{where} has an unknown key {key!r}", hint=f"did you mean {' or '.join(close)}?"
            )
