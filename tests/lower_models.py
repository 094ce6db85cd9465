"""Two copies of a small model's experts: streamed together, and an oracle that lies in memory."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expertly.checkpoint.apart import experts_at, packed_apart
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.streamed_loading import stream
from expertly.model import NativeDecoder
from expertly.model.approximate import approximate
from expertly.model.weights import NativeWeights

Turn = tuple[int, int]  # of a pass, a layer

_LEAVES = ("w_gate_EFD", "w_up_EFD", "w_down_EDF")


def both(full: Path, lower: Path, num_slots: int, rule: str, **more) -> NativeDecoder:
    model = stream(packed_apart(full, 1), num_slots, 1, lower=experts_at(lower), **more)
    approximate(model, rule)
    return model


def passes(model: NativeDecoder, parts: Iterable[list[int]]) -> Tensor:
    """Logits of one sequence that is read in parts."""
    cache = model.new_cache()
    found = [model(torch.tensor([part]), cache=cache).logits for part in parts]
    return torch.cat(found, dim=1)[0]


class Spy:
    """What a decoder's rule was shown and what it said, turn by turn."""

    def __init__(self, model: NativeDecoder) -> None:
        self._rule = model.rechoose
        self._store = model.store
        self.turns: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, list[bool]]] = []
        model.rechoose = self

    def __call__(self, layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE):
        held = self._store.resident(layer, range(logits_TE.shape[1]))
        found_TK, weights = self._rule(layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE)
        copies = np.array(ids_TK), np.array(weight_TK), np.array(found_TK)
        self.turns.append((layer, *copies, held))
        return found_TK, weights

    def lowered(self) -> list[set[int]]:
        """Of each turn."""
        return [
            {int(i) % len(held) for i in found_TK.flat if i >= len(held)}
            for _, _, _, found_TK, held in self.turns
        ]


class Oracle(NativeDecoder):
    """All of `full` in memory but for the experts that are lowered in a turn, whose weights are
    those of `lower` just then."""

    def __init__(self, full: Path, lower: Path, lowered: list[set[int]]) -> None:
        config, weights, _ = load_packed(full)
        self._full, self._lower = weights, load_packed(lower)[1]
        super().__init__(config, weights, threads=1)
        self._turns = iter(lowered)
        self.watch = self._put

    def _put(self, layer: int, *_: object) -> None:
        lowered = next(self._turns)
        for expert in range(self.config.layers[layer].feed_forward.num_experts):
            weights = self._lower if expert in lowered else self._full
            self.place_expert(layer, expert, *_matrices(weights, layer, expert))


def _matrices(weights: NativeWeights, layer: int, expert: int):
    return [weights.matrix(f"layers.{layer}.feed_forward.experts.{x}", expert) for x in _LEAVES]
