"""What was observed, as one frozen value of plain numbers: a dictionary with everything, or a page
of text with the most telling. Knows no tensors, needs no colour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# busier experts are darker; plain ASCII, so that it prints anywhere
_RAMP = " .:-=+*#%@"
_STRIP_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class TokenUse:
    """A token id that occurred often enough to be told apart."""

    id: int
    text: str
    count: int


@dataclass(frozen=True, kw_only=True)
class TokenChoices:
    """A token of a text and, one a mixture layer, the experts it chose with their weights, the
    most wanted first; no experts where none took it."""

    text: str
    experts: list[list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One mixture layer. Lists follow the order of the experts, of `Report.tokens_by_domain`,
    or of `Report.vocabulary`; the definitions are in `expertly.observe.measure`."""

    layer: int  # index in the decoder
    num_experts: int
    num_chosen: int
    num_rows: int
    load: list[float]
    entropy: float  # of the load, 0 to 1
    max_violation: float
    gini: float
    dead_experts: list[int]
    token_entropy: float  # nats
    repeat_share: float | None  # None: no token had one before it
    coactivation: list[list[float]]
    pair_lift: list[list[float]]
    tokens_by_expert: list[int]  # tokens that consulted the expert
    domain_rows: list[list[int]]
    domain_row_share: list[list[float]]
    domain_token_share: list[list[float]]
    domain_entropy: float  # bits
    information: float  # bits, of domain and expert
    shuffled_information: list[float]  # bits, one a shuffle
    token_information: float  # bits, of tracked token id and expert
    shuffled_token_information: float  # bits, the mean of a few shuffles
    halves_information: float | None  # bits; None: a text had no second half to compare
    vocabulary_rows: list[list[int]]  # a tracked id, an expert: rows
    favourites: list[list[int]]  # of each expert: positions in the vocabulary, best first

    @property
    def fair_row_share(self) -> float:
        return 1 / self.num_experts

    @property
    def fair_token_share(self) -> float:
        return self.num_chosen / self.num_experts


@dataclass(frozen=True, kw_only=True)
class Report:
    tokens_by_domain: dict[str, int]
    min_count: int  # ids that occurred less often are not in the vocabulary
    vocabulary: list[TokenUse]
    layers: list[LayerReport]
    samples: dict[str, list[TokenChoices]]  # the beginnings of the texts, if they were asked for

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; fair shares beside the shares they are to be held against."""
        document = asdict(self)
        for shown, layer in zip(document["layers"], self.layers, strict=True):
            shown["fair_row_share"] = layer.fair_row_share
            shown["fair_token_share"] = layer.fair_token_share
        return document

    def to_text(self, top: int = 5) -> str:
        """A page: a line a layer, the strongest co-activations, each domain's `top` experts."""
        parts = [self._head(), self._layers(), self._coactivations(top), self._specialists(top)]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def _head(self) -> list[str]:
        texts = ", ".join(f"{name} {count:,}" for name, count in self.tokens_by_domain.items())
        return [f"{sum(self.tokens_by_domain.values()):,} tokens: {texts}"]

    def _layers(self) -> list[str]:
        rows = [
            (
                str(layer.layer),
                f"{layer.entropy:.3f}",
                f"{layer.max_violation:.2f}",
                f"{layer.gini:.2f}",
                str(len(layer.dead_experts)),
                f"{layer.token_entropy:.2f}",
                "-" if layer.repeat_share is None else f"{layer.repeat_share:.1%}",
                f"|{strip(layer.load)}|",
            )
            for layer in self.layers
        ]
        heads = ("layer", "entropy", "MaxVio", "Gini", "dead", "token entropy", "repeats", "load")
        notes = (
            "repeats: tokens whose first expert is the previous token's; by chance 1 in E",
            f"load: a character an expert, '{_RAMP}' from idle to three times its fair share",
        )
        return [*table(heads, rows, left=(7,)), *notes, *self._dead()]

    def _dead(self) -> Iterator[str]:
        for layer in self.layers:
            if layer.dead_experts:
                names = ", ".join(map(str, layer.dead_experts))
                yield f"dead in layer {layer.layer} (under 1% of a fair share): {names}"

    def _coactivations(self, top: int) -> list[str]:
        pairs = sorted(
            (-share, layer.layer, i, j)
            for layer in self.layers
            for i, row in enumerate(layer.coactivation)
            for j, share in enumerate(row)
            if i != j and share > 0 and layer.tokens_by_expert[i] >= self.min_count
        )[:top]
        chance = {
            layer.layer: (layer.num_chosen - 1) / max(1, layer.num_experts - 1)
            for layer in self.layers
        }
        rows = [
            (str(layer), str(i), str(j), f"{-share:.0%}", f"{chance[layer]:.0%}")
            for share, layer, i, j in pairs
        ]
        heads = ("layer", "expert", "consulted with", "of its tokens", "by chance")
        return table(heads, rows) if rows else []

    def _specialists(self, top: int) -> list[str]:
        rows = [
            (
                name,
                str(layer.layer),
                str(expert),
                f"{share:.0%}",
                f"{share / layer.fair_token_share:.1f}x",
                self._favourites(layer, expert),
            )
            for n, name in enumerate(self.tokens_by_domain)
            for share, layer, expert in self._experts_of_domain(n)[:top]
        ]
        heads = ("domain", "layer", "expert", "of its tokens", "fair", "the expert's own tokens")
        return table(heads, rows, left=(0, 5)) if rows else []

    def _experts_of_domain(self, n: int) -> list[tuple[float, LayerReport, int]]:
        found = [
            (share, layer, expert)
            for layer in self.layers
            for expert, share in enumerate(layer.domain_token_share[n])
            if share > 0
        ]
        return sorted(found, key=lambda x: (-x[0] / x[1].fair_token_share, x[1].layer, x[2]))

    def _favourites(self, layer: LayerReport, expert: int) -> str:
        return " ".join(repr(self.vocabulary[u].text) for u in layer.favourites[expert][:6])


def strip(load: list[float]) -> str:
    """One character an expert: its load against the fair share, as a step of the ramp; experts
    are averaged in neighbouring groups where there are more than fit."""
    group = -(-len(load) // _STRIP_WIDTH)
    steps = len(_RAMP) - 1
    characters = ""
    for start in range(0, len(load), group):
        part = load[start : start + group]
        times_fair = sum(part) / len(part) * len(load)
        # a third of the ramp a fair share; anything above idle is seen
        step = min(steps, max(1 if times_fair > 0 else 0, round(times_fair * steps / 3)))
        characters += _RAMP[step]
    return characters


def table(
    heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: tuple[int, ...] = ()
) -> list[str]:
    """Lines of columns as wide as their widest cell, to the right unless named in `left`."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        placed = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(placed).rstrip()

    return [line(heads), *map(line, rows)]
