"""Tiny models packed: what the tests of packed folders share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_models import draw_ids
from tiny_checkpoints import GPT_OSS, MIXTRAL, TIED, write_tiny
from torch import Tensor

from expertly.checkpoint.calibrating import Calibration, calibrate
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.packed_saving import PackReport, open_folder, save_packed
from expertly.checkpoint.recipe import Recipe
from expertly.config import ModelConfig
from expertly.model import Decoder, NativeDecoder

# one matrix of all experts, some of it transposed
DBRX: dict[str, Any] = {
    "model_type": "dbrx",
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 64,
    "vocab_size": 37,
    "attn_config": {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 5000.0},
    "ffn_config": {
        "ffn_act_fn": {"name": "silu"},
        "ffn_hidden_size": 24,
        "moe_normalize_expert_weights": 1.0,
        "moe_num_experts": 4,
        "moe_top_k": 2,
    },
}
# rows that hold whole blocks of 256, and a shared expert
WIDE: dict[str, Any] = {
    **MIXTRAL,
    "model_type": "qwen2_moe",
    "hidden_size": 256,
    "num_experts": 5,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 160,
}
del WIDE["num_local_experts"]
FAMILIES = {"mixtral": MIXTRAL, "gpt_oss": GPT_OSS, "dbrx": DBRX, "tied": TIED, "wide": WIDE}


def pack(folder: Path, out: Path, recipe: Recipe, **settings: Any) -> PackReport:
    with open_folder(folder) as source:
        return save_packed(source, out, recipe, **settings)


def packed_tiny(folder: Path, hf: dict[str, Any], recipe: Recipe, **settings: Any) -> Path:
    """A tiny model in `folder`/model, and what was packed of it."""
    write_tiny(folder / "model", hf)
    pack(folder / "model", folder / "packed", recipe, **settings)
    return folder / "packed"


def native_logits(folder: Path) -> Tensor:
    config, weights, _ = load_packed(folder)
    return logits_of(NativeDecoder(config, weights, threads=1))


def logits_of(model: Callable[..., Any]) -> Tensor:
    config: ModelConfig = model.config  # type: ignore[attr-defined]
    with torch.inference_mode():
        found: Tensor = model(draw_ids(config, 2, 7)).logits
    return found


def calibrated(
    model: Decoder, num_windows: int = 6, length: int = 20, seed: int = 0
) -> Calibration:
    return calibrate(model, draw_ids(model.config, num_windows, length, seed=seed).tolist())


def flip_bit(file: Path, at: int) -> None:
    data = np.fromfile(file, np.uint8)
    data[at] ^= 4
    data.tofile(file)
