"""Which two copies of a model may be run together, and that they then are, in every family and from
any kind of file."""

from pathlib import Path

import pytest
import torch
from lower_models import Oracle, Spy, both, passes
from packing import FAMILIES, pack
from tiny_checkpoints import tiny_model, write_tiny

from expertly.checkpoint import load, save
from expertly.checkpoint.apart import experts_at
from expertly.checkpoint.copies import check_lower
from expertly.checkpoint.gguf_saving import save_gguf
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.errors import InputError
from expertly.model.approximate import approximate

TINY_PARTS = [[3, 1, 4, 1, 5], *([token] for token in (9, 2, 6, 5, 3, 5, 8, 9, 7, 9))]
PARTS = [[1 + 37 * i % 4000 for i in range(9)], *([1 + 41 * i % 4000] for i in range(9, 20))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "packed"
    pack(bundled(), out, recipe_of_bits(8))
    return out


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lower") / "packed"
    pack(bundled(), out, recipe_of_bits(4))
    return out


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "dbrx", "wide"])
@pytest.mark.parametrize("bits", [(8, 2), (32, 4), (16, 16)])
def test_copies_of_other_weights_are_mixed_as_the_rule_says_in_every_family(
    tmp_path, name, bits
) -> None:
    hf = FAMILIES[name]
    for seed, width in enumerate(bits):
        source = tmp_path / f"model{seed}"
        save(tiny_model(hf, seed), source)
        pack(source, tmp_path / f"packed{seed}", recipe_of_bits(width))
    full, lower = tmp_path / "packed0", tmp_path / "packed1"
    model = both(full, lower, 3, "lower:1.05")
    spy = Spy(model)
    found = passes(model, TINY_PARTS)
    lowered = spy.lowered()
    assert any(lowered) and torch.equal(found, passes(Oracle(full, lower, lowered), TINY_PARTS))
    model.store.close()


@pytest.mark.parametrize("kind", ["packed", "gguf"])
def test_another_model_of_the_same_shape_is_told_by_its_router(tmp_path, folder, kind) -> None:
    """The bundled one with two experts of one layer exchanged, but in name."""
    model = load(bundled(), "float32")
    router_ED = model.get_parameter("layers.0.feed_forward.router.w_ED")
    with torch.no_grad():
        router_ED[[3, 5]] = router_ED[[5, 3]]
    save(model, tmp_path / "other")
    path = tmp_path / ("other.gguf" if kind == "gguf" else "packed")
    if kind == "gguf":
        save_gguf(tmp_path / "other", path, "q4_0")
    else:
        pack(tmp_path / "other", path, recipe_of_bits(4))
    with pytest.raises(InputError, match="another model of the same shape"):
        check_lower(experts_at(folder), experts_at(path), path)


def test_a_packed_folder_and_a_gguf_file_of_one_model_are_copies(tmp_path, folder) -> None:
    path = tmp_path / "lower.gguf"
    save_gguf(bundled(), path, "q4_0")
    check_lower(experts_at(folder), experts_at(path), path)
    assert experts_at(path).slot_bytes < experts_at(folder).slot_bytes


def test_a_lower_copy_needs_a_memory_budget(folder, smaller) -> None:
    with pytest.raises(InputError, match="which are all in memory"):
        load(folder, lower=smaller)


def test_copies_of_other_shapes_larger_ones_and_none_at_all_are_refused(
    tmp_path, folder, smaller
) -> None:
    write_tiny(tmp_path / "tiny")
    pack(tmp_path / "tiny", tmp_path / "packed", recipe_of_bits(4))
    with pytest.raises(InputError, match="128 experts in 4 layers, 192 x 64"):
        load(folder, memory="4GB", lower=tmp_path / "packed")
    with pytest.raises(InputError, match="takes up to") as caught:
        load(smaller, memory="4GB", lower=folder)
    assert "exchange" in caught.value.hint
    with pytest.raises(InputError, match="cannot be read one by one"):
        load(folder, memory="4GB", lower=tmp_path / "tiny")


def test_where_all_experts_fit_the_lower_copy_is_not_used(folder, smaller) -> None:
    model = load(folder, memory="4GB", lower=smaller, threads=1)
    found = approximate(model, "lower:1000")
    assert model.store is None and model.num_copies == 1
    assert torch.equal(passes(model, PARTS), passes(load(folder, threads=1), PARTS))
    assert found.lowered == 0


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_a_gguf_file_is_a_lower_copy_too(tmp_path, folder, kind) -> None:
    path = tmp_path / "lower.gguf"
    save_gguf(bundled(), path, kind)
    model = both(folder, path, 40, "lower:1")
    assert torch.isfinite(passes(model, PARTS)).all() and model.rechoose.lowered > 0
    if kind == "q8_0":
        # the very blocks that 8 bits are packed in
        assert torch.equal(passes(model, PARTS), passes(load(folder, threads=1), PARTS))
    model.store.close()
