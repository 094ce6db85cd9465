"""A second copy of a model's experts, at fewer bits, beside the one that it is run with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expertly import _native
from expertly.checkpoint.stored_experts import StoredExperts
from expertly.errors import InputError
from expertly.model.weights import Place
from expertly.store import Disk, Joined, Source
from expertly.store.policies import Key

# of the largest weight: what bfloat16 or 8 bits change in a router
_NEAR = 0.005
_SAME = "pack the same model at fewer bits: expertly pack MODEL FOLDER --bits 4"


def with_lower(
    full: StoredExperts, lower: StoredExperts, num_experts: Sequence[int]
) -> StoredExperts:
    """Both in slots of the full ones' size; a layer's lower copies are numbered after all of its
    `num_experts`."""

    def source(disk: Disk, arena: _native.Buffer, size: int) -> Source:
        return Joined(full.source(disk, arena, size), lower.source(disk, arena, size), num_experts)

    numbered = {
        (layer, num_experts[layer] + expert): own for (layer, expert), own in lower.pieces.items()
    }
    return StoredExperts(
        pieces={**full.pieces, **numbered},
        slot_bytes=full.slot_bytes,
        stamps={**full.stamps, **lower.stamps},
        source=source,
        router=full.router,
    )


def check_lower(full: StoredExperts, lower: StoredExperts, path: Path) -> None:
    """InputError unless `lower`, of `path`, has the same experts in no more bytes. Raises
    CheckpointError for a damaged router."""
    if _places(full) != _places(lower):
        raise InputError(
            f"{path} holds {_in_words(lower)}, the model {_in_words(full)}: no copies of each "
            "other",
            hint=_SAME,
        )
    if lower.slot_bytes > full.slot_bytes:
        raise InputError(
            f"an expert of {path} takes up to {lower.slot_bytes:,} bytes, one of the model "
            f"{full.slot_bytes:,}",
            hint="exchange MODEL and --lower, or pack the lower copy at fewer bits",
        )
    own, other = full.router(), lower.router()
    if not np.allclose(other, own, rtol=0.0, atol=_NEAR * float(np.abs(own).max())):
        raise InputError(
            f"{path} is another model of the same shape: its routers are others", hint=_SAME
        )


def _places(experts: StoredExperts) -> dict[Key, list[Place]]:
    return {key: [piece.place for piece in own] for key, own in experts.pieces.items()}


def _in_words(experts: StoredExperts) -> str:
    place = next(iter(experts.pieces.values()))[0].place
    layers = len({layer for layer, _ in experts.pieces})
    return f"{len(experts.pieces):,} experts in {layers} layers, {place.columns} x {place.rows}"
