"""Small dense models over bytes, saved by us with a tokenizer, to be merged."""

import json
from pathlib import Path
from typing import Any

import torch
from small_models import build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from expertly.checkpoint import save
from expertly.families import read_config
from expertly.model import Decoder

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "eos_token_id": 256,
}


def save_dense(
    folder: Path,
    seed: int = 0,
    *,
    end: str = "</s>",
    has_tokenizer: bool = True,
    dtype: torch.dtype | None = None,
    **changes: Any,
) -> Decoder:
    """The model that now lies in `folder`."""
    model = build(read_config({**LLAMA, **changes}), seed)
    save(model, folder, dtype=dtype)
    if has_tokenizer:
        byte_tokenizer(end).save(str(folder / "tokenizer.json"))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}))
    return model


def byte_tokenizer(end: str) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([end])
    return inner


def parameters_of(folder: Path) -> dict[str, torch.Tensor]:
    import expertly

    model = expertly.load(folder, "float32")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
