"""Small config.json files of every family that GGUF knows, each with all that it can say."""

from typing import Any

_SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1000.0,
}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 300.0,
}
# the ends of its ramp lie between dimensions
_WIDE_YARN = {**_YARN, "original_max_position_embeddings": 1024, "rope_theta": 1e4}
_LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "short_mscale": 1.2,
    "long_mscale": 1.2,
    "original_max_position_embeddings": 48,
}


def _of(model_type: str, **changes: Any) -> dict[str, Any]:
    return {**_SMALL, "model_type": model_type, **changes}


def _mixture(model_type: str, **changes: Any) -> dict[str, Any]:
    return _of(model_type, num_experts_per_tok=2, **changes)


# all of them are computed by llama.cpp as they are
ALIKE: dict[str, dict[str, Any]] = {
    "llama": _of("llama"),
    "llama3": _of("llama", rope_parameters=_LLAMA3, tie_word_embeddings=True, head_dim=10),
    "llama_biased": _of("llama", attention_bias=True, mlp_bias=True),
    "llama_linear": _of(
        "llama", rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}
    ),
    "mistral": _of("mistral", sliding_window=64, head_dim=12),
    "mixtral": _mixture("mixtral", num_local_experts=5),
    "qwen2": _of("qwen2", rope_parameters=_YARN),
    "qwen2_moe": _mixture(
        "qwen2_moe",
        num_experts=5,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=24,
        tie_word_embeddings=True,
    ),
    "qwen3": _of("qwen3", head_dim=12),
    "qwen3_moe": _mixture(
        "qwen3_moe", num_experts=6, moe_intermediate_size=40, head_dim=8, norm_topk_prob=True
    ),
    "olmoe": _mixture("olmoe", num_experts=6, num_key_value_heads=4),
    "dbrx": {
        "model_type": "dbrx",
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "vocab_size": 48,
        "attn_config": {"clip_qkv": 0.5, "kv_n_heads": 2, "rope_theta": 5000.0},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek": _mixture(
        "deepseek",
        num_hidden_layers=3,
        n_routed_experts=6,
        n_shared_experts=2,
        moe_intermediate_size=20,
        first_k_dense_replace=1,
    ),
}
# what llama.cpp does otherwise, or cannot load
OTHERWISE: dict[str, dict[str, Any]] = {
    "phimoe": _mixture(
        "phimoe",
        num_local_experts=4,
        attention_bias=True,
        lm_head_bias=True,
        rope_scaling=_LONG,
    ),
    "gpt_oss": _mixture(
        "gpt_oss",
        num_local_experts=4,
        head_dim=16,
        sliding_window=5,
        max_position_embeddings=4096,
        rope_parameters={**_WIDE_YARN, "truncate": False},
    ),
    "mistral_window": _of("mistral", sliding_window=5),
    "qwen2_moe_normed": _mixture(
        "qwen2_moe",
        num_experts=5,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=24,
        norm_topk_prob=True,
    ),
    "qwen3_moe_plain": _mixture("qwen3_moe", num_experts=6, moe_intermediate_size=40),
    "qwen3_moe_dense_first": _mixture(
        "qwen3_moe", num_experts=6, moe_intermediate_size=40, mlp_only_layers=[0]
    ),
    "olmoe_clipped": _mixture("olmoe", num_experts=6, num_key_value_heads=4, clip_qkv=0.5),
    "olmoe_grouped": _mixture("olmoe", num_experts=6),
    "qwen2_wide": _of("qwen2", head_dim=12),
    "qwen3_biased": _of("qwen3", attention_bias=True),
    "qwen3_llama3": _of("qwen3", rope_parameters=_LLAMA3),
    "gpt_oss_unbiased": _mixture(
        "gpt_oss",
        num_local_experts=4,
        attention_bias=False,
        rope_parameters={**_YARN, "truncate": False},
    ),
    "betas": _of(
        "llama",
        head_dim=16,
        max_position_embeddings=4096,
        rope_parameters={**_WIDE_YARN, "beta_fast": 4.0},
    ),
}
SAYABLE = ALIKE | OTHERWISE
