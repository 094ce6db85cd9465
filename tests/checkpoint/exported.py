"""Tiny models exported as GGUF: what the tests of such files share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoints import MIXTRAL, write_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.checkpoint.gguf_saving import GgufReport, save_gguf
from expertly.families import parameters
from expertly.model import Decoder, NativeDecoder
from expertly.model.weights import NativeWeights, places

# rows of whole blocks of 256
WIDE: dict[str, Any] = {
    "model_type": "qwen2_moe",
    "vocab_size": 64,
    "hidden_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "tie_word_embeddings": False,
}


def export(folder: Path, hf: dict[str, Any], kind: str = "f32") -> tuple[Decoder, Path, GgufReport]:
    """A tiny model of this config, and a file of it."""
    model = write_tiny(folder / "model", hf)
    path = folder / "model.gguf"
    return model, path, save_gguf(folder / "model", path, kind)


def opened(path: Path, dtype: str = "native") -> NativeDecoder:
    file, config = open_gguf(path)
    return NativeDecoder(config, load_gguf(file, config, dtype, 2), 1)


def weights_of(path: Path, dtype: str = "native") -> NativeWeights:
    file, config = open_gguf(path)
    return load_gguf(file, config, dtype, 2)


def unpacked(model: Decoder, weights: NativeWeights) -> dict[str, np.ndarray]:
    """Every parameter of the weights as numbers, in the shape that `model` has."""
    found = {name: vector for name, vector in weights.vectors.items()}
    for name, shape in parameters(model.config).items():
        if name not in found:
            parts = [
                weights.matrix(place.parameter, place.expert).unpack(0, place.rows)
                for place in places(name, shape)
            ]
            found[name] = np.stack(parts).reshape(shape)
    return found


def write_with_tokenizer(folder: Path, *more: str, template: str | None = None) -> None:
    """A tiny model over bytes in `folder`, 256 its end; its tokenizer has `more` tokens."""
    write_tiny(folder, {**MIXTRAL, "vocab_size": 257, "eos_token_id": 256})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["</s>", *more])
    inner.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
