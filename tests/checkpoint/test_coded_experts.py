"""gpt-oss with experts in MXFP4: codes and scales in two tensors of bytes."""

import json
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from safetensors.torch import load_file, save_file

from expertly.checkpoint import load
from expertly.checkpoint.coded import mxfp4_blocks
from expertly.errors import CheckpointError
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise

# the numbers of E2M1 (OCP Microscaling 1.0, table 5), by their code
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
WIDTH, SIZE = 128, 128


def decoded(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The numbers that codes (..., groups, 16) and scales (..., groups) stand for."""
    pairs = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], axis=-1)
    groups = (
        pairs.reshape(*codes.shape[:-1], 32) * np.exp2(scales.astype(np.float32) - 127)[..., None]
    )
    return groups.reshape(*codes.shape[:-2], -1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model with coded experts, and with the numbers that these stand for."""
    plain, coded = (tmp_path_factory.mktemp(name) for name in ("plain", "coded"))
    case = {"hidden_size": WIDTH, "intermediate_size": SIZE}
    oracle.CASES["gpt_oss"].append({**oracle.CASES["gpt_oss"][0], **case})
    oracle.build("gpt_oss", len(oracle.CASES["gpt_oss"]) - 1, plain)
    oracle.CASES["gpt_oss"].pop()
    tensors = load_file(plain / "model.safetensors")
    code_experts(tensors, plain, coded)
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
    }
    (coded / "config.json").write_text(json.dumps(config))
    return plain, coded


def code_experts(tensors: dict[str, torch.Tensor], plain: Path, coded: Path) -> None:
    """Random codes for every expert, saved in `coded`; their numbers saved in `plain`."""
    rng, kept = np.random.default_rng(0), dict(tensors)
    for name, stored in tensors.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            continue
        num_experts, columns, rows = stored.shape
        codes = rng.integers(0, 256, (num_experts, rows, columns // 32, 16), np.uint8)
        scales = rng.integers(120, 126, (num_experts, rows, columns // 32)).astype(np.uint8)
        del kept[name]
        kept |= {
            f"{name}_blocks": torch.from_numpy(codes),
            f"{name}_scales": torch.from_numpy(scales),
        }
        # plain experts are stored transposed
        tensors[name] = torch.from_numpy(decoded(codes, scales)).mT.contiguous()
    save_file(tensors, plain / "model.safetensors")
    save_file(kept, coded / "model.safetensors")


def test_blocks_decode_to_what_codes_and_scales_say() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (5, 3, 16), np.uint8)
    scales = rng.integers(100, 140, (5, 3)).astype(np.uint8)
    found = dequantise(BLOCKS["mxfp4"], mxfp4_blocks(codes, scales), (5, 96))
    assert np.array_equal(found, decoded(codes, scales))


def test_neighbours_share_a_byte_and_the_first_is_in_its_low_half() -> None:
    codes, scales = np.zeros((1, 1, 16), np.uint8), np.full((1, 1), 127, np.uint8)
    codes[0, 0, 0] = 0x71  # 0.5, then 6
    found = dequantise(BLOCKS["mxfp4"], mxfp4_blocks(codes, scales), (1, 32))
    assert found[0, :3].tolist() == [0.5, 6.0, 0.0]


def test_coded_experts_load_as_the_numbers_they_stand_for(folders) -> None:
    plain, coded = (load(folder, "float32") for folder in folders)
    for (name, theirs), ours in zip(plain.named_parameters(), coded.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_native_decoder_keeps_the_codes_and_computes_the_same(folders) -> None:
    plain, coded = folders
    native = load(coded, "native", threads=2)
    # 17 bytes for 32 weights: three matrices an expert
    assert native.expert_bytes == [3 * WIDTH * SIZE // 32 * 17] * 2
    ids_BS = torch.arange(40).reshape(2, 20) % native.config.vocab_size
    with torch.no_grad():
        exact = load(plain, "float32")(ids_BS).logits
    error_BS = (native(ids_BS).logits - exact).std(-1) / exact.std()
    # of most tokens: a choice of experts that was nearly even may fall the other way
    assert error_BS.median() < 0.05


def test_coded_experts_can_be_quantised_anew(folders) -> None:
    _, coded = folders
    four, kept = load(coded, "int8", threads=1), load(coded, "native", threads=1)
    assert four.expert_bytes[0] > kept.expert_bytes[0]


@pytest.mark.parametrize("which", ["blocks", "scales"])
def test_codes_that_are_missing_or_misshapen_are_named(folders, tmp_path: Path, which: str) -> None:
    _, coded = folders
    (tmp_path / "config.json").write_text((coded / "config.json").read_text())
    tensors = load_file(coded / "model.safetensors")
    name = next(name for name in tensors if name.endswith(f"down_proj_{which}"))
    whole = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path, "native")
    save_file({**tensors, name: whole[:, :-1].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} .* has shape"):
        load(tmp_path, "native")


def test_bytes_where_floats_belong_are_refused(folders, tmp_path: Path) -> None:
    plain, _ = folders
    (tmp_path / "config.json").write_text((plain / "config.json").read_text())
    tensors = load_file(plain / "model.safetensors")
    name = "model.norm.weight"
    tensors[name] = tensors[name].to(torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} in model.safetensors is of type U8"):
        load(tmp_path)
