"""Memory for a native decoder's matrices: one buffer for each layer's experts, their blobs (gate,
up, down adjacent) at multiples of 4 KiB, and one buffer for every other matrix."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from expertly import _native
from expertly.model.weights import NativeWeights, Place

BLOB_ALIGNMENT = 4096
_ALIGNMENT = 64

Formats = Mapping[tuple[str, int | None], str]


def blob_layout(formats: Formats, blob: list[Place]) -> tuple[list[int], int]:
    """Offsets of an expert's matrices in its blob, and the blob's padded size."""
    offsets, size = [], 0
    for place in blob:
        offsets.append(size)
        name = formats[place.parameter, place.expert]
        size += -(-_native.layout_bytes(name, place.rows, place.columns) // _ALIGNMENT) * _ALIGNMENT
    return offsets, -(-size // BLOB_ALIGNMENT) * BLOB_ALIGNMENT


def blobs(places: list[Place]) -> Iterator[list[Place]]:
    """The matrices of each expert, layer by layer; those of no expert are left out."""

    def blob_of(place: Place) -> tuple[int, int]:
        assert place.expert is not None
        return int(place.parameter.split(".")[1]), place.expert

    of_experts = [place for place in places if place.expert is not None]
    for _, group in groupby(sorted(of_experts, key=blob_of), key=blob_of):
        yield list(group)


def allocate(places: list[Place], formats: Formats) -> NativeWeights:
    """Zeroed matrices for `places`, each in its format. Raises MemoryError."""
    weights = NativeWeights()
    for place in places:
        if place.expert is None:
            name = formats[place.parameter, None]
            matrix = _native.Matrix(name, place.rows, place.columns)
            weights.matrices[place.parameter, None] = matrix
    for _, layer in groupby(blobs(places), key=lambda blob: blob[0].parameter):
        _allocate_experts(list(layer), formats, weights)
    return weights


def _allocate_experts(layer: list[list[Place]], formats: Formats, weights: NativeWeights) -> None:
    laid = [blob_layout(formats, blob) for blob in layer]
    buffer = _native.Buffer(sum(size for _, size in laid))
    start = 0
    for blob, (offsets, size) in zip(layer, laid, strict=True):
        for place, offset in zip(blob, offsets, strict=True):
            weights.matrices[place.parameter, place.expert] = _native.Matrix.view(
                formats[place.parameter, place.expert],
                place.rows,
                place.columns,
                buffer,
                start + offset,
            )
        start += size
