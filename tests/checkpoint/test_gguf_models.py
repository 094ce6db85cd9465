"""Whole models through GGUF: checkpoints of transformers come back, and files of every type compute
what the public package says that their blocks are."""

import json
from collections.abc import Iterable, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import oracle
import pytest
import torch
from _pytest.mark import ParameterSet
from exported import opened
from safetensors.torch import load_file, save_file
from torch import Tensor

from expertly.checkpoint import load
from expertly.checkpoint.gguf_loading import open_gguf
from expertly.checkpoint.gguf_saving import save_gguf
from expertly.checkpoint.locating import bundled
from expertly.config import Llama3Scaling
from expertly.errors import ConfigError
from expertly.families import parameters, read_config, stored_tensors
from expertly.families.gguf_saying import say
from expertly.formats.blocks import BLOCKS, BY_ID
from expertly.model import Decoder, NativeDecoder
from expertly.text import Tokenizer, corpora

# keys and values are float16 in the native cache
HALF_CACHE = 2e-2
# of the oracle's cases, with what GGUF files have no words for
UNSAYABLE: Mapping[tuple[str, int], str] = {
    ("qwen2_moe", 2): r"layers\.1\.attention\.window is None, only 4",
    ("qwen2_moe", 3): r"layers\.1\.feed_forward is a Mixture",
    ("qwen3_moe", 3): r"layers\.1\.feed_forward is a Mixture",
    ("qwen3_moe", 4): r"layers\.0\.feed_forward is a Mixture",
    ("phimoe", 0): r"short_scale is 1\.1, only 1\.3",
    ("phimoe", 1): r"jitter is 0\.3, only 0\.01",
    ("phimoe", 3): r"short_scale is 1\.1, only 1\.3",
    ("phimoe", 4): r"short_scale is 1\.1, only 1\.3",
    ("dbrx", 2): r"norm_p is 2\.0, only 1\.0",
    ("dbrx", 4): r"activation is gelu, only silu",
    ("gpt_oss", 0): r"glu\.limit is 1\.0, only 7\.0",
    ("gpt_oss", 1): r"glu\.limit is 0\.6, only 7\.0",
    ("gpt_oss", 2): r"glu\.limit is 0\.8, only 7\.0",
    ("gpt_oss", 3): r"is_truncated is True, only False",
    ("gpt_oss", 4): r"glu\.limit is 0\.5, only 7\.0",
    ("llama", 4): r"activation is gelu, only silu",
    ("qwen2", 1): r"layers\.1\.attention\.window is 4, only None",
    ("qwen3", 1): r"layers\.1\.attention\.window is 4, only None",
}
SAID = [case for case in oracle.names() if case not in UNSAYABLE]
# KL of a file's logits to those of its blocks as float32 numbers, in nats: on average, and at most
# for nine tokens in ten. Activations are rounded to bfloat16 for bf16 and to 8 bits for blocks; the
# average has the few tokens whose experts nearly tie
KL_BOUNDS = {
    "f32": (5e-4, 1e-6),
    "f16": (5e-4, 1e-6),
    "bf16": (5e-4, 5e-5),
    "q8_0": (1e-3, 1e-3),
    "q4_0": (1e-3, 1e-3),
    "q4_1": (1e-3, 1e-3),
    "q5_0": (1e-3, 1e-3),
    "q5_1": (1e-3, 1e-3),
    "iq4_nl": (1e-3, 1e-3),
    "mxfp4": (1e-3, 1e-3),
    "q4_k": (1e-3, 1e-3),
    "q5_k": (1e-3, 1e-3),
    "q6_k": (1e-3, 1e-3),
    "q3_k": (1e-3, 1e-3),
    "q2_k": (1e-3, 1e-3),
}
WIDTH, NARROW = 256, 192
TOKENS = 160


def cases(names: Iterable[tuple[str, int]]) -> list[ParameterSet]:
    """One of each family; the others are slow."""
    return [
        pytest.param(case, id=f"{case[0]}-{case[1]}", marks=[pytest.mark.slow] * (case[1] > 0))
        for case in names
    ]


def check_comes_back(theirs: oracle.Oracle, path: Path, seed: int) -> None:
    """What transformers saved, through a file: its logits, and to the bit those of the folder."""
    save_gguf(theirs.folder, path, "f32")
    ours, plain = opened(path), load(theirs.folder, "native", threads=1)
    ids_BS, _ = oracle.ragged(ours.config.vocab_size, seed)
    found = ours(ids_BS).logits
    assert oracle.relative_error(found, theirs.logits(ids_BS)) <= HALF_CACHE
    # Llama 3's rule comes back as the divisors that it gives, which are float32
    scaling = plain.config.layers[0].attention.rope.scaling
    bound = 1e-3 if isinstance(scaling, Llama3Scaling) else 0.0
    assert oracle.relative_error(found, plain(ids_BS).logits) <= bound


@pytest.mark.parametrize("case", cases(SAID))
def test_a_checkpoint_of_transformers_comes_back(tmp_path: Path, case: tuple[str, int]) -> None:
    theirs = oracle.build(*case, tmp_path / "model")
    check_comes_back(theirs, tmp_path / "model.gguf", seed=case[1])


def test_gpt_oss_comes_back_as_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {**oracle.CASES["gpt_oss"][0], "swiglu_limit": 7.0}
    monkeypatch.setitem(oracle.CASES, "gpt_oss", [published])
    theirs = oracle.build("gpt_oss", 0, tmp_path / "model")
    check_comes_back(theirs, tmp_path / "model.gguf", seed=0)


@pytest.mark.parametrize("case", cases(UNSAYABLE))
def test_a_checkpoint_that_a_file_cannot_describe_is_refused(
    tmp_path: Path, case: tuple[str, int]
) -> None:
    oracle.build(*case, tmp_path / "model")
    with pytest.raises(ConfigError, match=UNSAYABLE[case]):
        save_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")
    assert not (tmp_path / "model.gguf").exists()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with rows of zeros added until blocks of 256 fit: it computes the same."""
    folder = tmp_path_factory.mktemp("wide")
    hf: dict[str, Any] = json.loads((bundled() / "config.json").read_text())
    hf |= {
        "hidden_size": WIDTH,
        "num_attention_heads": WIDTH // 64,
        "moe_intermediate_size": WIDTH,
        "shared_expert_intermediate_size": WIDTH,
        "rms_norm_eps": hf["rms_norm_eps"] * NARROW / WIDTH,
    }
    (folder / "config.json").write_text(json.dumps(hf))
    tensors = load_file(bundled() / "model.safetensors")
    for stored in stored_tensors(read_config(hf)):
        narrow = tensors[stored.name]
        tensor = torch.zeros(stored.shape)
        # a mean over more zeros is smaller
        is_norm = stored.name.endswith("norm.weight")
        tensor[tuple(slice(size) for size in narrow.shape)] = narrow.float() * (
            sqrt(NARROW / WIDTH) if is_norm else 1.0
        )
        tensors[stored.name] = tensor
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def ids_BS() -> Tensor:
    """The beginnings of all held-out texts."""
    tokenizer = Tokenizer.open(bundled())
    texts = [corpora.held_out_text(domain)[: 16 * TOKENS] for domain in corpora.domains()]
    return torch.tensor([tokenizer.encode(text)[:TOKENS] for text in texts])


def dequantised(path: Path) -> Decoder:
    """A torch model of the numbers that the public package reads."""
    config = open_gguf(path)[1]
    decoder, shapes = Decoder(config), parameters(config)
    said = {tensor.name: tensor for tensor in say(config).tensors}
    for tensor in gguf.GGUFReader(path).tensors:
        (part,) = said[tensor.name].parts
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type))
        shaped = torch.from_numpy(values).view(shapes[part.parameter])
        decoder.get_parameter(part.parameter).data.copy_(shaped)
    return decoder.eval()


def log_probs(model: Decoder | NativeDecoder, ids_BS: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(ids_BS).logits.double().log_softmax(-1)


def test_zeros_beside_the_bundled_model_change_nothing(wide: Path, ids_BS: Tensor) -> None:
    one, other = (log_probs(load(folder, "float32"), ids_BS) for folder in (wide, bundled()))
    assert (one - other).abs().max() < 1e-3


@pytest.mark.parametrize("kind", KL_BOUNDS)
def test_a_file_computes_what_the_public_package_says_its_blocks_are(
    tmp_path: Path, wide: Path, ids_BS: Tensor, kind: str
) -> None:
    path, folder = tmp_path / "model.gguf", wide if BLOCKS[kind].size == WIDTH else bundled()
    report = save_gguf(folder, path, kind, threads=2)
    assert kind in report.weights and all(asked != kind for asked, _ in report.fell_back)
    exact_BSV, ours_BSV = (log_probs(model, ids_BS) for model in (dequantised(path), opened(path)))
    divergence_BS = (exact_BSV.exp() * (exact_BSV - ours_BSV)).sum(-1)
    average, of_nine_in_ten = KL_BOUNDS[kind]
    assert divergence_BS.mean() < average
    assert divergence_BS.quantile(0.9) < of_nine_in_ten


def test_a_bound_is_named_for_every_type() -> None:
    assert set(KL_BOUNDS) == {block.name for block in BY_ID.values()}
