"""How experts are cut from a dense feed-forward: which units an expert gets, which of them are
drawn anew, and by what its matrices are multiplied. Pure functions of a seed."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One expert: its units in order, and which of its own places are drawn anew (both int64).

    `up` and `down` are the factors of those two matrices.
    """

    units: Tensor
    redrawn: Tensor
    up: float = 1.0
    down: float = 1.0
    noise: float = 0.0


def generator(*key: object) -> torch.Generator:
    """The stream of random numbers that belongs to a key, whatever was drawn before."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def factors(scale: float) -> tuple[float, float]:
    """A scale shared between up and down, as evenly as a power of two for up allows: powers of
    two change no digit of a weight, whatever its type. (down(act(gate) * up) is linear in both,
    not in gate.)"""
    up = 2.0 ** round(math.log2(scale) / 2)
    return up, scale / up


def permuted(size: int, *key: object) -> Tensor:
    return torch.randperm(size, generator=generator(*key))


def some(size: int, share: float, *key: object) -> Tensor:
    """So many of `size` places, ascending, any set as likely as any other."""
    count = round(share * size)
    return permuted(size, *key)[:count].sort().values


def cut_gate(w_FD: Tensor, cut: Cut, *key: object) -> Tensor:
    return _cut(w_FD, cut, 0, 1.0, *key, "gate")


def cut_up(w_FD: Tensor, cut: Cut, *key: object) -> Tensor:
    return _cut(w_FD, cut, 0, cut.up, *key, "up")


def cut_down(w_DF: Tensor, cut: Cut, *key: object) -> Tensor:
    return _cut(w_DF, cut, 1, cut.down, *key, "down")


def _cut(matrix: Tensor, cut: Cut, dim: int, factor: float, *key: object) -> Tensor:
    """Units stand along `dim`. New weights are normal, with the mean and the standard deviation
    of those that they replace (Drop-Upcycling, arXiv 2502.19261)."""
    taken = matrix.index_select(dim, cut.units)
    if not len(cut.redrawn) and not cut.noise:
        return taken * factor
    values = taken.float()
    stream = generator(*key)
    noise = cut.noise * float(values.std(correction=0)) if cut.noise else 0.0
    if len(cut.redrawn):
        old = values.index_select(dim, cut.redrawn)
        new = torch.randn(old.shape, generator=stream) * old.std(correction=0) + old.mean()
        values = values.index_copy(dim, cut.redrawn, new)
    if noise:
        values = values + torch.randn(values.shape, generator=stream) * noise
    return (values * factor).to(matrix.dtype)
