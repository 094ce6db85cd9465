"""Tiny dense models, every tensor random, as transformers saves and runs them."""

import itertools
from pathlib import Path

import oracle
import torch
from oracle_cases import CASES
from torch import Tensor

import expertly
from expertly.rewrite import Rewritten

# logits of an exact mixture may differ from the dense model's by this much, in their deviations
EXACT = 1e-5

# llama's second case has biases that no mixture has, qwen3's second windows in some layers alone
WITHOUT_MIXTURE = {("llama", 1), ("qwen3", 1)}
DENSE = [
    (family, case)
    for family in ("llama", "mistral", "qwen2", "qwen3")
    for case in range(len(CASES[family]))
    if (family, case) not in WITHOUT_MIXTURE
]


def with_width(width: int) -> list[tuple[str, int]]:
    """The cases whose feed-forward can be cut into so many parts."""
    return [key for key in DENSE if CASES[key[0]][key[1]]["intermediate_size"] % width == 0]


def errors(source: oracle.Oracle, written: Rewritten) -> tuple[float, float]:
    """How far the mixture is from the dense model when transformers runs it, and when we do."""
    theirs = oracle.open_folder(written.folder, written.config.family)
    return error_of(source, theirs.logits), error_of(source, our_logits(written.folder))


def our_logits(folder: Path):
    model = expertly.load(folder, "float32")

    def logits(ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        with torch.no_grad():
            return model(ids_BS, mask_BS).logits

    return logits


def error_of(source: oracle.Oracle, logits) -> float:
    ids_BS, mask_BS = oracle.ragged(source.model.config.vocab_size, seed=7)
    want, got = source.logits(ids_BS, mask_BS)[mask_BS], logits(ids_BS, mask_BS)[mask_BS]
    return oracle.relative_error(got, want)


def fresh(folder: Path) -> Path:
    """A name in `folder` that is not taken."""
    return next(p for p in (folder / f"out{i}" for i in itertools.count()) if not p.exists())
