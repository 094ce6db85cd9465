"""How well a model predicts a text: bits per byte, beside general compressors."""

import gzip
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expertly.errors import InputError
from expertly.model import Decoder
from expertly.text import Tokenizer

_BATCH_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Score:
    """`nats`: the sum over tokens of -ln p, each token predicted once."""

    nats: float
    num_tokens: int
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes


def bits_per_byte(
    model: Decoder, tokenizer: Tokenizer, text: str, context: int, *, stride: int | None = None
) -> float:
    """Bits a model needs for each byte (UTF-8) of a text: `score(...).bits_per_byte`."""
    return score(model, tokenizer, text, context, stride=stride).bits_per_byte


def score(
    model: Decoder, tokenizer: Tokenizer, text: str, context: int, *, stride: int | None = None
) -> Score:
    """Every token of `text` predicted once from at most `context` tokens before it.

    Windows of `context` tokens begin every `stride` tokens (default: `context`, side by side, so
    that the first tokens of a window see little); a smaller stride costs more and sees more.
    The text's first token is predicted from the end-of-text token; where a tokenizer has none it
    is not counted, nor are its bytes. Raises InputError for an empty text or a bad stride.
    """
    stride = context if stride is None else stride
    if not 0 < stride <= context:
        raise InputError(f"stride {stride} with context {context}", hint="use 1 to the context")
    ids, num_bytes = _with_start(tokenizer, text)
    if len(ids) < 2:
        raise InputError("there is no text to evaluate on", hint="give a longer text")
    nats = 0.0
    for rows, firsts in _batches(ids, context, stride):
        nats += _nats(model, rows, firsts)
    return Score(nats=nats, num_tokens=len(ids) - 1, num_bytes=num_bytes)


def compressed_bits_per_byte(text: str) -> dict[str, float]:
    """What gzip -9 and xz -9e need for the same text, the rivals of a language model."""
    data = text.encode()
    return {
        "gzip": 8 * len(gzip.compress(data, 9, mtime=0)) / len(data),
        "xz": 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
    }


def _with_start(tokenizer: Tokenizer, text: str) -> tuple[list[int], int]:
    """Ids after one that only predicts, and the bytes that the others stand for."""
    ids = tokenizer.encode(text)
    special = tokenizer.special_ids
    starts = ids[:1] if ids and ids[0] in special else sorted(tokenizer.eos_ids)[:1]
    while ids and ids[0] in special:
        ids = ids[1:]
    while ids and ids[-1] in special:
        ids = ids[:-1]
    num_bytes = len(text.encode())
    if not starts and ids:
        num_bytes -= len(tokenizer.decode(ids[:1]).encode())
    return starts + ids, num_bytes


def _batches(
    ids: Sequence[int], context: int, stride: int
) -> list[tuple[list[Sequence[int]], list[int]]]:
    """Windows of up to context + 1 ids, with the first target of each that counts; windows of
    one length together."""
    windows: list[tuple[Sequence[int], int]] = []
    done = 0  # targets 1..done are predicted
    while done < len(ids) - 1:
        end = min(len(ids) - 1, context if done == 0 else done + stride)
        begin = max(0, end - context)
        windows.append((ids[begin : end + 1], done - begin))
        done = end
    size = max(1, _BATCH_TOKENS // context)
    groups: list[tuple[list[Sequence[int]], list[int]]] = []
    for window, first in windows:
        if not groups or len(groups[-1][0]) == size or len(groups[-1][0][0]) != len(window):
            groups.append(([], []))
        groups[-1][0].append(window)
        groups[-1][1].append(first)
    return groups


def _nats(model: Decoder, rows: list[Sequence[int]], firsts: list[int]) -> float:
    ids_BS = torch.tensor(rows, dtype=torch.int64, device=_device_of(model))
    with torch.no_grad():
        logits_BSV = model(ids_BS[:, :-1]).logits
        losses_T: Tensor = torch.nn.functional.cross_entropy(
            logits_BSV.flatten(0, 1), ids_BS[:, 1:].flatten(), reduction="none"
        )
    losses_BS = losses_T.view(len(rows), -1).double().cpu()
    return sum(
        float(losses_S[first:].sum()) for losses_S, first in zip(losses_BS, firsts, strict=True)
    )


def _device_of(model: Decoder) -> torch.device | None:
    """Models on native kernels have no parameters of torch's."""
    embed_VD = getattr(model, "embed_VD", None)
    return None if embed_VD is None else embed_VD.device
