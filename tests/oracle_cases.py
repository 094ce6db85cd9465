"""Shapes of the oracle's tiny models: odd widths, grouped heads, every feature on and off."""

from typing import Any

_SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "rope_theta": 300.0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1000.0,
}
_PLAIN = {"rope_type": "default", "rope_theta": 5000.0}


def _case(**changes: Any) -> dict[str, Any]:
    return {**_SMALL, **changes}


def _longrope(pairs: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 700.0,
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [2.0 + 0.3 * i for i in range(pairs)],
        "short_mscale": 1.1,
        "long_mscale": 1.3,
        "original_max_position_embeddings": 64,
    }


def _experts(num: int, chosen: int, **changes: Any) -> dict[str, Any]:
    return _case(num_local_experts=num, num_experts_per_tok=chosen, **changes)


def _qwen_experts(num: int, chosen: int, **changes: Any) -> dict[str, Any]:
    return _case(num_experts=num, num_experts_per_tok=chosen, **changes)


_MIXTRAL = [
    _experts(4, 2),
    _experts(8, 3, sliding_window=5, num_key_value_heads=1, rope_parameters=_PLAIN),
    _experts(3, 1, tie_word_embeddings=True, head_dim=10, vocab_size=61),
    _experts(6, 5, num_key_value_heads=6, hidden_size=60, rope_parameters=_LINEAR),
    _experts(7, 2, num_hidden_layers=3, intermediate_size=33, head_dim=6, rope_parameters=_YARN),
    _experts(6, 2, sliding_window=64, rms_norm_eps=0.01, rope_parameters=_LLAMA3),
]
_QWEN2_MOE = [
    _qwen_experts(6, 2, moe_intermediate_size=20, shared_expert_intermediate_size=44),
    _qwen_experts(
        9,
        4,
        moe_intermediate_size=17,
        shared_expert_intermediate_size=23,
        norm_topk_prob=True,
        tie_word_embeddings=True,
    ),
    _qwen_experts(
        5,
        2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=12,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        num_hidden_layers=4,
        rope_parameters=_PLAIN,
    ),
    _qwen_experts(
        5,
        3,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=12,
        decoder_sparse_step=2,
        num_hidden_layers=4,
        num_key_value_heads=1,
        rope_parameters=_YARN,
    ),
    _qwen_experts(
        4,
        1,
        moe_intermediate_size=18,
        shared_expert_intermediate_size=30,
        mlp_only_layers=[0],
        qkv_bias=False,
        rms_norm_eps=0.01,
        vocab_size=83,
        rope_parameters=_LINEAR,
    ),
]
_QWEN3_MOE = [
    _qwen_experts(6, 2, moe_intermediate_size=20, head_dim=8, norm_topk_prob=True),
    _qwen_experts(
        9, 4, moe_intermediate_size=17, head_dim=14, attention_bias=True, tie_word_embeddings=True
    ),
    _qwen_experts(
        5,
        2,
        moe_intermediate_size=16,
        head_dim=6,
        use_sliding_window=True,
        sliding_window=4,
        rope_parameters=_PLAIN,
    ),
    _qwen_experts(
        8,
        3,
        moe_intermediate_size=12,
        head_dim=10,
        decoder_sparse_step=2,
        num_hidden_layers=4,
        num_key_value_heads=1,
        rope_parameters=_YARN,
    ),
    _qwen_experts(
        4,
        4,
        moe_intermediate_size=18,
        head_dim=4,
        mlp_only_layers=[1],
        num_key_value_heads=6,
        rms_norm_eps=0.01,
        vocab_size=83,
        rope_parameters=_LLAMA3,
    ),
]
_OLMOE = [
    _qwen_experts(6, 2),
    _qwen_experts(9, 4, intermediate_size=17, norm_topk_prob=True, clip_qkv=0.7),
    _qwen_experts(5, 2, attention_bias=True, tie_word_embeddings=True, rope_parameters=_PLAIN),
    _qwen_experts(
        8, 8, num_key_value_heads=1, clip_qkv=1.5, rms_norm_eps=0.01, rope_parameters=_YARN
    ),
    _qwen_experts(
        4, 1, num_key_value_heads=6, num_hidden_layers=3, vocab_size=83, rope_parameters=_LINEAR
    ),
]
_PHIMOE = [
    _experts(
        4,
        2,
        attention_bias=True,
        lm_head_bias=True,
        router_jitter_noise=0.1,
        rope_parameters=_longrope(3),
    ),
    _experts(8, 2, router_jitter_noise=0.3, sliding_window=6, num_key_value_heads=1),
    _experts(
        5,
        2,
        lm_head_bias=True,
        router_jitter_noise=0.01,
        rms_norm_eps=0.01,
        intermediate_size=33,
        rope_parameters=_PLAIN,
    ),
    _experts(
        6,
        2,
        attention_bias=True,
        router_jitter_noise=0.2,
        hidden_size=48,
        num_hidden_layers=3,
        vocab_size=83,
        rope_parameters=_longrope(4),
    ),
    _experts(
        3,
        2,
        tie_word_embeddings=True,
        router_jitter_noise=0.15,
        num_key_value_heads=6,
        rope_parameters=_longrope(3),
    ),
]


def _dbrx(kv_heads: int, clip: float | None, ffn: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "d_model": 36,
        "n_heads": 6,
        "n_layers": 2,
        "max_seq_len": 128,
        "vocab_size": 97,
        "attn_config": {"kv_n_heads": kv_heads, "clip_qkv": clip, "rope_theta": 5000.0},
        "ffn_config": {"hidden_size": changes.get("d_model", 36), **ffn},
        "rope_parameters": _PLAIN,
        **changes,
    }


_DBRX = [
    _dbrx(3, 0.8, {"ffn_hidden_size": 20, "moe_num_experts": 4, "moe_top_k": 2}),
    _dbrx(
        1,
        3.0,
        {
            "ffn_hidden_size": 17,
            "moe_num_experts": 7,
            "moe_top_k": 3,
            "moe_normalize_expert_weights": None,
        },
        vocab_size=61,
    ),
    _dbrx(
        6,
        1.5,
        {
            "ffn_hidden_size": 12,
            "moe_num_experts": 5,
            "moe_top_k": 4,
            "moe_normalize_expert_weights": 2.0,
        },
        n_layers=3,
    ),
    _dbrx(2, 0.5, {"ffn_hidden_size": 24, "moe_num_experts": 3, "moe_top_k": 1}, d_model=60),
    _dbrx(
        3,
        2.0,
        {
            "ffn_hidden_size": 15,
            "moe_num_experts": 6,
            "moe_top_k": 5,
            "ffn_act_fn": {"name": "gelu"},
        },
    ),
]
_GPT_OSS = [
    _experts(
        4,
        2,
        head_dim=8,
        sliding_window=5,
        swiglu_limit=1.0,
        rope_parameters={**_YARN, "truncate": False},
    ),
    _experts(
        7,
        3,
        head_dim=6,
        sliding_window=3,
        swiglu_limit=0.6,
        num_hidden_layers=3,
        rope_parameters=_PLAIN,
    ),
    _experts(
        5,
        1,
        head_dim=10,
        attention_bias=False,
        swiglu_limit=0.8,
        num_key_value_heads=1,
        rope_parameters=_LINEAR,
    ),
    _experts(
        6,
        4,
        head_dim=8,
        swiglu_limit=0.7,
        layer_types=["full_attention", "sliding_attention"],
        sliding_window=4,
        num_key_value_heads=6,
        rope_parameters={**_YARN, "factor": 2.0},
    ),
    _experts(
        3,
        2,
        head_dim=8,
        tie_word_embeddings=True,
        swiglu_limit=0.5,
        intermediate_size=19,
        vocab_size=83,
        rms_norm_eps=0.01,
        rope_parameters=_LLAMA3,
    ),
]
_LLAMA = [
    _case(),
    _case(attention_bias=True, mlp_bias=True, head_dim=10, rope_parameters=_LLAMA3),
    _case(tie_word_embeddings=True, num_key_value_heads=1, rope_parameters=_LINEAR),
    _case(intermediate_size=33, num_key_value_heads=6, rope_parameters=_YARN),
    _case(
        hidden_act="gelu",
        rms_norm_eps=0.01,
        num_hidden_layers=3,
        vocab_size=61,
        rope_parameters={**_YARN, "mscale": 1.2, "mscale_all_dim": 0.6},
    ),
]
_MISTRAL = [
    _case(),
    _case(sliding_window=5, head_dim=10, rope_parameters=_PLAIN),
    _case(tie_word_embeddings=True, num_key_value_heads=1, sliding_window=None),
    _case(intermediate_size=33, num_key_value_heads=6, rope_parameters=_YARN),
    _case(sliding_window=3, rms_norm_eps=0.01, num_hidden_layers=3, rope_parameters=_LINEAR),
]
_QWEN2 = [
    _case(),
    _case(use_sliding_window=True, sliding_window=4, max_window_layers=1, num_hidden_layers=3),
    _case(tie_word_embeddings=True, num_key_value_heads=1, rope_parameters=_PLAIN),
    _case(intermediate_size=33, num_key_value_heads=6, rope_parameters=_YARN),
    _case(rms_norm_eps=0.01, vocab_size=61, rope_parameters=_LINEAR),
]
_QWEN3 = [
    _case(head_dim=8),
    _case(
        head_dim=6,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        num_hidden_layers=3,
    ),
    _case(head_dim=10, tie_word_embeddings=True, num_key_value_heads=1, rope_parameters=_PLAIN),
    _case(head_dim=14, intermediate_size=33, num_key_value_heads=6, rope_parameters=_YARN),
    _case(head_dim=4, attention_bias=True, rms_norm_eps=0.01, rope_parameters=_LLAMA3),
]

CASES: dict[str, list[dict[str, Any]]] = {
    "mixtral": _MIXTRAL,
    "qwen2_moe": _QWEN2_MOE,
    "qwen3_moe": _QWEN3_MOE,
    "olmoe": _OLMOE,
    "phimoe": _PHIMOE,
    "dbrx": _DBRX,
    "gpt_oss": _GPT_OSS,
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
}
