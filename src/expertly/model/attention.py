"""Grouped-query attention with what the families add to it: windows, norms, clipping, sinks."""

import torch
from torch import Tensor, nn

from expertly import kernels
from expertly.config import Attention, Norm
from expertly.mixture import Routing, Tokens
from expertly.mixture.attention_experts import AttentionExperts
from expertly.mixture.experts import empty
from expertly.mixture.routing import to_routing
from expertly.model.cache import Cache
from expertly.model.span import Span


class AttentionLayer(nn.Module):
    def __init__(
        self, hidden_size: int, attention: Attention, norm: Norm, layer: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.attention = attention
        self.layer = layer
        self.eps = norm.eps
        H, G, C, D = attention.num_heads, attention.num_kv_heads, attention.head_size, hidden_size
        experts = attention.experts
        self.heads = None if experts is None else AttentionExperts(D, G * C, experts, dtype)
        self.w_q_HCD = empty(H, C, D, dtype=dtype) if experts is None else None
        self.w_k_GCD = empty(G, C, D, dtype=dtype)
        self.w_v_GCD = empty(G, C, D, dtype=dtype)
        self.w_o_DHC = empty(D, H, C, dtype=dtype) if experts is None else None
        has_bias = attention.has_qkv_bias
        self.b_q_HC = empty(H, C, dtype=dtype) if has_bias else None
        self.b_k_GC = empty(G, C, dtype=dtype) if has_bias else None
        self.b_v_GC = empty(G, C, dtype=dtype) if has_bias else None
        self.b_o_D = empty(D, dtype=dtype) if attention.has_output_bias else None
        is_head, is_whole = attention.qk_norm == "head", attention.qk_norm == "projection"
        self.q_norm_C = empty(C, dtype=dtype) if is_head else None
        self.k_norm_C = empty(C, dtype=dtype) if is_head else None
        self.q_norm_HC = empty(H, C, dtype=dtype) if is_whole else None
        self.k_norm_GC = empty(G, C, dtype=dtype) if is_whole else None
        self.sinks_H = empty(H, dtype=dtype) if attention.has_sinks else None

    def forward(
        self, x_BSD: Tensor, span: Span, cache: Cache | None, tokens: Tokens
    ) -> tuple[Tensor, Routing | None]:
        """y_BSD, and the routing where heads are experts."""
        if self.heads is None:
            return self._by_all_heads(x_BSD, span, cache), None
        x_TD = x_BSD.flatten(0, 1)
        choice, rows = self.heads.choose(x_TD, tokens)
        q_TKX = self.heads.queries(x_TD, rows)
        y_BHSC = self._attend(self._as_heads(q_TKX, x_BSD.shape), x_BSD, span, cache)
        y_TD = self.heads.outputs(self._as_slots(y_BHSC), choice, rows)
        y_TD = y_TD if self.b_o_D is None else y_TD + self.b_o_D
        return y_TD.view_as(x_BSD), to_routing(choice, rows, tokens)

    def _by_all_heads(self, x_BSD: Tensor, span: Span, cache: Cache | None) -> Tensor:
        assert self.w_q_HCD is not None and self.w_o_DHC is not None
        q_BHSC = self._project(x_BSD, self.w_q_HCD, self.b_q_HC, self.q_norm_HC, self.q_norm_C)
        y_BSX = self._attend(q_BHSC, x_BSD, span, cache).transpose(1, 2).flatten(2)
        return nn.functional.linear(y_BSX, self.w_o_DHC.flatten(1), self.b_o_D)

    def _as_heads(self, q_TKX: Tensor, shape_BSD: torch.Size) -> Tensor:
        """The K heads that read one key head side by side, as `kernels.attention` has them."""
        batch, length, _ = shape_BSD
        groups, size = self.attention.num_kv_heads, self.attention.head_size
        q_BSKGC = q_TKX.view(batch, length, -1, groups, size)
        if self.attention.clip is not None:
            q_BSKGC = q_BSKGC.clamp(-self.attention.clip, self.attention.clip)
        return q_BSKGC.permute(0, 3, 2, 1, 4).flatten(1, 2)

    def _as_slots(self, y_BHSC: Tensor) -> Tensor:
        """y_TKX, the way back."""
        batch, _, length, size = y_BHSC.shape
        y_BGKSC = y_BHSC.view(batch, self.attention.num_kv_heads, -1, length, size)
        return y_BGKSC.permute(0, 3, 2, 1, 4).flatten(0, 1).flatten(2)

    def _attend(self, q_BHSC: Tensor, x_BSD: Tensor, span: Span, cache: Cache | None) -> Tensor:
        k_BGSC = self._project(x_BSD, self.w_k_GCD, self.b_k_GC, self.k_norm_GC, self.k_norm_C)
        v_BGSC = self._project(x_BSD, self.w_v_GCD, self.b_v_GC, None, None)
        cos, sin = (part.to(x_BSD.dtype) for part in span.angles(self.attention))
        q_BHSC = kernels.rotate(q_BHSC, cos, sin)
        k_BGNC = kernels.rotate(k_BGSC, cos, sin)
        v_BGNC = v_BGSC
        if cache is not None:
            self._lengthen(span, cache)
            k_BGNC, v_BGNC = cache.append(self.layer, k_BGNC, v_BGSC)
        seen_BSN = span.seen(self.attention.window)
        return kernels.attention(q_BHSC, k_BGNC, v_BGNC, seen_BSN, self.sinks_H)

    def _project(
        self,
        x_BSD: Tensor,
        w_HCD: Tensor,
        b_HC: Tensor | None,
        norm_HC: Tensor | None,
        norm_C: Tensor | None,
    ) -> Tensor:
        """Heads of a projection, BHSC: normed over all heads, clipped, split, normed a head."""
        bias = None if b_HC is None else b_HC.flatten()
        y_BSX = nn.functional.linear(x_BSD, w_HCD.flatten(0, 1), bias)
        if norm_HC is not None:
            y_BSX = kernels.rms_norm(y_BSX, norm_HC.flatten(), self.eps)
        if self.attention.clip is not None:
            y_BSX = y_BSX.clamp(-self.attention.clip, self.attention.clip)
        y_BSHC = y_BSX.view(*x_BSD.shape[:2], *w_HCD.shape[:2])
        if norm_C is not None:
            y_BSHC = kernels.rms_norm(y_BSHC, norm_C, self.eps)
        return y_BSHC.transpose(1, 2)

    def _lengthen(self, span: Span, cache: Cache) -> None:
        turn = span.lengthening(self.attention)
        if turn is not None:
            keys_BGNC = cache.keys(self.layer, span.before)
            keys_BGNC.copy_(kernels.rotate(keys_BGNC.float(), *turn))
