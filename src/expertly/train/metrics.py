"""The numbers of a run, one JSON object a line, in step order even after a resume."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from expertly.train.board import Board
from expertly.train.files import write_whole, writing


class Metrics:
    """Appends rows to a file; opening it drops the rows after `step`, which will come again.
    Without a file rows go nowhere; with a board it has them too."""

    def __init__(self, path: Path | None, step: int, board: Board | None = None) -> None:
        self._path = path
        self._board = board
        if path is None:
            return
        with writing(path):
            write_whole(path, b"".join(_rows_up_to(path, step)))
            # unbuffered: closing must not write again what a full disk has refused
            self._file = path.open("ab", buffering=0)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One row; a number that is not finite becomes null, as JSON has no name for it."""
        if self._path is None:
            return
        if self._board is not None:
            self._board.write(kind, step, values)
        row = {"kind": kind, "step": step, **{key: _plain(v) for key, v in values.items()}}
        with writing(self._path):
            line = json.dumps(row, allow_nan=False).encode() + b"\n"
            while line:
                line = line[self._file.write(line) :]

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._path is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _rows_up_to(path: Path, step: int) -> list[bytes]:
    kept: list[bytes] = []
    if not path.is_file():
        return kept
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            is_kept = line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            continue  # a line that a killed run did not finish
        if is_kept:
            kept.append(line)
    return kept


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
