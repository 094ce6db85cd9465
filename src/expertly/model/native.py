"""The decoder on native kernels: for inference, with quantised or float weights.

A layer is two calls: up to the router's choice, then the experts. Tokens are rows; padding is
left out before the first of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expertly import _native
from expertly.config import Mixture, ModelConfig
from expertly.device import DeviceTier, HostExpert
from expertly.mixture import Choice, Routing
from expertly.mixture.routing import sort_rows, to_routing
from expertly.model.angles import long_context, tables_of
from expertly.model.columns import Columns
from expertly.model.decoder import PROMPT_CHUNK, Output, check_ids, check_length
from expertly.model.native_layers import (
    check_native,
    dense_bytes,
    expert_bytes,
    native_layer,
    native_norm,
)
from expertly.model.paged import PagedCache, pages_of
from expertly.model.weights import Floats, NativeWeights
from expertly.store import ExpertStore

if TYPE_CHECKING:
    from expertly.text import Tokenizer

Numbers = NDArray[np.int32]
Watch = Callable[[int, NDArray[np.int64], Numbers, Floats], None]
# layer, sequence_T, position_T and a router's ids_TK, weight_TK, logits_TE, to the ids_TK and
# weight_TK that are computed with; -1 leaves a slot out, and E more is the second copy
Rechoose = Callable[
    [int, NDArray[np.int64], NDArray[np.int64], Numbers, Floats, Floats], tuple[Numbers, Floats]
]


class NativeDecoder:
    """A model of `config`'s shape over weights that are loaded; it is run, not trained."""

    def __init__(
        self, config: ModelConfig, weights: NativeWeights, threads: int, kernels: str = ""
    ) -> None:
        check_native(config)
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.prompt_chunk = PROMPT_CHUNK
        self.context = config.max_context
        self.runtime = _native.Runtime(threads, kernels)
        self._step = _native.Step(self.runtime, config.hidden_size)
        self._turn = Lock()  # a step is of one pass at a time
        self._layers = [native_layer(config, index, weights) for index in range(len(config.layers))]
        self._mixtures = config.mixture_layers
        # of each routed expert; the second one's ids come after all of the first's
        self.num_copies = weights.num_copies
        attentions = [layer.attention for layer in config.layers]
        self._angles, self._long_context = tables_of(attentions), long_context(attentions)
        self._tables = list({id(table): table for table in self._angles}.values())
        self._norm = native_norm(config, "norm", weights)
        self._embedding = weights.matrix("embed_VD")
        self._head = self._embedding if config.is_tied else weights.matrix("head_VD")
        self._head_bias = weights.vector("b_head_V")
        # where experts come from that are not all in memory
        self.store: ExpertStore | None = None
        # a device that holds some experts and computes them
        self.tier: DeviceTier | None = None
        # what a memory budget means for this model, in words
        self.budget: str | None = None
        # told what each mixture layer chooses: layer, position_T, ids_TK, weight_TK
        self.watch: Watch | None = None
        # puts another choice in place of the routers': answers are then not the model's own
        self.rechoose: Rechoose | None = None
        self.dense_bytes = dense_bytes(weights, self._head)
        # an expert's in each mixture layer, and its last copy's
        self.expert_bytes = expert_bytes(config, weights, 0)
        self.lower_bytes = expert_bytes(config, weights, weights.num_copies - 1)

    def place_expert(
        self,
        layer: int,
        expert: int,
        gate: _native.Matrix,
        up: _native.Matrix,
        down: _native.Matrix,
    ) -> None:
        """An expert's weights are elsewhere now."""
        self._layers[layer].place(expert, gate, up, down)

    def host_expert(self, layer: int, expert: int) -> HostExpert:
        """Where an expert lies now, for whoever copies it."""
        rule = self.config.layers[layer].feed_forward
        assert isinstance(rule, Mixture)
        gate, up, down, *biases = self._layers[layer].expert(expert)
        gate_bias, up_bias = (None if bias is None else bias.ravel() for bias in biases)
        return HostExpert(gate, up, down, gate_bias, up_bias, rule.glu)

    def new_cache(self, batch_size: int = 1) -> PagedCache:
        return PagedCache(self.config, batch_size)

    def __call__(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None = None,
        *,
        cache: PagedCache | None = None,
        logits: Literal["all", "last"] = "all",
        routings: bool = False,
    ) -> Output:
        """As `Decoder`'s; logits of padding are zeros. Threads wait for each other.

        Raises InputError for ids outside the vocabulary and more tokens than the context. A pass
        that ends early, as by Ctrl-C, adds nothing to the cache.
        """
        check_ids(ids_BS.numpy(), self.config)
        columns = Columns(ids_BS.shape, mask_BS)
        cache = cache or self.new_cache(ids_BS.shape[0])
        lengths = zip(cache.lengths, columns.counts_B, strict=True)
        check_length(max(map(sum, lengths)), self.config)
        position_T = np.array(cache.lengths)[columns.sequence_T] + columns.rank_T
        with self._turn, self._adding(cache, columns.counts_B):
            self._begin(columns.tokens_of(ids_BS), columns.sequence_T, position_T, cache)
            found = self._run_layers(cache, columns, position_T, routings)
            return Output(self._logits(columns, logits), found)

    def _begin(
        self,
        ids_T: NDArray[np.int64],
        sequence_T: NDArray[np.int64],
        position_T: NDArray[np.int64],
        cache: PagedCache,
    ) -> None:
        for table in self._tables:
            table.reach(max(cache.lengths))
        angle_T = position_T
        if self._long_context is not None:
            is_long_B = np.array(cache.lengths) > self._long_context
            angle_T = position_T + self._angles[0].size * is_long_B[sequence_T]
        ids, sequence, position, angle = (
            part_T.astype(np.int32) for part_T in (ids_T, sequence_T, position_T, angle_T)
        )
        self._step.begin(
            cache.pool, self._embedding, ids, sequence, position, angle, cache.pages_BN
        )

    @contextmanager
    def _adding(self, cache: PagedCache, counts_B: list[int]) -> Iterator[None]:
        """Room for so many more tokens of each sequence, which an exception takes back."""
        before_B = list(cache.lengths)
        is_turned = self._lengthen(cache, counts_B)
        cache.admit(counts_B)
        try:
            yield
        except BaseException:
            # keys that were turned for the longer context are no shorter one's
            cache.truncate(0 if is_turned else before_B)
            raise

    def _lengthen(self, cache: PagedCache, counts_B: list[int]) -> bool:
        """Turn the keys of sequences that grow past LongRoPE's original context, if any do."""
        is_turned = False
        if self._long_context is None:
            return is_turned
        for sequence, count in enumerate(counts_B):
            pages, length = cache.pages_BN[sequence], cache.lengths[sequence]
            for index, table in enumerate(self._angles):
                turning = table.turning(length, count)
                if turning is not None:
                    _native.turn_keys(cache.pool, index, pages[: pages_of(length)], *turning)
                    is_turned = True
        return is_turned

    def _run_layers(
        self,
        cache: PagedCache,
        columns: Columns,
        position_T: NDArray[np.int64],
        has_routings: bool,
    ) -> tuple[Routing, ...] | None:
        found = []
        step, pool = self._step, cache.pool
        for index, layer in enumerate(self._layers):
            table = self._angles[index]
            step.attend(layer, index, pool, table.cos, table.sin)
            rule = self.config.layers[index].feed_forward
            if self.rechoose is not None and isinstance(rule, Mixture):
                choice = self.rechoose(index, columns.sequence_T, position_T, *step.choice(layer))
                step.set_choice(layer, *choice)
            if has_routings and isinstance(rule, Mixture):
                found.append(_routing(self._choice(layer, rule), rule, columns))
            if self.watch is not None and isinstance(rule, Mixture):
                self.watch(index, position_T, *self._choice(layer, rule)[:2])
            if self.tier is not None and isinstance(rule, Mixture):
                self._run_tiered(self.tier, index, layer)
            elif self.store is not None and isinstance(rule, Mixture):
                self._run_stored(self.store, index, layer)
            else:
                step.feed_forward(layer)
        return tuple(found) if has_routings else None

    def _choice(self, layer: _native.Layer, rule: Mixture) -> tuple[Numbers, Floats, Floats]:
        """Of experts, whichever copy of them it is."""
        ids_TK, weight_TK, logits_TE = self._step.choice(layer)
        if self.num_copies > 1:
            ids_TK = without_copies(ids_TK, rule.num_experts)
        return ids_TK, weight_TK, logits_TE

    def _run_stored(self, store: ExpertStore, index: int, layer: _native.Layer) -> None:
        """The chosen experts as the store has them; sums run in slot order whoever comes first."""
        ids = np.unique(self._step.choice(layer)[0])
        chosen = ids[ids >= 0].tolist()
        self._step.begin_experts(layer)
        for group in store.get(index, chosen, lambda: self._look_ahead(store, index)):
            self._step.add_experts(layer, group)
        self._step.end_experts(layer)

    def _run_tiered(self, tier: DeviceTier, index: int, layer: _native.Layer) -> None:
        """The chosen experts on a device and here; sums run in slot order wherever they are."""
        ids, counts = np.unique(self._step.choice(layer)[0], return_counts=True)
        rows = {e: n for e, n in zip(ids.tolist(), counts.tolist(), strict=True) if e >= 0}
        store = self.store
        self._step.begin_experts(layer)
        tier.run(
            index,
            rows,
            _Turn(self._step, layer),
            store,
            None if store is None else lambda: self._look_ahead(store, index),
        )
        self._step.end_experts(layer)

    def _look_ahead(self, store: ExpertStore, index: int) -> None:
        """Have the next mixture's experts read that it would choose if it came now: a layer changes
        the residual little."""
        later = next((i for i in self._mixtures if i > index), self._mixtures[0])
        if later > index and store.looks_ahead():
            ids = self._step.expected(self._layers[later])
            wanted = list(dict.fromkeys(ids))
            store.prefetch(later, self.tier.missing(later, wanted) if self.tier else wanted)

    def _logits(self, columns: Columns, which: Literal["all", "last"]) -> Tensor:
        rows_T = columns.last_rows() if which == "last" else np.arange(columns.num_tokens)
        found_TV = torch.from_numpy(
            self._step.logits(self._norm, self._head, self._head_bias, rows_T.astype(np.int32))
        )
        return columns.spread_last(found_TV) if which == "last" else columns.spread(found_TV)


def without_copies(ids_TK: Numbers, num_experts: int) -> Numbers:
    """The experts that these are copies of; -1 stays."""
    return np.where(ids_TK < 0, ids_TK, ids_TK % num_experts).astype(np.int32)


class _Turn:
    """A layer's experts in a step that has begun them."""

    def __init__(self, step: _native.Step, layer: _native.Layer) -> None:
        self._step, self._layer = step, layer

    def rows_of(self, experts: Sequence[int]) -> Floats:
        return self._step.rows_of(self._layer, experts)

    def put_rows(self, experts: Sequence[int], y_RD: Floats) -> None:
        self._step.put_rows(self._layer, experts, y_RD)

    def add(self, experts: Sequence[int]) -> None:
        self._step.add_experts(self._layer, experts)


def _routing(choice: tuple[Numbers, Floats, Floats], rule: Mixture, columns: Columns) -> Routing:
    """The choice of the tokens, put among the columns of padding (which chose expert 0)."""
    ids_TK, weight_TK, logits_TE = (
        columns.spread(torch.from_numpy(part)).flatten(0, 1) for part in choice
    )
    scores_TE = logits_TE if rule.router.rule == "sparsemixer" else logits_TE.softmax(-1)
    kept_TK = ids_TK >= 0
    found = Choice(ids_TK.long(), weight_TK, logits_TE, logits_TE.softmax(-1), scores_TE, kept_TK)
    rows = sort_rows(found.ids_TK, rule.num_experts, kept_TK)
    return to_routing(found, rows, columns.tokens())
