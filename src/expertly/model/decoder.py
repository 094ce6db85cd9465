"""The one decoder: every family is this, with another config."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expertly import kernels
from expertly.config import Dense, Layer, Mixture, ModelConfig, Norm, SoftMixture
from expertly.errors import InputError
from expertly.mixture import FeedForward, MixtureLayer, Routing, SoftMixtureLayer, Tokens
from expertly.mixture.experts import empty
from expertly.model.attention import AttentionLayer
from expertly.model.cache import Cache
from expertly.model.span import Span

if TYPE_CHECKING:
    from expertly.text import Tokenizer

# tokens of a prompt that are read at once, so that they need little memory
PROMPT_CHUNK = 512


@dataclass(frozen=True)
class Output:
    """`logits`: float32, BSV for all columns or BV for the last; if they were asked for,
    `routings`: one a mixture layer in the order of `config.mixture_layers`, and
    `head_routings`: one a layer of `config.head_mixture_layers`."""

    logits: Tensor
    routings: tuple[Routing, ...] | None
    head_routings: tuple[Routing, ...] | None = None


class NormLayer(nn.Module):
    def __init__(self, hidden_size: int, norm: Norm, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = norm
        self.weight_D = empty(hidden_size, dtype=dtype)
        self.bias_D = empty(hidden_size, dtype=dtype) if norm.has_bias else None

    def forward(self, x_D: Tensor) -> Tensor:
        if self.norm.kind == "rms":
            return kernels.rms_norm(x_D, self.weight_D, self.norm.eps)
        return kernels.layer_norm(x_D, self.weight_D, self.bias_D, self.norm.eps)


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: Layer, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.attention_norm = NormLayer(hidden_size, config.norm, dtype)
        self.attention = AttentionLayer(hidden_size, layer.attention, config.norm, index, dtype)
        self.feed_forward_norm = NormLayer(hidden_size, config.norm, dtype)
        self.feed_forward = _feed_forward(config, layer.feed_forward, dtype)

    def forward(
        self, x_BSD: Tensor, span: Span, cache: Cache | None, tokens: Tokens, is_asked: bool
    ) -> tuple[Tensor, Routing | None, Routing | None]:
        """x_BSD, and the routings of the attention and of the feed-forward."""
        attended_BSD, of_heads = self.attention(self.attention_norm(x_BSD), span, cache, tokens)
        x_BSD = x_BSD + attended_BSD
        normed_BSD = self.feed_forward_norm(x_BSD)
        if isinstance(self.feed_forward, FeedForward):
            return x_BSD + self.feed_forward(normed_BSD), of_heads, None
        if isinstance(self.feed_forward, SoftMixtureLayer):
            return x_BSD + self.feed_forward(normed_BSD, span.mask_BS), of_heads, None
        y_TD, routing = self.feed_forward(normed_BSD.flatten(0, 1), tokens, is_asked)
        return x_BSD + y_TD.view_as(x_BSD), of_heads, routing


def _feed_forward(
    config: ModelConfig, rule: Dense | Mixture | SoftMixture, dtype: torch.dtype
) -> FeedForward | MixtureLayer | SoftMixtureLayer:
    if isinstance(rule, Mixture):
        return MixtureLayer(config.hidden_size, rule, dtype, config.vocab_size)
    if isinstance(rule, SoftMixture):
        return SoftMixtureLayer(config.hidden_size, rule, dtype)
    return FeedForward(config.hidden_size, rule.size, rule.glu, rule.has_bias, dtype)


class Decoder(nn.Module):
    """A model of `config`'s shape; its parameters are empty until loaded or initialised."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.prompt_chunk = PROMPT_CHUNK
        self.context = config.max_context
        self.embed_VD = empty(config.vocab_size, config.hidden_size, dtype=dtype)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer, index, dtype) for index, layer in enumerate(config.layers)
        )
        self.norm = NormLayer(config.hidden_size, config.norm, dtype)
        shape_VD = (config.vocab_size, config.hidden_size)
        self.head_VD = None if config.is_tied else empty(*shape_VD, dtype=dtype)
        self.b_head_V = empty(config.vocab_size, dtype=dtype) if config.has_head_bias else None

    def forward(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None = None,
        *,
        cache: Cache | None = None,
        logits: Literal["all", "last"] = "all",
        routings: bool = False,
    ) -> Output:
        """Logits of each next token. `mask_BS` (bool): false for padding, which changes nothing
        but its own columns; "last" is the last column, so pad on the left. With a cache the
        columns come after those that it holds, and their keys and values are added to it.

        Raises InputError for ids outside the vocabulary and more tokens than the context.
        """
        check_ids(ids_BS, self.config)
        check_length(ids_BS.shape[1] + (cache.length if cache else 0), self.config)
        span = Span(mask_BS, ids_BS, cache)
        tokens = _tokens(span.mask_BS, ids_BS)
        x_BSD = nn.functional.embedding(ids_BS, self.embed_VD)
        found: list[Routing] = []
        found_of_heads: list[Routing] = []
        for layer in self.layers:
            x_BSD, of_heads, routing = layer(x_BSD, span, cache, tokens, routings)
            if routing is not None:
                found.append(routing)
            if of_heads is not None:
                found_of_heads.append(of_heads)
        x_BSD = self.norm(x_BSD if logits == "all" else x_BSD[:, -1])
        head_VD = self.embed_VD if self.head_VD is None else self.head_VD
        logits_BSV = nn.functional.linear(x_BSD, head_VD, self.b_head_V).float()
        if not routings:
            return Output(logits_BSV, None)
        return Output(logits_BSV, tuple(found), tuple(found_of_heads))

    def train(self, mode: bool = True) -> Self:
        """As torch has it. Raises ConfigError for a router that could not learn anything."""
        if mode:
            self.config.check_trainable()
        return super().train(mode)

    def new_cache(self, batch_size: int = 1) -> Cache:
        return Cache(self.config, batch_size, self.embed_VD.device)


def check_ids(ids_BS: Tensor | NDArray[np.int64], config: ModelConfig) -> None:
    """Raises InputError for no tokens at all and for ids outside the vocabulary."""
    if ids_BS.ndim != 2 or 0 in ids_BS.shape:
        raise InputError(
            f"token ids of shape {tuple(ids_BS.shape)}", hint="give at least one token, as BS"
        )
    low, high = int(ids_BS.min()), int(ids_BS.max())
    if low < 0 or high >= config.vocab_size:
        raise InputError(
            f"token id {low if low < 0 else high} is outside the vocabulary of {config.vocab_size}",
            hint="encode the text with this model's own tokenizer",
        )


def check_length(length: int, config: ModelConfig) -> None:
    """Raises InputError if so many tokens do not fit the context."""
    if length > config.max_context:
        raise InputError(
            f"{length} tokens do not fit the context of {config.max_context}",
            hint="shorten the prompt or use a model with a longer context",
        )


def _tokens(mask_BS: Tensor, ids_BS: Tensor) -> Tokens:
    sequence_B = torch.arange(mask_BS.shape[0], device=ids_BS.device)
    sequence_BS = sequence_B[:, None].expand_as(mask_BS)
    return Tokens(mask_BS.flatten(), sequence_BS.flatten(), ids_BS.flatten())
