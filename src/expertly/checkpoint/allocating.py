"""Bits for each expert under a budget: more for those that are used often, with large weights, and
that lose most by rounding. Greedy: the step that gains most a byte comes first.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from heapq import heapify, heappop, heappush
from math import isfinite, prod

import numpy as np

from expertly import _native
from expertly.checkpoint.calibrating import Calibration
from expertly.checkpoint.float_rows import FloatRows
from expertly.checkpoint.packed_layout import all_places, blob_of, groups, vector_blob
from expertly.checkpoint.recipe import Key, Recipe, fitting, formats_of, layer_of
from expertly.config import ModelConfig
from expertly.errors import InputError
from expertly.families import parameters
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise
from expertly.model.weights import Floats, Place

# from few bits to many; where two take the same bytes the one with less error stays
_LADDER = ("q2_k", "q3_k", "i4", "iq4_nl", "q5_0", "q6_k", "q8_0")
# an expert's cost is frequency * weight^1.5 * error
_WEIGHT_POWER = 1.5
# rows that stand for a matrix: enough, as they are alike
_SAMPLE_ROWS = 64


@dataclass(frozen=True)
class Rung:
    """One choice for an expert: its bytes, and what its errors cost."""

    format: str
    num_bytes: int
    cost: float


Ladders = Mapping[tuple[int, int], list[Rung]]


def with_average(
    recipe: Recipe,
    config: ModelConfig,
    rows: FloatRows,
    bits: float,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recipe:
    """The recipe with a format for every routed expert, so that all weights together take at most
    `bits` each on average. Raises InputError for less than the least that is possible and for more
    than the most.

    Without a calibration all experts count as used alike.
    """
    if not (isfinite(bits) and bits > 0):
        raise InputError(
            f"{bits:g} bits a weight on average", hint="give a number of bits above 0, as 4.5"
        )
    experts = {key: group for key, group in groups(config).items() if group[0].expert is not None}
    fixed = _bytes_of_others(recipe, config)
    ladders: dict[tuple[int, int], list[Rung]] = {}
    for done, group in enumerate(experts.values(), start=1):
        expert = group[0].expert
        assert expert is not None
        layer = layer_of(group[0].parameter)
        use = 1.0
        if calibration is not None:
            share, weight = calibration.use(layer, expert)
            use = share * weight**_WEIGHT_POWER
        ladders[layer, expert] = _ladder(group, recipe, rows, use, calibration)
        if progress is not None:
            progress(done, len(experts))
    num_weights = sum(map(prod, parameters(config).values()))
    budget = int(bits * num_weights / 8) - fixed
    least = sum(ladder[0].num_bytes for ladder in ladders.values())
    if least > budget:
        raise InputError(
            f"{bits:g} bits a weight on average are too few",
            hint=f"the least is {8 * (least + fixed) / num_weights:.2f}, what every token passes "
            "included",
        )
    most = sum(ladder[-1].num_bytes for ladder in ladders.values())
    if budget > most:
        raise InputError(
            f"{bits:g} bits a weight on average are more than all experts can take",
            hint=f"the most is {8 * (most + fixed) / num_weights:.2f}",
        )
    return replace(recipe, chosen=choose(ladders, budget))


def choose(ladders: Ladders, budget: int) -> dict[tuple[int, int], str]:
    """A rung for each ladder, `budget` bytes at most in all: up the step that gains most a byte,
    again and again, while one fits. Ladders rise in bytes and fall in cost."""
    at = dict.fromkeys(ladders, 0)
    left = budget - sum(ladder[0].num_bytes for ladder in ladders.values())
    steps = [step for key in ladders for step in _steps(ladders[key], 0, key)]
    heapify(steps)
    while steps:
        _, num_bytes, key = heappop(steps)
        if num_bytes > left:
            continue
        left -= num_bytes
        at[key] += 1
        for step in _steps(ladders[key], at[key], key):
            heappush(steps, step)
    return {key: ladders[key][rung].format for key, rung in at.items()}


def _steps(
    ladder: list[Rung], at: int, key: tuple[int, int]
) -> Iterator[tuple[float, int, tuple[int, int]]]:
    """The next step up, if there is one: (minus the gain a byte, bytes, whose)."""
    if at + 1 < len(ladder):
        num_bytes = ladder[at + 1].num_bytes - ladder[at].num_bytes
        yield (ladder[at + 1].cost - ladder[at].cost) / num_bytes, num_bytes, key


def _ladder(
    group: list[Place],
    recipe: Recipe,
    rows: FloatRows,
    use: float,
    calibration: Calibration | None,
) -> list[Rung]:
    """The formats that an expert may have, each with more bytes and less error than the last."""
    samples = {p.parameter: rows.rows(p, 0, min(_SAMPLE_ROWS, p.rows)) for p in group}

    # several names may come to one format
    @cache
    def error_of(place: Place, format_name: str) -> float:
        importance = None if calibration is None else calibration.importance(place)
        return relative_error(format_name, samples[place.parameter], importance)

    found: list[Rung] = []
    for name in _LADDER:
        fitted = formats_with(recipe, group, name)
        error = sum(error_of(p, fitted[p.parameter, p.expert]) for p in group)
        rung = Rung(name, blob_of("expert", group, fitted).num_bytes, use * error)
        while found and rung.num_bytes <= found[-1].num_bytes and rung.cost <= found[-1].cost:
            found.pop()
        is_better = not found or rung.cost < found[-1].cost or use == 0
        if is_better and (not found or rung.num_bytes > found[-1].num_bytes):
            found.append(rung)
    return found


def formats_with(recipe: Recipe, group: list[Place], name: str) -> dict[Key, str]:
    """The formats of one expert's matrices if it is given this one."""
    own = {(layer_of(p.parameter), p.expert): name for p in group if p.expert is not None}
    trial = replace(recipe, chosen=own)
    return {(p.parameter, p.expert): fitting(trial.wanted(p), p.columns) for p in group}


def relative_error(format_name: str, weights: Floats, importance: Floats | None) -> float:
    """What rounding to a format does to a matrix's output, as a share of its square."""
    blocks = _native.quantise(format_name, weights, importance, 1)
    rounded = dequantise(BLOCKS[format_name], blocks.reshape(-1), weights.shape)
    costs = np.ones(weights.shape[1], np.float32) if importance is None else importance
    whole = float((weights**2 @ costs).sum())
    return float(((weights - rounded) ** 2 @ costs).sum()) / whole if whole else 0.0


def _bytes_of_others(recipe: Recipe, config: ModelConfig) -> int:
    """What everything but the routed experts takes."""
    formats = formats_of(recipe, all_places(config))
    others = [
        blob_of(key, group, formats).num_bytes
        for key, group in groups(config).items()
        if group[0].expert is None
    ]
    return sum(others) + vector_blob(config).num_bytes
