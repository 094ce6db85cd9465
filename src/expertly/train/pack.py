"""Texts as token ids in one memory-mapped file, made once and reused while nothing changed."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from expertly.errors import InputError
from expertly.train.files import digest, sync_file, sync_folder, write_whole
from expertly.train.texts import Domain

_FORMAT = 1
_PIECE_CHARS = 1 << 18
# a lone newline between two words is a token's edge whatever surrounds it
_EDGE = re.compile(r"(?<=\S\n)(?=\S)")


@dataclass(frozen=True, kw_only=True)
class Span:
    """One domain's tokens: from `start` up to `end` in the file."""

    name: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class Packed:
    tokens: np.ndarray[Any, Any]  # a memory map of uint16 or uint32
    spans: tuple[Span, ...]
    fingerprint: str  # of the texts, the share held out and the tokenizer


def pack(
    domains: tuple[Domain, ...], tokenizer_file: Path, folder: Path, end_id: int | None
) -> Packed:
    """The training texts as tokens, `end_id` after each document (None: nothing), in
    folder/tokens.bin; index.json, written last, says what it was made from."""
    fingerprint = _fingerprint(domains, tokenizer_file, end_id)
    index = _read_index(folder)
    if index is None or index["fingerprint"] != fingerprint:
        folder.mkdir(parents=True, exist_ok=True)
        index = _write(domains, tokenizer_file, folder, end_id, fingerprint)
    tokens = np.memmap(folder / "tokens.bin", dtype=index["dtype"], mode="r")
    starts, ends = index["starts"], index["ends"]
    spans = tuple(
        Span(name=domain.name, start=start, end=end, weight=domain.weight)
        for domain, start, end in zip(domains, starts, ends, strict=True)
    )
    return Packed(tokens=tokens, spans=spans, fingerprint=fingerprint)


def _fingerprint(domains: tuple[Domain, ...], tokenizer_file: Path, end_id: int | None) -> str:
    total = hashlib.blake2b(digest_size=32)
    total.update(f"{_FORMAT} {end_id} {digest(tokenizer_file)}".encode())
    for domain in domains:
        total.update(f"\n{len(domain.documents)} {domain.held_out_share}".encode())
        for document in domain.documents:
            total.update(hashlib.blake2b(document.read().encode(), digest_size=32).digest())
    return total.hexdigest()


def _read_index(folder: Path) -> dict[str, Any] | None:
    """The index, if there is one and the tokens are those it was written for."""
    path, tokens = folder / "index.json", folder / "tokens.bin"
    if not (path.is_file() and tokens.is_file()):
        return None
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        return index if index["tokens_digest"] == digest(tokens) else None
    except (ValueError, KeyError, TypeError):
        return None


def _write(
    domains: tuple[Domain, ...],
    tokenizer_file: Path,
    folder: Path,
    end_id: int | None,
    fingerprint: str,
) -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    part, path = folder / ".tokens.bin.part", folder / "tokens.bin"
    starts, ends, count = [], [], 0
    with part.open("wb") as file:
        for domain in domains:
            starts.append(count)
            for text in domain.training():
                for ids in _encode(tokenizer, text, end_id):
                    file.write(np.array(ids, dtype=dtype).tobytes())
                    count += len(ids)
            ends.append(count)
            if count == starts[-1]:
                raise InputError(
                    f"the text {domain.name} gives no tokens to train on",
                    hint="give more text, or hold out a smaller share",
                )
    sync_file(part)
    part.replace(path)
    sync_folder(folder)
    index = {
        "fingerprint": fingerprint,
        "dtype": np.dtype(dtype).name,
        "starts": starts,
        "ends": ends,
        "tokens_digest": digest(path),
    }
    write_whole(folder / "index.json", json.dumps(index, indent=2).encode())
    return index


def _encode(tokenizer: tokenizers.Tokenizer, text: str, end_id: int | None) -> Iterator[list[int]]:
    for piece in pieces(text):
        yield tokenizer.encode(piece, add_special_tokens=False).ids
    if end_id is not None:
        yield [end_id]


def pieces(text: str, size: int = _PIECE_CHARS) -> Iterator[str]:
    """The text in parts of about `size` characters, cut where no token reaches across."""
    start = 0
    while start < len(text):
        edge = _EDGE.search(text, start + size) if start + size < len(text) else None
        end = edge.start() if edge else len(text)
        yield text[start:end]
        start = end
