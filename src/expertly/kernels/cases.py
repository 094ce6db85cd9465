"""Named cases for every kernel: one list that tests hold each path to and benchmarks time."""

from dataclasses import dataclass

import torch
from torch import Tensor

# largest error allowed, as a share of the largest value that is right
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """A grouped product: rows an expert, the rows' width (D) and the answer's (F)."""

    name: str
    counts: tuple[int, ...]
    width_in: int
    width_out: int

    @property
    def num_rows(self) -> int:
        return sum(self.counts)

    def draw(
        self, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_RD, w_EFD and counts_E; answers are about normal(0, 1)."""
        generator = torch.Generator().manual_seed(seed)
        x_RD = torch.randn(self.num_rows, self.width_in, generator=generator)
        shape_EFD = (len(self.counts), self.width_out, self.width_in)
        w_EFD = torch.randn(shape_EFD, generator=generator) * self.width_in**-0.5
        return x_RD.to(dtype), w_EFD.to(dtype), torch.tensor(self.counts)


@dataclass(frozen=True, kw_only=True)
class Attended:
    """An attention whose queries are the last of its keys. Every second sequence is padded on
    the left if `is_padded`."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_size: int
    num_queries: int
    num_keys: int
    batch: int = 2
    window: int | None = None
    is_padded: bool = False
    has_sinks: bool = False

    @property
    def is_plainly_causal(self) -> bool:
        return self.window is None and not self.is_padded and self.num_queries == self.num_keys

    def draw(
        self, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """q_BHSC, k_BGNC, v_BGNC, seen_BSN, sinks_H; a query sees at least itself."""
        generator = torch.Generator().manual_seed(seed)
        shape_k = (self.batch, self.num_kv_heads, self.num_keys, self.head_size)
        shape_q = (self.batch, self.num_heads, self.num_queries, self.head_size)
        q, k, v = (
            torch.randn(shape, generator=generator).to(dtype)
            for shape in (shape_q, shape_k, shape_k)
        )
        sinks_H = torch.randn(self.num_heads, generator=generator).to(dtype)
        return q, k, v, self._seen_BSN(), sinks_H if self.has_sinks else None

    def _seen_BSN(self) -> Tensor:
        key_N = torch.arange(self.num_keys)
        query_S1 = key_N[self.num_keys - self.num_queries :, None]
        seen_SN = key_N <= query_S1
        if self.window is not None:
            seen_SN = seen_SN & (key_N > query_S1 - self.window)
        seen_BSN = seen_SN.repeat(self.batch, 1, 1)
        if self.is_padded:
            seen_BSN[1::2, :, : self.num_keys // 3] = False
            seen_BSN |= key_N == query_S1
        return seen_BSN


GROUPED = (
    Grouped(name="no_tokens", counts=(0, 0, 0), width_in=16, width_out=8),
    Grouped(name="one_token", counts=(0, 1, 0, 0), width_in=16, width_out=24),
    Grouped(name="one_expert", counts=(300,), width_in=32, width_out=16),
    Grouped(name="few_rows", counts=(3, 1, 4, 2), width_in=32, width_out=16),
    Grouped(name="255_rows", counts=(64, 64, 64, 63), width_in=16, width_out=16),
    Grouped(name="256_rows", counts=(64, 64, 64, 64), width_in=16, width_out=16),
    Grouped(name="an_empty_expert", counts=(100, 0, 156, 64), width_in=16, width_out=24),
    Grouped(name="empty_at_both_ends", counts=(0, 170, 130, 0), width_in=24, width_out=40),
    Grouped(name="all_to_one_expert", counts=(0, 0, 300, 0), width_in=32, width_out=64),
    Grouped(name="odd_widths", counts=(120, 90, 77, 13), width_in=17, width_out=23),
    Grouped(name="odd_answer", counts=(150, 150), width_in=16, width_out=9),
    # 48 bytes in float32, 24 in bfloat16
    Grouped(name="aligned_in_float32_only", counts=(90, 210), width_in=12, width_out=12),
    Grouped(name="odd_counts", counts=(129, 1, 127, 63), width_in=48, width_out=32),
    Grouped(name="many_experts", counts=(5, 0, 9, 7, 1, 11) * 12, width_in=32, width_out=24),
    Grouped(name="large", counts=(700, 12, 300, 268, 0, 512, 1, 255), width_in=256, width_out=384),
)

ATTENDED = (
    Attended(name="one_token", num_heads=4, num_kv_heads=4, head_size=8, num_queries=1, num_keys=1),
    Attended(name="causal", num_heads=3, num_kv_heads=3, head_size=6, num_queries=9, num_keys=9),
    Attended(name="grouped", num_heads=6, num_kv_heads=2, head_size=10, num_queries=7, num_keys=7),
    Attended(
        name="one_kv_head", num_heads=5, num_kv_heads=1, head_size=4, num_queries=6, num_keys=6
    ),
    Attended(
        name="one_query", num_heads=4, num_kv_heads=2, head_size=8, num_queries=1, num_keys=21
    ),
    Attended(name="a_chunk", num_heads=4, num_kv_heads=2, head_size=8, num_queries=5, num_keys=13),
    Attended(
        name="window",
        num_heads=4,
        num_kv_heads=2,
        head_size=8,
        num_queries=12,
        num_keys=12,
        window=3,
    ),
    Attended(
        name="padded",
        num_heads=4,
        num_kv_heads=2,
        head_size=6,
        num_queries=10,
        num_keys=10,
        batch=3,
        is_padded=True,
    ),
    Attended(
        name="sinks",
        num_heads=6,
        num_kv_heads=3,
        head_size=8,
        num_queries=8,
        num_keys=8,
        has_sinks=True,
    ),
    Attended(
        name="everything",
        num_heads=6,
        num_kv_heads=3,
        head_size=10,
        num_queries=11,
        num_keys=17,
        batch=3,
        window=4,
        is_padded=True,
        has_sinks=True,
    ),
    Attended(
        name="large", num_heads=8, num_kv_heads=2, head_size=32, num_queries=200, num_keys=200
    ),
)
