"""Families as data: how a config.json becomes a `ModelConfig`, and how tensors are named in files.

One module a `model_type`, each with `read_config` and `stored_tensors`.
"""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from expertly.config import ModelConfig
from expertly.errors import ConfigError
from expertly.families import (
    dbrx,
    deepseek,
    expertly,
    gpt_oss,
    llama,
    mistral,
    mixtral,
    olmoe,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
)
from expertly.families.naming import Coded, Names, Part, Stored
from expertly.families.parameters import parameters
from expertly.families.reading import show

__all__ = [
    "FAMILIES",
    "Coded",
    "Part",
    "Stored",
    "coded_tensors",
    "model_types",
    "parameters",
    "read_config",
    "stored_tensors",
]

FAMILIES: Mapping[str, ModuleType] = {
    "dbrx": dbrx,
    "deepseek": deepseek,
    "expertly": expertly,
    "gpt_oss": gpt_oss,
    "grinmoe": phimoe,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "phimoe": phimoe,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
}


def model_types() -> tuple[str, ...]:
    """The `model_type`s that are built."""
    return tuple(sorted(FAMILIES))


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    """A parsed config.json as a `ModelConfig`.

    Raises `ConfigError`: a `model_type` that is missing or not built, a key that is unknown,
    missing, of the wrong type or contradicted by another spelling of it.
    """
    hint = f"built are: {', '.join(model_types())}"
    if not isinstance(hf, Mapping):
        raise ConfigError(f"config.json must be an object, not {show(hf)}", hint=hint)
    name = hf.get("model_type")
    if name is None:
        raise ConfigError("config.json lacks the key 'model_type'", hint=hint)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(f"config.json: model_type {show(name)} is not built", hint=hint)
    config: ModelConfig = FAMILIES[name].read_config(hf)
    return config


def stored_tensors(config: ModelConfig) -> Names:
    """Every tensor of the family's checkpoints, on the hub and as transformers saves them (both
    use the same names): name, shape there, and which parameters it fills."""
    names: Names = FAMILIES[config.family].stored_tensors(config)
    return names


def coded_tensors(config: ModelConfig) -> Iterator[Coded]:
    """What a checkpoint keeps as codes and scales instead; only gpt-oss has such."""
    return gpt_oss.coded_tensors(config) if config.family == "gpt_oss" else iter(())
