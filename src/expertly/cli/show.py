"""Pieces to stdout as they come: as text, as JSON lines, or with the experts of each token."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from expertly.cli.experts_view import Consulted, Share, View, to_json
from expertly.cli.output import has_colour, note, safe
from expertly.cli.pace import Pace
from expertly.engine import Piece, shares
from expertly.text import Tokenizer

# a file or a pipe: room for all experts of most models
_PLAIN_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class Show:
    """How to show pieces; `layers` are the mixture layers to show, None for text alone."""

    tokenizer: Tokenizer
    layers: tuple[int, ...] | None
    is_json: bool

    def __call__(self, pieces: Iterator[Piece], prompt: str = "") -> None:
        """Print `prompt` and all pieces, then the pace on stderr. What was written so far stays
        whole when they are interrupted."""
        pace = Pace()
        timed = pace.watch(pieces)
        try:
            if self.is_json:
                self._json(timed)
            elif self.layers is None:
                _text(timed, prompt)
            else:
                self._experts(timed, prompt, self.layers)
        finally:
            note(pace.summary())

    def _json(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            value: dict[str, Any] = {"text": piece.text, "token_id": piece.token_id}
            if self.layers is not None:
                value |= to_json(self._consulted(piece), self.layers)
            value["finish_reason"] = piece.finish_reason
            print(json.dumps(value, ensure_ascii=False), flush=True)

    def _experts(self, pieces: Iterator[Piece], prompt: str, layers: tuple[int, ...]) -> None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PLAIN_WIDTH
        view = View(layers=layers, width=width, has_colour=has_colour(sys.stdout))
        tokens = []
        print(view.header(), flush=True)
        try:
            for piece in pieces:
                tokens.append(self._consulted(piece))
                print(view.line(tokens[-1]), flush=True)
        finally:
            print(f"\n{view.text(prompt, tokens)}\n\n{view.legend(tokens)}", flush=True)

    def _consulted(self, piece: Piece) -> Consulted:
        layers = [shares(routing) for routing in piece.routings or ()]
        return Consulted(
            label=self.tokenizer.token_text(piece.token_id),
            text=piece.text,
            token_id=piece.token_id,
            shares=tuple(tuple(Share(*share) for share in layer) for layer in layers),
        )


def _text(pieces: Iterator[Piece], prompt: str) -> None:
    # a file gets the model's text as it is, a terminal nothing that could steer it
    clean = safe if sys.stdout.isatty() else str
    print(clean(prompt), end="", flush=True)
    try:
        for piece in pieces:
            print(clean(piece.text), end="", flush=True)
    finally:
        print(flush=True)
