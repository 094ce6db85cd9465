"""Every rule of a router in the spelling of our own family, for tests of whole models."""

from typing import Any

from expertly.config import ModelConfig
from expertly.families import read_config

# a model with a layer of each kind; sections of it are replaced below
_MODEL: dict[str, Any] = {
    "model_type": "expertly",
    "hidden_size": 16,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "num_hidden_layers": 2,
    "attention": {
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_size": 8,
        "rope": {"base": 1000.0},
    },
}
_MIXTURE = {"num_experts": 6, "num_chosen": 2, "expert_size": 8}
_GROUPS = {"num": 3, "num_chosen": 2, "score": "top_two"}

MIXTURES: dict[str, dict[str, Any]] = {
    "softmax": {"router": {"norm_p": 1.0, "has_bias": True}, "shared_size": 8},
    "noisy": {"router": {"norm_p": 1.0, "has_noise": True}},
    "switch": {"num_chosen": 1, "router": {"input_jitter": 0.1, "capacity": {"factor": 1.25}}},
    "next": {"router": {"capacity": {"factor": 1.0, "policy": "next"}}},
    "deepseek_v2": {"router": {"scale": 2.0, "groups": {"num": 3, "num_chosen": 2}}},
    "deepseek_v3": {
        "router": {
            "score": "sigmoid",
            "norm_p": 1.0,
            "scale": 2.5,
            "has_steering_bias": True,
            "groups": _GROUPS,
        }
    },
    "deepseek_v4": {
        "router": {"score": "sqrt_softplus", "norm_p": 1, "scale": 1.5, "has_steering_bias": True}
    },
    "deepseek_v4_first": {"router": {"rule": "hash", "score": "sqrt_softplus", "norm_p": 1.0}},
    "hash": {"router": {"rule": "hash", "score": "uniform"}},
    "sparsemixer": {"router": {"rule": "sparsemixer", "jitter": 0.3}},
    "expert_choice": {"router": {"rule": "expert_choice"}},
    "relu": {"router": {"rule": "relu"}},
    "zeda": {"num_zero": 3, "router": {"norm_p": 1.0}},
    "longcat": {"num_zero": 3, "zero": "identity", "router": {"has_bias": True}},
    "emo": {"router": {"norm_p": 1.0, "min_pool": 3}},
    "llama4": {"num_chosen": 1, "scales_input": True, "router": {"score": "sigmoid"}},
    "gemma4": {"router": {"norm_p": 1.0, "norm_eps": 1e-6, "has_expert_scale": True}},
}
SOFT = {"num_experts": 3, "num_slots": 2, "expert_size": 7}
NAMES = [*MIXTURES, "soft"]
NONCAUSAL = ["expert_choice", "soft"]


def spelled(name: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a model with such routers."""
    rules = {"soft": SOFT} if name == "soft" else {"mixture": _MIXTURE | MIXTURES[name]}
    return {**_MODEL, **rules, **changes}


def config_of(name: str) -> ModelConfig:
    return read_config(spelled(name))
