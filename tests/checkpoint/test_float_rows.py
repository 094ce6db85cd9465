"""Rows of float32 are those of the model that the checkpoint loads as, however it keeps them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from packing import FAMILIES, GPT_OSS, MIXTRAL
from tiny_checkpoints import change_tensors, write_tiny

from expertly.checkpoint import load
from expertly.checkpoint.float_rows import folder_rows
from expertly.checkpoint.packed_layout import all_places, all_vectors
from expertly.errors import CheckpointError

each_family = pytest.mark.parametrize("name", FAMILIES)


@each_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_and_vectors_are_the_models_parameters(tmp_path: Path, name: str, dtype) -> None:
    write_tiny(tmp_path, FAMILIES[name], dtype=dtype)
    model = load(tmp_path)
    values = {name: p.detach().numpy() for name, p in model.named_parameters()}
    with folder_rows(model.config, tmp_path) as source:
        for place in all_places(model.config):
            whole = values[place.parameter]
            matrix = whole if place.expert is None else whole[place.expert]
            found = source.rows(place, 0, place.rows)
            assert found.dtype == np.float32 and found.flags.c_contiguous
            assert np.array_equal(found, matrix.reshape(place.rows, place.columns)), place
        for vector, shape in all_vectors(model.config).items():
            found = source.vector(vector)
            assert found.shape == shape and np.array_equal(found, values[vector]), vector


@each_family
def test_any_rows_of_a_matrix_can_be_asked_for_in_any_order(tmp_path: Path, name: str) -> None:
    config = write_tiny(tmp_path, FAMILIES[name]).config
    with folder_rows(config, tmp_path) as source:
        for place in reversed(all_places(config)):
            whole = source.rows(place, 0, place.rows)
            middle = place.rows // 2
            parts = [source.rows(place, middle, place.rows - middle), source.rows(place, 0, middle)]
            assert np.array_equal(np.concatenate(parts[::-1]), whole)


def test_tensors_that_views_cut_apart_are_read_once_a_layer(tmp_path: Path, monkeypatch) -> None:
    config = write_tiny(tmp_path, GPT_OSS).config
    reads: list[str] = []
    with folder_rows(config, tmp_path) as source:
        real = source._source.read
        monkeypatch.setattr(
            source._source, "read", lambda name, entry: reads.append(name) or real(name, entry)
        )
        experts = [p for p in all_places(config) if p.expert is not None]
        for place in sorted(experts, key=lambda p: (p.parameter.split(".")[1], p.expert)):
            source.rows(place, 0, place.rows)
    # gate and up share a tensor
    assert len(reads) == len(set(reads)) == 2 * 2


def test_a_folder_that_is_not_what_its_config_asks_for_is_refused(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, MIXTRAL).config
    change_tensors(tmp_path, lm_head__weight=None)
    with (
        pytest.raises(CheckpointError, match=r"lacks 1 tensor \(lm_head\.weight\)"),
        folder_rows(config, tmp_path),
    ):
        pass
