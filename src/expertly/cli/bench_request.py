"""What `expertly bench` was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expertly.cli.store_options import check_approximate
from expertly.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options, lists read; None: not given."""

    model: str | None
    threads: int | None
    prefill: list[int] | None
    decode: list[int] | None
    batch: list[int] | None
    pairs: int
    dtype: Literal["native", "int8", "int4"]
    memory: str | None
    context: int | None
    read_ahead: bool
    approximate: str | None
    lower: str | None
    synthetic: str | None
    bits: int
    out: Path | None
    routing: str | None
    peer: Literal["llama.cpp"] | None
    peer_python: str | None
    kernels: str
    is_json: bool

    def check(self) -> None:
        """Raises InputError for options that do not go together."""
        if (self.model is None) == (self.synthetic is None):
            raise InputError(
                "a bench is of one model", hint="give MODEL, or --synthetic NAME with --out FOLDER"
            )
        if self.synthetic is None and self.out is not None:
            raise InputError("--out without --synthetic", hint="add --synthetic NAME")
        if self.synthetic is not None and self.out is None:
            raise InputError(
                "--synthetic without --out", hint="add --out FOLDER, on a disk with room for it"
            )
        check_approximate(self.approximate, self.lower, self.memory)
        if self.peer is None and self.peer_python is not None:
            raise InputError("--peer-python without --peer", hint="add --peer llama.cpp")
        if self.approximate is not None and self.routing not in (None, "own"):
            raise InputError(
                "--approximate with --routing: choices are either the model's or not",
                hint="leave out one",
            )
        given = [
            name
            for name in ("memory", "synthetic", "routing", "approximate")
            if getattr(self, name)
        ]
        if self.peer is not None and given:
            raise InputError(f"--peer with --{given[0]}, which it lacks", hint="leave out one")


def numbers(name: str, text: str | None) -> list[int] | None:
    """Raises InputError for what is no list of numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.removeprefix("-").isdecimal() and part.isascii() for part in parts):
        raise InputError(f"{name} {text!r} is no list of numbers", hint=f"as {name} 128,512")
    if any(part.startswith("-") or len(part) > 9 for part in parts):
        raise InputError(
            f"{name} {text!r} has a number below 0 or of more than 9 digits",
            hint=f"as {name} 128,512",
        )
    return [int(part) for part in parts]
