"""Dense models as the hub publishes them: which mixture each becomes, and how large it is."""

from typing import Any

import pytest

from expertly.errors import InputError
from expertly.families import read_config
from expertly.planner import active_params, total_params
from expertly.rewrite import Upcycling
from expertly.rewrite.upcycling import plan_upcycling

_USUAL = {"hidden_act": "silu", "attention_dropout": 0.0, "use_cache": True}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        **_USUAL,
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "model_type": "qwen3",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen2.5-0.5B": {
        **_USUAL,
        "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_size": 896,
        "initializer_range": 0.02,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Llama-3.2-1B": {
        **_USUAL,
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
    "Mistral-7B-v0.1": {
        **_USUAL,
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    },
}
# parameters of the dense models, as published
COUNTS = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen2.5-0.5B": 494_032_768,
    "Llama-3.2-1B": 1_235_814_400,
    "Mistral-7B-v0.1": 7_241_732_096,
}
FAMILIES = {
    "Qwen3-0.6B": "qwen3_moe",
    "Qwen2.5-0.5B": "qwen2_moe",
    "Llama-3.2-1B": "mixtral",
    "Mistral-7B-v0.1": "mixtral",
}


def feed_forward(hf: dict[str, Any]) -> int:
    return 3 * hf["hidden_size"] * hf["intermediate_size"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_eight_copies_add_seven_feed_forwards_and_routers(name: str) -> None:
    hf = PUBLISHED[name]
    dense = read_config(hf)
    mixture = plan_upcycling(dense, Upcycling(num_experts=8))
    assert total_params(dense) == COUNTS[name]
    assert mixture.family == FAMILIES[name]
    layers, width = hf["num_hidden_layers"], hf["hidden_size"]
    added = 7 * feed_forward(hf) + 8 * width
    if mixture.family == "qwen2_moe":  # a silent shared expert of 256 units, and its gate
        added += 3 * 256 * width + width
    assert total_params(mixture) == COUNTS[name] + layers * added


@pytest.mark.parametrize("name", PUBLISHED)
def test_groups_of_parts_compute_with_as_many_parameters_as_the_dense_model(name: str) -> None:
    hf = PUBLISHED[name]
    dense = read_config(hf)
    how = Upcycling(num_experts=32, method="virtual-groups", granularity=8)
    mixture = plan_upcycling(dense, how)
    layers, width = hf["num_hidden_layers"], hf["hidden_size"]
    extra = 32 * width
    if mixture.family == "qwen2_moe":
        extra += 3 * 256 * width + width
    assert active_params(mixture) - active_params(dense) == layers * extra


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_spelling_keeps_its_type_and_its_rope(name: str) -> None:
    hf = PUBLISHED[name]
    written = plan_upcycling(read_config(hf), Upcycling(num_experts=4)).source
    assert written["torch_dtype"] == "bfloat16"
    assert written["rope_theta"] == hf["rope_theta"]
    assert written.get("rope_scaling") == hf.get("rope_scaling")
    assert written["tie_word_embeddings"] == hf["tie_word_embeddings"]


def test_a_shared_part_turns_a_llama_into_a_qwen2_mixture() -> None:
    how = Upcycling(num_experts=28, method="fine-grained", granularity=8, shared=1)
    mixture = plan_upcycling(read_config(PUBLISHED["Llama-3.2-1B"]), how)
    assert mixture.family == "qwen2_moe"
    assert mixture.source["shared_expert_intermediate_size"] == 1024
    assert mixture.source["moe_intermediate_size"] == 1024


def test_a_shared_part_of_a_qwen3_has_no_place() -> None:
    how = Upcycling(num_experts=28, method="fine-grained", granularity=8, shared=1)
    with pytest.raises(InputError, match=r"qwen3_moe differs in .*shared_size"):
        plan_upcycling(read_config(PUBLISHED["Qwen3-0.6B"]), how)
