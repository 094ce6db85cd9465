"""A training run as a file: what a recipe may say, and how it is read."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expertly.errors import RecipeError
from expertly.train.tables import read_table, refuse_unknown


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise RecipeError(message, hint=hint)


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """Either trained on the recipe's texts with `vocab_size` entries, or the file at `path`."""

    vocab_size: int | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        _require(
            (self.vocab_size is None) != (self.path is None),
            f"[tokenizer] has vocab_size {self.vocab_size} and path {self.path!r}",
            "give one of them: vocab_size to train a tokenizer, or the path of one",
        )
        _require(
            self.vocab_size is None or 257 <= self.vocab_size <= 2**31,
            f"[tokenizer] vocab_size is {self.vocab_size}",
            "256 bytes and one mark for the end of a text are needed: at least 257",
        )


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Texts are files, folders or packaged:NAME; relative paths start at the recipe's folder.

    A text's weight says how often an epoch goes through it (1: once). `held_out` is the share at
    each text's end that is only evaluated on; `sequence` the tokens a sequence predicts.
    """

    texts: tuple[str, ...]
    weights: tuple[float, ...] = ()
    sequence: int = 256
    held_out: float = 0.05

    def __post_init__(self) -> None:
        _require(len(self.texts) > 0, "[data] texts is empty", "name at least one file or folder")
        _require(
            len(self.weights) in (0, len(self.texts)),
            f"[data] has {len(self.weights)} weights for {len(self.texts)} texts",
            "give one weight a text, in the same order, or none",
        )
        _require(
            all(0 < weight <= 1000 for weight in self.weights),
            f"[data] weights are {list(self.weights)}",
            "each must be above 0, at most 1000",
        )
        _require(self.sequence > 0, f"[data] sequence is {self.sequence}", "it must be positive")
        _require(
            0 <= self.held_out < 1,
            f"[data] held_out is {self.held_out}",
            "it is a share: from 0 up to, not including, 1",
        )


@dataclass(frozen=True, kw_only=True)
class OptimiserRecipe:
    """AdamW; the rate rises over the warm-up, then falls on a cosine to `floor` * `peak_lr`.

    With `matrix_lr` the layers' matrices (not embedding, head and routers) are moved by Muon at
    that peak rate, on the same schedule.
    """

    peak_lr: float
    matrix_lr: float | None = None
    floor: float = 0.1
    warmup_steps: int = 0
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        _require(self.peak_lr > 0, f"[optimiser] peak_lr is {self.peak_lr}", "it must be positive")
        _require(
            self.matrix_lr is None or self.matrix_lr > 0,
            f"[optimiser] matrix_lr is {self.matrix_lr}",
            "it must be positive",
        )
        _require(
            0 <= self.floor <= 1,
            f"[optimiser] floor is {self.floor}",
            "it is a share of peak_lr: from 0 to 1",
        )
        _require(
            self.warmup_steps >= 0,
            f"[optimiser] warmup_steps is {self.warmup_steps}",
            "it must not be negative",
        )
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"[optimiser] betas are {list(self.betas)}",
            "two numbers from 0 up to 1",
        )
        _require(
            self.eps > 0 and self.weight_decay >= 0 and self.clip > 0,
            f"[optimiser] has eps {self.eps}, weight_decay {self.weight_decay}, clip {self.clip}",
            "eps and clip must be positive, weight_decay not negative",
        )


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """How long, how much at once, and how often to look; 0 for an interval means never.

    `batch` sequences are computed at once, `accumulation` such batches make one step.
    `evaluation_bytes`: how much of each held-out text an evaluation on the way reads (the one at
    the end reads all). `device`: "auto" is a GPU where torch has one.
    """

    batch: int
    steps: int | None = None
    tokens: int | None = None
    accumulation: int = 1
    seed: int = 0
    evaluate_every: int = 0
    evaluation_bytes: int = 50_000
    checkpoint_every: int = 0
    keep: int = 2
    statistics_every: int = 50
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    final_dtype: Literal["float32", "bfloat16"] = "float32"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _require(
            (self.steps is None) != (self.tokens is None),
            f"[run] has steps {self.steps} and tokens {self.tokens}",
            "give one of them: how many steps to take or how many tokens to see",
        )
        for name in ("steps", "tokens", "batch", "accumulation", "keep", "evaluation_bytes"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"[run] {name} is {value}", "it must be positive")
        for name in (
            "seed",
            "evaluate_every",
            "checkpoint_every",
            "statistics_every",
        ):
            value = getattr(self, name)
            _require(value >= 0, f"[run] {name} is {value}", "it must not be negative")
        _require(self.seed < 2**63, f"[run] seed is {self.seed}", "it must be below 2**63")


LOSSES = ("switch", "global", "importance", "relu")


@dataclass(frozen=True, kw_only=True)
class BalanceRecipe:
    """What keeps experts in use. `rule`:

    none; switch: a loss by the shares of each batch; global: by those of the whole step;
    importance: by summed probabilities; all `weight` times (0.01), the mean over layers.
    relu: for routers of rule relu, whose weight (1e-8 at first) finds itself.
    bias, quantile: no loss; the routers' steering biases move once a step, by `rate` towards
    experts with less load, or to where this step's tokens would have been shared out evenly.

    Beside any of them `sequence` and `z` are coefficients of the loss by sequences and of the
    routers' z loss, and experts that were dead in `revive_after` steps in a row begin anew as a
    copy of their layer's busiest (0: never).
    """

    rule: Literal["none", "switch", "global", "importance", "relu", "bias", "quantile"] = "switch"
    weight: float | None = None
    rate: float | None = None
    sequence: float = 0.0
    z: float = 0.001
    revive_after: int = 0

    def __post_init__(self) -> None:
        for name in ("weight", "rate", "sequence", "z", "revive_after"):
            value = getattr(self, name)
            _require(
                value is None or value >= 0,
                f"[balance] {name} is {value}",
                "it must not be negative",
            )
        _require(
            self.weight is None or self.rule in LOSSES,
            f"[balance] weight is {self.weight}, and rule {self.rule!r} has no loss",
            f"leave weight out, or choose one of {', '.join(LOSSES)}",
        )
        _require(
            self.rate is None or self.rule == "bias",
            f"[balance] rate is {self.rate}, and rule {self.rule!r} moves nothing by a rate",
            'leave rate out, or choose rule = "bias"',
        )

    @property
    def first_weight(self) -> float:
        """Of the rule's loss at the first step."""
        if self.rule not in LOSSES:
            return 0.0
        if self.weight is not None:
            return self.weight
        return 1e-8 if self.rule == "relu" else 0.01

    @property
    def bias_rate(self) -> float:
        return 0.001 if self.rate is None else self.rate


@dataclass(frozen=True, kw_only=True)
class RanksRecipe:
    """The processes of a run, `experts` times `data`: over how many each layer's experts are
    spread, and how many such sets compute parts of each batch. `shard`: weights, gradients and
    moments in shards over the data ranks, put together where they are needed."""

    experts: int = 1
    data: int = 1
    shard: bool = False

    def __post_init__(self) -> None:
        for name in ("experts", "data"):
            value = getattr(self, name)
            _require(value > 0, f"[ranks] {name} is {value}", "it must be positive")
        _require(
            not self.shard or self.data > 1,
            "[ranks] shard is true with one data rank",
            "shards are spread over data ranks: set data to 2 or more, or leave shard out",
        )

    @property
    def count(self) -> int:
        return self.experts * self.data


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`model` is a config.json in the spelling of its family, in which vocab_size may be absent;
    or it is `start` alone: a folder whose config and weights the run begins with."""

    name: str
    folder: Path
    source: str  # the file's text
    model: Mapping[str, Any]
    tokenizer: TokenizerRecipe
    data: DataRecipe
    optimiser: OptimiserRecipe
    run: RunRecipe
    balance: BalanceRecipe = BalanceRecipe()
    ranks: RanksRecipe = RanksRecipe()

    def __post_init__(self) -> None:
        count = self.ranks.count
        _require(
            self.run.batch % count == 0,
            f"[run] batch is {self.run.batch} for {count} ranks",
            f"each rank computes as many sequences: give a multiple of {count}",
        )
        _require(
            count == 1 or not self.balance.revive_after,
            f"[balance] revive_after is {self.balance.revive_after} with {count} ranks",
            "experts begin anew in runs of one process only: leave it out",
        )
        _require(
            count == 1 or self.balance.rule not in ("importance", "relu"),
            f"[balance] rule {self.balance.rule!r} with {count} ranks",
            "its loss is one of a whole batch on one process: take switch, global, bias, quantile",
        )

    @property
    def tokens_per_step(self) -> int:
        return self.run.batch * self.run.accumulation * self.data.sequence

    @property
    def steps(self) -> int:
        """Steps of the whole run; with `tokens`, as many as see at least that many."""
        if self.run.steps is not None:
            return self.run.steps
        assert self.run.tokens is not None
        return -(-self.run.tokens // self.tokens_per_step)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; RecipeError names what is missing, unknown or impossible."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe {path}: {error.strerror}", hint="give the path of a .toml file"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the recipe {path} is not UTF-8 at byte {error.start}", hint="save it as UTF-8"
        ) from error
    return parse_recipe(text, name=path.stem, folder=path.parent)


def parse_recipe(text: str, *, name: str, folder: Path) -> Recipe:
    """The recipe in TOML text; paths in it start at `folder`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(
            f"the recipe {name} is not TOML: {error}",
            hint="mend that line; strings need quotes, tables [brackets]",
        ) from error
    kinds = {
        "tokenizer": TokenizerRecipe,
        "data": DataRecipe,
        "optimiser": OptimiserRecipe,
        "run": RunRecipe,
    }
    refuse_unknown(tables, ["model", *kinds, "balance", "ranks"], f"the recipe {name}")
    for table in ("model", *kinds):
        _require(
            table in tables,
            f"the recipe {name} lacks the table [{table}]",
            "a recipe has [model], [tokenizer], [data], [optimiser] and [run]",
        )
    read: dict[str, Any] = {
        key: read_table(kind, tables[key], f"[{key}]") for key, kind in kinds.items()
    }
    read["balance"] = read_table(BalanceRecipe, tables.get("balance", {}), "[balance]")
    read["ranks"] = read_table(RanksRecipe, tables.get("ranks", {}), "[ranks]")
    _check_model(tables["model"])
    return Recipe(name=name, folder=folder, source=text, model=tables["model"], **read)


def _check_model(model: Any) -> None:
    _require(
        isinstance(model, dict) and ("model_type" in model or "start" in model),
        "[model] lacks model_type",
        'name the family: model_type = "qwen2_moe"; or a folder to begin with: start = "..."',
    )
    _require(
        "start" not in model or len(model) == 1,
        f"[model] has start = {model.get('start')!r} and other keys",
        "the model that a run starts with has a config of its own: leave the others out",
    )
