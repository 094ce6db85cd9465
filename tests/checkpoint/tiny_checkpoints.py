"""Tiny checkpoints to read, damage and write, and safetensors files made byte by byte."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from small_models import build
from torch import Tensor

from expertly.checkpoint import save
from expertly.families import read_config
from expertly.model import Decoder

_SMALL: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTRAL = {
    **_SMALL,
    "model_type": "mixtral",
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
# experts stacked, transposed, gate and up by turns
GPT_OSS = {**MIXTRAL, "model_type": "gpt_oss", "head_dim": 6}
TIED = {**_SMALL, "model_type": "llama", "tie_word_embeddings": True}

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"


def tiny_model(hf: dict[str, Any] = MIXTRAL, seed: int = 0) -> Decoder:
    return build(read_config(hf), seed)


def write_tiny(folder: Path, hf: dict[str, Any] = MIXTRAL, **settings: Any) -> Decoder:
    """The model that now lies in `folder`."""
    model = tiny_model(hf)
    save(model, folder, **settings)
    return model


def change_tensors(folder: Path, **changes: Tensor | None) -> None:
    """Replaces, adds or (None) removes tensors of a folder with one file; `__` stands for a dot."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        spelled = name.replace("__", ".")
        if tensor is None:
            del tensors[spelled]
        else:
            tensors[spelled] = tensor
    save_file(tensors, path)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """A file's header and where its data begin."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), 8 + size


def write_header(path: Path, header: dict[str, Any], num_data_bytes: int) -> None:
    """A file with this header; its data are a hole, which reads as zeros."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + num_data_bytes)
