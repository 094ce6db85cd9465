"""LongRoPE beyond the original context, where transformers' phimoe keeps the short factors."""

from dataclasses import replace
from typing import Any

import derivation
import numpy as np
import oracle
import pytest
import torch
from safetensors.numpy import load_file

from expertly.checkpoint import load
from expertly.checkpoint.shards import read_json
from expertly.model import Cache, Decoder

_ORIGINAL = 64  # of the cases in oracle_cases.py


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, Decoder]:
    folder = tmp_path_factory.mktemp("phimoe") / "model"
    oracle.build("phimoe", 0, folder)
    tensors = load_file(folder / "model.safetensors")
    wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    return read_json(folder / "config.json"), wide, load(folder)


def _ids(length: int) -> torch.Tensor:
    return torch.randint(0, 97, (1, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [_ORIGINAL - 1, _ORIGINAL, _ORIGINAL + 1, _ORIGINAL + 9])
def test_long_factors_begin_with_the_first_token_beyond_the_original_context(made, length) -> None:
    hf, tensors, model = made
    ids_BS = _ids(length)
    with torch.no_grad():
        ours = model(ids_BS).logits[0]
    expected = torch.from_numpy(derivation.phimoe(hf, tensors, ids_BS[0].tolist()))
    assert oracle.relative_error(ours, expected) <= oracle.TOLERANCE


def test_a_cache_that_grows_past_the_original_context_is_turned_to_the_long_factors(made) -> None:
    _, _, model = made
    ids_BS = _ids(_ORIGINAL + 3)
    # values and later layers keep what the short factors gave them: only one layer is exact
    one_layer = _first_layer_only(model)
    cache = Cache(one_layer.config)
    with torch.no_grad():
        one_layer(ids_BS[:, : _ORIGINAL - 2], cache=cache)
        for column in range(_ORIGINAL - 2, _ORIGINAL + 3):
            ours = one_layer(ids_BS[:, column : column + 1], cache=cache, logits="last").logits
        whole = one_layer(ids_BS, logits="last").logits
    assert oracle.relative_error(ours, whole) <= oracle.TOLERANCE


def test_a_long_sequence_does_not_change_its_short_neighbour(made) -> None:
    _, _, model = made
    long_BS, short_BS = _ids(_ORIGINAL + 6), _ids(20)
    ids_BS = torch.cat((long_BS, torch.nn.functional.pad(short_BS, (_ORIGINAL - 14, 0))))
    mask_BS = torch.ones_like(ids_BS, dtype=torch.bool)
    mask_BS[1, : _ORIGINAL - 14] = False
    with torch.no_grad():
        both = model(ids_BS, mask_BS).logits
        assert oracle.relative_error(both[0], model(long_BS).logits[0]) <= oracle.TOLERANCE
        alone = model(short_BS).logits[0]
    assert oracle.relative_error(both[1, -20:], alone) <= oracle.TOLERANCE


def _first_layer_only(model: Decoder) -> Decoder:
    config = replace(model.config, layers=model.config.layers[:1])
    short = Decoder(config).eval()
    short.load_state_dict({name: model.state_dict()[name] for name in short.state_dict()})
    return short
