"""Small config.json objects as the hub's files spell them, several a family, so that together
every key of the family has a say."""

from typing import Any

PLAIN: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "num_attention_heads": 32,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    "vocab_size": 96,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "short_mscale": 1.1,
    "long_mscale": 1.2,
    "original_max_position_embeddings": 16,
}
OUR_ATTENTION = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 8,
    "rope": {"base": 5000.0, "scaling": {"kind": "linear", "factor": 2.0}},
}
OUR_MIXTURE = {
    "num_experts": 6,
    "num_chosen": 2,
    "expert_size": 10,
    "router": {
        "score": "sigmoid",
        "norm_p": 1.0,
        "scale": 2.5,
        "groups": {"num": 3, "num_chosen": 2, "score": "top_two"},
    },
}
_QWEN_MOE = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
    "moe_intermediate_size": 12,
    "norm_topk_prob": True,
    "num_experts": 6,
    "num_experts_per_tok": 2,
}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}


def case(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **PLAIN, **changes}


def _dbrx(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "dbrx",
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "vocab_size": 96,
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 5000.0, "model_type": ""},
        "ffn_config": {
            "ffn_act_fn": {"name": "silu"},
            "ffn_hidden_size": 40,
            "moe_jitter_eps": 0,
            "moe_loss_weight": 0.05,
            "moe_normalize_expert_weights": 1.0,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
        "emb_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **changes,
    }


HUB: dict[str, list[dict[str, Any]]] = {
    "mixtral": [
        case(
            "mixtral",
            num_local_experts=6,
            num_experts_per_tok=2,
            sliding_window=8,
            head_dim=8,
            router_jitter_noise=0.0,
            rope_scaling=YARN,
        ),
    ],
    "qwen2_moe": [
        case("qwen2_moe", **_QWEN_MOE, **_WINDOWS, shared_expert_intermediate_size=24),
        case(
            "qwen2_moe",
            **_QWEN_MOE,
            use_sliding_window=False,
            sliding_window=0,
            shared_expert_intermediate_size=24,
            qkv_bias=False,
            rope_scaling=YARN,
        ),
    ],
    "qwen3_moe": [
        case(
            "qwen3_moe", **_QWEN_MOE, **_WINDOWS, head_dim=10, attention_bias=True, use_qk_norm=True
        ),
    ],
    "olmoe": [
        case(
            "olmoe",
            num_experts=6,
            num_experts_per_tok=2,
            norm_topk_prob=False,
            clip_qkv=2.0,
            attention_bias=False,
        ),
    ],
    "phimoe": [
        case(
            "phimoe",
            num_local_experts=6,
            num_experts_per_tok=2,
            router_jitter_noise=0.05,
            input_jitter_noise=0.01,
            attention_bias=True,
            lm_head_bias=True,
            sliding_window=32,
            rope_scaling=LONGROPE,
            original_max_position_embeddings=16,
        ),
    ],
    "dbrx": [_dbrx()],
    "deepseek": [
        case(
            "deepseek",
            n_routed_experts=6,
            num_experts_per_tok=2,
            n_shared_experts=2,
            moe_intermediate_size=12,
            moe_layer_freq=1,
            first_k_dense_replace=1,
            norm_topk_prob=False,
            scoring_func="softmax",
            attention_bias=False,
            aux_loss_alpha=0.001,
            seq_aux=True,
        ),
    ],
    "expertly": [
        {
            "model_type": "expertly",
            "hidden_size": 24,
            "vocab_size": 32,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "has_head_bias": True,
            "norm": {"kind": "layer", "eps": 1e-5, "has_bias": True},
            "attention": OUR_ATTENTION,
            "dense": {"size": 20, "glu": {"activation": "gelu"}},
            "mixture": OUR_MIXTURE,
            "layers": [
                {"count": 1, "dense": {}},
                {"count": 2, "mixture": {"router": {"rule": "hash", "groups": None}}},
                {"count": 1, "mixture": {}, "attention": {"window": 8}},
                {"count": 1, "soft": {"num_experts": 6, "num_slots": 2, "expert_size": 7}},
            ],
        },
        {
            "model_type": "expertly",
            "hidden_size": 24,
            "vocab_size": 32,
            "max_position_embeddings": 64,
            "num_hidden_layers": 3,
            "attention": OUR_ATTENTION,
            "soft": {"num_experts": 3, "num_slots": 2, "expert_size": 7, "has_expert_bias": True},
        },
    ],
    "gpt_oss": [
        case(
            "gpt_oss",
            num_local_experts=6,
            num_experts_per_tok=2,
            head_dim=8,
            sliding_window=8,
            swiglu_limit=7.0,
            attention_bias=True,
            initial_context_length=16,
            layer_types=["sliding_attention", "full_attention"] * 2,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
            },
        ),
    ],
    "llama": [
        case(
            "llama",
            attention_bias=True,
            mlp_bias=True,
            head_dim=10,
            pretraining_tp=1,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
    ],
    "mistral": [case("mistral", sliding_window=8, head_dim=10)],
    "qwen2": [case("qwen2", **_WINDOWS)],
    "qwen3": [case("qwen3", **_WINDOWS, head_dim=10, attention_bias=False)],
}
HUB["grinmoe"] = [
    {
        **HUB["phimoe"][0],
        "model_type": "grinmoe",
        "rope_scaling": None,
        "original_max_position_embeddings": None,
    }
]
EVERY = [(family, i) for family, found in HUB.items() for i in range(len(found))]
