"""Native models made from torch ones, in any format, without a checkpoint between them."""

import numpy as np
import torch

from expertly import _native
from expertly.model import Decoder, NativeDecoder
from expertly.model.allocate import allocate
from expertly.model.weights import NativeWeights, is_matrix, is_router, places


def native_of(
    decoder: Decoder, format: str = "f32", threads: int = 1, kernels: str = ""
) -> NativeDecoder:
    """The same model; matrices but the routers in `format`, or f32 where its blocks do not fit."""
    weights = weights_of(decoder, format)
    return NativeDecoder(decoder.config, weights, threads, kernels)


def weights_of(decoder: Decoder, format: str) -> NativeWeights:
    parameters = {name: tensor.detach().float() for name, tensor in decoder.named_parameters()}
    wanted = [
        place
        for name, w in parameters.items()
        if is_matrix(name)
        for place in places(name, w.shape)
    ]
    formats = {
        (place.parameter, place.expert): "f32" if is_router(place.parameter) else format
        for place in wanted
    }
    weights = allocate(wanted, formats)
    for place in wanted:
        whole = parameters[place.parameter]
        own = whole if place.expert is None else whole[place.expert]
        matrix = weights.matrix(place.parameter, place.expert)
        rows = own.reshape(place.rows, place.columns).contiguous().numpy()
        matrix.pack(_native.quantise(matrix.format, rows, None, 1).reshape(-1))
    for name, tensor in parameters.items():
        if not is_matrix(name):
            weights.vectors[name] = np.ascontiguousarray(tensor.numpy())
    return weights


def decoded(decoder: Decoder, format: str) -> Decoder:
    """A torch model whose weights are those that the format keeps."""
    weights = weights_of(decoder, format)
    twin = Decoder(decoder.config)
    twin.load_state_dict(decoder.state_dict())
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for (name, expert), matrix in weights.matrices.items():
            values = torch.from_numpy(matrix.unpack(0, matrix.rows))
            target = parameters[name] if expert is None else parameters[name][expert]
            target.copy_(values.view(target.shape))
    return twin.eval()
