"""Tokens and the experts they consulted as lines of text, with colours or without, and as JSON.

Pure formatting: knows numbers and strings, no model and no tensor.
"""

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size

from expertly.cli.output import safe

_TOKEN_CELLS = 16
_SHARE_CELLS = len("127:34% ")
_MARGIN = 2
_LISTED = 8


class Share(NamedTuple):
    """An expert and its share in a token's answer."""

    expert: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class Consulted:
    """A token and, one a mixture layer, its experts, the strongest first; empty if unknown.

    `label` is the token alone; `text` what it adds to the text, which may wait for its neighbours.
    """

    label: str
    text: str
    token_id: int
    shares: tuple[tuple[Share, ...], ...]

    def dominant(self) -> tuple[int, int] | None:
        """Index of the mixture layer and the expert with the largest share of all."""
        best = max(
            ((layer[0].weight, -i, layer[0].expert) for i, layer in enumerate(self.shares)),
            default=None,
        )
        return None if best is None else (-best[1], best[2])


@dataclass(frozen=True, kw_only=True)
class View:
    """`layers` are the model's indices of its mixture layers; `width` is in character cells."""

    layers: Sequence[int]
    width: int
    has_colour: bool

    def header(self) -> str:
        """What the lines mean, and the titles of their columns."""
        shown = self._columns()
        of_all = "" if len(shown) == len(self.layers) else f" of {len(self.layers)}; --json has all"
        lead = (
            "each token, then the experts it consulted in "
            f"{len(shown)} mixture layers{of_all} (strongest:share, then as many others as fit)"
        )
        titles = "".join(f"layer {self.layers[i]}".ljust(self._cells()) for i in shown)
        return f"{lead}\n{' ' * (_TOKEN_CELLS + _MARGIN)}{titles}".rstrip()

    def line(self, token: Consulted) -> str:
        """One token: its text as python spells it, then a column for each shown layer."""
        label = _cut(repr(token.label), _TOKEN_CELLS)
        name = self._paint(label, token.dominant()) + " " * _MARGIN
        columns = [self._cell(i, token.shares[i]) for i in self._columns()] if token.shares else []
        return (name + "".join(columns)).rstrip()

    def text(self, prompt: str, tokens: Sequence[Consulted]) -> str:
        """The prompt and the whole text, each token in the colour of its strongest expert."""
        return safe(prompt) + "".join(
            self._paint(safe(token.text), token.dominant()) for token in tokens
        )

    def legend(self, tokens: Sequence[Consulted]) -> str:
        """Which experts were the strongest of a token most often."""
        counts = Counter(place for token in tokens if (place := token.dominant()) is not None)
        parts = [
            f"{self._paint(f'layer {self.layers[i]} expert {expert}', (i, expert))} ({count})"
            for (i, expert), count in counts.most_common(_LISTED)
        ]
        more = f", {len(counts) - _LISTED} others" if len(counts) > _LISTED else ""
        return f"strongest expert of most tokens: {', '.join(parts)}{more}" if parts else ""

    def _room(self) -> int:
        return max(_SHARE_CELLS, self.width - _TOKEN_CELLS - _MARGIN)

    def _columns(self) -> list[int]:
        """Indices into the layers: all if they fit, else as many as fit, evenly spread."""
        fit = min(len(self.layers), self._room() // (_SHARE_CELLS + _MARGIN) or 1)
        last = len(self.layers) - 1
        return [last] if fit == 1 else [round(i * last / (fit - 1)) for i in range(fit)]

    def _cells(self) -> int:
        return self._room() // len(self._columns())

    def _cell(self, layer: int, shares: Sequence[Share]) -> str:
        texts = [f"{shares[0].expert}:{shares[0].weight:.0%}"]
        for share in shares[1:]:
            if len(" ".join([*texts, str(share.expert)])) > self._cells() - _MARGIN:
                break
            texts.append(str(share.expert))
        painted = [
            self._paint(text, (layer, share.expert))
            for text, share in zip(texts, shares, strict=False)
        ]
        return " ".join(painted) + " " * (self._cells() - len(" ".join(texts)))

    def _paint(self, text: str, place: tuple[int, int] | None) -> str:
        if not self.has_colour or place is None:
            return text
        # black on colour can be read on dark and light terminals; a line break ends the colour
        start, end = f"\x1b[30;48;5;{colour_of(*place)}m", "\x1b[0m"
        return "\n".join(f"{start}{part}{end}" if part else "" for part in text.split("\n"))


def colour_of(layer: int, expert: int) -> int:
    """A light colour of the 256-colour table, the same in every run. Neighbours differ: hues turn
    by the golden ratio."""
    hue = (expert * 0.618034 + layer * 0.381966) % 1.0
    saturation = (0.35, 0.6, 0.8)[expert % 3]
    red, green, blue = (round(5 * c) for c in colorsys.hsv_to_rgb(hue, saturation, 1.0))
    return 16 + 36 * red + 6 * green + blue


def to_json(token: Consulted, layers: Sequence[int]) -> dict[str, Any]:
    """A token with the experts of every layer, as JSON has it."""
    experts = [
        {
            "layer": layer,
            "experts": [share.expert for share in shares],
            "weights": [round(share.weight, 6) for share in shares],
        }
        for layer, shares in zip(layers, token.shares, strict=False)
    ]
    return {"token": token.label, "experts": experts}


def _cut(text: str, cells: int) -> str:
    if cell_len(text) <= cells:
        return set_cell_size(text, cells)
    return set_cell_size(text, cells - 1) + "…"
