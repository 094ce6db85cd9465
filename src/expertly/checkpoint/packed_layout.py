"""Which blobs a packed folder has: one an expert, one for every other matrix, one for all vectors;
the same for whoever writes and whoever reads."""

from collections.abc import Mapping
from math import prod

from expertly import _native
from expertly.checkpoint.recipe import Key, layer_of
from expertly.config import ModelConfig
from expertly.families import parameters
from expertly.formats.packed import expert_key
from expertly.formats.packed_header import Blob
from expertly.formats.packed_writer import laid_out
from expertly.model.allocate import blobs
from expertly.model.weights import Place, Shape, is_matrix, places

VECTORS = "vectors"


def all_places(config: ModelConfig) -> list[Place]:
    """Every matrix of a model, in its order."""
    shapes = parameters(config)
    return [p for name, shape in shapes.items() if is_matrix(name) for p in places(name, shape)]


def all_vectors(config: ModelConfig) -> dict[str, Shape]:
    return {name: shape for name, shape in parameters(config).items() if not is_matrix(name)}


def groups(config: ModelConfig) -> dict[str, list[Place]]:
    """The matrices of each blob but the vectors', by its key."""
    wanted = all_places(config)
    found = {place.parameter: [place] for place in wanted if place.expert is None}
    for blob in blobs(wanted):
        expert = blob[0].expert
        assert expert is not None
        found[expert_key(layer_of(blob[0].parameter), expert)] = blob
    return found


def blob_of(key: str, group: list[Place], formats: Mapping[Key, str]) -> Blob:
    matrices = []
    for place in group:
        name = formats[place.parameter, place.expert]
        num_bytes = _native.layout_bytes(name, place.rows, place.columns)
        matrices.append((piece_name(place), name, place.rows, place.columns, num_bytes))
    return laid_out(key, matrices)


def piece_name(place: Place) -> str:
    """What a matrix is called in its blob: w_gate_EFD."""
    return place.parameter.rpartition(".")[2]


def vector_blob(config: ModelConfig) -> Blob:
    """All vectors, float32; a stack has a row an expert."""
    sizes = [
        (name, "f32", prod(shape[:-1]), shape[-1], 4 * prod(shape))
        for name, shape in all_vectors(config).items()
    ]
    return laid_out(VECTORS, sizes)
