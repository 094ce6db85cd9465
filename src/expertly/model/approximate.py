"""Answers at a lower price that are not quite the model's own: experts of little weight are left
out or read at fewer bits, or others are taken that are in memory already. Nothing of this happens
unless it is asked for.

Weights of the experts that a token keeps are those that its router would give them: divided by
their p-norm where it divides, else as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from expertly.config import Mixture, ModelConfig
from expertly.errors import InputError
from expertly.model.native import NativeDecoder, Numbers, without_copies
from expertly.model.weights import Floats
from expertly.store import ExpertStore

Bools = NDArray[np.bool_]

FORMS = {
    "top:K": "the K experts of the largest weight",
    "ser:K,T": "those, and others of over T of the largest weight (smart expert reduction)",
    "naee:Q": "the largest, and others but for the share Q of the least beside it, by a text that "
    "the model reads first (arXiv 2402.14800, where Q is 0.5)",
    "top-p:P": "the fewest that have together P of the weight",
    "cold:F": "those in memory, and others of over F / K of the weight",
    "cached:L": "K experts, those in memory preferred by L times the range of the logits; the "
    "first choice stays (arXiv 2412.00099)",
    "lower:F": "all, but those that are not in memory and under F / K of the weight of every token "
    "are read from a copy at fewer bits (--lower)",
}


@dataclass(frozen=True)
class Seen:
    """What a layer's router chose. share_TK: of a token's weight."""

    layer: int
    ids_TK: Numbers
    share_TK: Floats
    logits_TE: Floats
    store: ExpertStore | None

    def held(self, experts: Sequence[int]) -> Bools:
        """Which of them are in memory."""
        if self.store is None:
            return np.ones(len(experts), bool)
        return np.array(self.store.resident(self.layer, experts), bool)

    @property
    def held_TK(self) -> Bools:
        return self.held(self.ids_TK.ravel().tolist()).reshape(self.ids_TK.shape)

    @property
    def rank_TK(self) -> NDArray[np.int64]:
        """0: the largest weight."""
        return np.argsort(np.argsort(-self.share_TK, -1, kind="stable"), -1)

    @property
    def beside_TK(self) -> Floats:
        """Weights beside the largest."""
        found: Floats = self.share_TK / self.share_TK.max(-1, keepdims=True)
        return found


class Rule(Protocol):
    """The experts of each token: of those chosen, or others; -1 leaves a slot out, and E more than
    an expert's id is its lower copy."""

    def __call__(self, seen: Seen) -> Numbers: ...


def keeping(keep: Callable[[Seen], Bools]) -> Rule:
    """Leaves out what is not kept; never a token's first choice."""

    def rule(seen: Seen) -> Numbers:
        return np.where(keep(seen) | (seen.rank_TK == 0), seen.ids_TK, -1).astype(np.int32)

    return rule


def top(count: int) -> Rule:
    return keeping(lambda seen: seen.rank_TK < count)


def ser(count: int, least: float) -> Rule:
    return keeping(lambda seen: (seen.rank_TK < count) | (seen.beside_TK > least))


def top_p(share: float) -> Rule:
    def keep(seen: Seen) -> Bools:
        sorted_TK = -np.sort(-seen.share_TK, -1)
        before_TK = sorted_TK.cumsum(-1) - sorted_TK
        return np.take_along_axis(before_TK, seen.rank_TK, -1) < share

    return keeping(keep)


def cold(least: float) -> Rule:
    return keeping(lambda seen: seen.held_TK | (seen.share_TK > least / seen.ids_TK.shape[1]))


def naee(least_by_layer: dict[int, float]) -> Rule:
    return keeping(lambda seen: seen.beside_TK >= least_by_layer[seen.layer])


def lower(least: float) -> Rule:
    """An expert is read once, so it is lowered for all tokens of a pass or for none."""

    def rule(seen: Seen) -> Numbers:
        E, K = seen.logits_TE.shape[1], seen.ids_TK.shape[1]
        is_lowered_E = ~seen.held(range(E))
        is_lowered_E[seen.ids_TK[seen.share_TK >= least / K]] = False
        return np.where(is_lowered_E[seen.ids_TK], seen.ids_TK + E, seen.ids_TK).astype(np.int32)

    return rule


class Cached:
    """The range of a layer's logits is a running mean over the tokens that it saw."""

    def __init__(self, strength: float) -> None:
        self._strength = strength
        self._range: dict[int, float] = {}
        self._tokens: dict[int, int] = {}

    def __call__(self, seen: Seen) -> Numbers:
        K = seen.ids_TK.shape[1]
        held_E = seen.held(range(seen.logits_TE.shape[1]))
        wanted_TE = seen.logits_TE + self._strength * self._learn(seen) * held_E
        first_T = np.take_along_axis(seen.ids_TK, seen.share_TK.argmax(-1)[:, None], -1)
        np.put_along_axis(wanted_TE, first_T, np.inf, -1)
        found_TK = np.argpartition(-wanted_TE, K - 1, -1)[:, :K].astype(np.int32)
        # in the router's order where nothing is exchanged: slots are added up in order
        is_own_T = (np.sort(found_TK, -1) == np.sort(seen.ids_TK, -1)).all(-1)
        return np.where(is_own_T[:, None], seen.ids_TK, found_TK)

    def _learn(self, seen: Seen) -> float:
        found = float(np.ptp(seen.logits_TE, -1).sum())
        before = self._tokens.get(seen.layer, 0)
        tokens = self._tokens[seen.layer] = before + len(seen.ids_TK)
        mean = (self._range.get(seen.layer, 0.0) * before + found) / tokens
        self._range[seen.layer] = mean
        return mean


class Approximation:
    """A decoder's `rechoose`. `kept` and `exchanged` of `choices` slots were computed as the router
    said, and with another expert; `lowered` of them with an expert's lower copy."""

    def __init__(self, name: str, rule: Rule, model: NativeDecoder) -> None:
        self.name = name
        self._rule = rule
        self._model = model
        self.choices = self.kept = self.exchanged = self.lowered = 0

    def __call__(
        self,
        layer: int,
        sequence_T: NDArray[np.int64],
        position_T: NDArray[np.int64],
        ids_TK: Numbers,
        weight_TK: Floats,
        logits_TE: Floats,
    ) -> tuple[Numbers, Floats]:
        share_TK = weight_TK / weight_TK.sum(-1, keepdims=True)
        seen = Seen(layer, ids_TK, share_TK, logits_TE, self._model.store)
        found_TK = self._rule(seen)
        expert_TK = without_copies(found_TK, logits_TE.shape[1])
        self.lowered += int((found_TK != expert_TK).sum())
        self._count(ids_TK, expert_TK)
        return found_TK, _weigh(self._model.config, seen, weight_TK, expert_TK)

    def __str__(self) -> str:
        if self.kept == self.choices and not self.lowered:
            return f"approximate ({self.name}): all choices were kept; answers are the model's own"
        choices = max(1, self.choices)
        left_out = 1.0 - (self.kept + self.exchanged) / choices
        lowered = f", {self.lowered / choices:.1%} computed from lower copies" * bool(self.lowered)
        return (
            f"approximate ({self.name}): of {self.choices:,} choices {left_out:.1%} were left out "
            f"and {self.exchanged / choices:.1%} exchanged{lowered}; answers are not the "
            "model's own"
        )

    def _count(self, ids_TK: Numbers, found_TK: Numbers) -> None:
        is_own_TK = (found_TK[:, :, None] == ids_TK[:, None, :]).any(-1)
        self.choices += ids_TK.size
        self.kept += int((is_own_TK & (found_TK >= 0)).sum())
        self.exchanged += int((~is_own_TK & (found_TK >= 0)).sum())


def _weigh(config: ModelConfig, seen: Seen, weight_TK: Floats, found_TK: Numbers) -> Floats:
    """An exchanged expert's score differs from the first choice's by their logits alone, as scores
    are a softmax."""
    mixture = config.layers[seen.layer].feed_forward
    assert isinstance(mixture, Mixture)
    first_T1 = seen.share_TK.argmax(-1)[:, None]
    first_id_T1 = np.take_along_axis(seen.ids_TK, first_T1, -1)
    logit_TK = np.take_along_axis(seen.logits_TE, np.maximum(found_TK, 0), -1)
    beside_TK = np.exp(logit_TK - np.take_along_axis(seen.logits_TE, first_id_T1, -1))
    other_TK = np.take_along_axis(weight_TK, first_T1, -1) * beside_TK * (found_TK >= 0)
    raw_TK = np.where(found_TK == seen.ids_TK, weight_TK, other_TK)
    norm_p = mixture.router.norm_p
    if norm_p is not None:
        # the quotient of equals is 1: what is as the router said keeps every bit
        raw_TK = raw_TK * (_norm(weight_TK, norm_p) / _norm(raw_TK, norm_p))
    return raw_TK.astype(np.float32)


def _norm(weight_TK: Floats, p: float) -> Floats:
    found: Floats = np.linalg.norm(weight_TK, p, -1, keepdims=True)
    return found


def approximate(model: NativeDecoder, text: str, ids: Sequence[int] = ()) -> Approximation:
    """Have `model` answer by a rule, as "ser:2,0.3" (`FORMS`), from now on. `ids` are what naee
    reads first. Raises InputError for a rule that is not known, or not of this model."""
    layers = model.config.mixture_layers
    if not layers:
        raise InputError(
            f"--approximate {text} for a model without experts", hint="leave out --approximate"
        )
    name, values = _parsed(text)
    found = Approximation(text, _rule(model, name, values, ids), model)
    model.rechoose = found
    return found


def _parsed(text: str) -> tuple[str, list[float]]:
    name, _, rest = text.partition(":")
    form = next((form for form in FORMS if form.partition(":")[0] == name), None)
    try:
        values = [float(part) for part in rest.split(",")]
    except ValueError:
        values = []
    if form is None or len(values) != form.count(",") + 1 or not _is_in_range(name, values):
        raise InputError(
            f"--approximate {text} is no rule that is known", hint=f"one of {', '.join(FORMS)}"
        )
    return name, values


def _is_in_range(name: str, values: Sequence[float]) -> bool:
    if name in ("top", "ser") and not (values[0] >= 1 and values[0].is_integer()):
        return False
    most = 1.0 if name in ("top-p", "naee", "ser") else 1000.0
    return 0.0 <= values[-1] <= most if name != "top" else True


def _rule(model: NativeDecoder, name: str, values: list[float], ids: Sequence[int]) -> Rule:
    if name == "top":
        return top(int(values[0]))
    if name == "ser":
        return ser(int(values[0]), values[1])
    if name == "top-p":
        return top_p(values[0])
    if name == "cold":
        return cold(values[0])
    if name == "lower":
        _check_copies(model, values[0])
        return lower(values[0])
    if name == "naee":
        return naee(least_beside(model, values[0], ids))
    rules = [model.config.layers[index].feed_forward for index in model.config.mixture_layers]
    if any(isinstance(rule, Mixture) and rule.router.rule != "top_k" for rule in rules):
        raise InputError(
            f"--approximate cached for a {model.config.family}, whose weights are no softmax",
            hint="use cold:F",
        )
    return Cached(values[0])


def _check_copies(model: NativeDecoder, least: float) -> None:
    if model.store is not None and model.num_copies == 1:
        raise InputError(
            f"--approximate lower:{least:g} for a model without a lower copy of its experts",
            hint="name one: --lower FOLDER, the same model at fewer bits",
        )


def least_beside(model: NativeDecoder, share: float, ids: Sequence[int]) -> dict[int, float]:
    """By layer: of the weights that a text's tokens give beside their largest, `share` are below.
    Raises InputError without a text."""
    if not ids:
        raise InputError(
            "--approximate naee reads a text first, and this model has no tokenizer",
            hint="use ser:K,T",
        )
    found: dict[int, list[Floats]] = {}

    def watch(layer: int, _: NDArray[np.int64], ids_TK: Numbers, weight_TK: Floats) -> None:
        sorted_TK = -np.sort(-weight_TK, -1)
        found.setdefault(layer, []).append(sorted_TK[:, 1:] / sorted_TK[:, :1])

    before, model.watch = model.watch, watch
    try:
        model(torch.tensor([list(ids)]), logits="last")
    finally:
        model.watch = before
    return {
        layer: float(np.quantile(np.concatenate(parts), share)) if parts[0].size else 0.0
        for layer, parts in found.items()
    }
