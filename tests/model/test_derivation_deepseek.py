"""DeepSeek-MoE 16B's architecture against a derivation from its paper."""

import json
from pathlib import Path
from typing import Any

import derivation
import numpy as np
import oracle
import pytest
import torch
from safetensors.numpy import save_file

from expertly.checkpoint import load, save
from expertly.model import Cache

_BASE: dict[str, Any] = {
    "architectures": ["DeepseekForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
    "model_type": "deepseek",
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 29,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 10,
    "moe_layer_freq": 1,
    "n_routed_experts": 7,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 61,
}
_CASES = [
    {},
    {"norm_topk_prob": True, "num_key_value_heads": 2},
    {"first_k_dense_replace": 0, "moe_layer_freq": 2, "n_shared_experts": 1},
    {"num_experts_per_tok": 6, "moe_intermediate_size": 5, "rms_norm_eps": 0.01},
    {"n_routed_experts": 12, "num_experts_per_tok": 1, "rope_theta": 50.0},
    {"hidden_size": 40, "num_key_value_heads": 1, "attention_bias": True, "vocab_size": 33},
]


def _shapes(hf: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the published checkpoint has them."""
    width, size = hf["hidden_size"], hf["hidden_size"] // hf["num_attention_heads"]
    rows = {
        "q": width,
        "k": hf["num_key_value_heads"] * size,
        "v": hf["num_key_value_heads"] * size,
        "o": width,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (hf["vocab_size"], width),
        "lm_head.weight": (hf["vocab_size"], width),
        "model.norm.weight": (width,),
    }

    def feed_forward(prefix: str, inner: int) -> None:
        shapes[f"{prefix}.gate_proj.weight"] = shapes[f"{prefix}.up_proj.weight"] = (inner, width)
        shapes[f"{prefix}.down_proj.weight"] = (width, inner)

    for layer in range(hf["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        shapes[f"{base}.input_layernorm.weight"] = (width,)
        shapes[f"{base}.post_attention_layernorm.weight"] = (width,)
        for name, count in rows.items():
            shapes[f"{base}.self_attn.{name}_proj.weight"] = (count, width)
            if hf["attention_bias"]:
                shapes[f"{base}.self_attn.{name}_proj.bias"] = (count,)
        if layer < hf["first_k_dense_replace"] or layer % hf["moe_layer_freq"]:
            feed_forward(f"{base}.mlp", hf["intermediate_size"])
            continue
        shapes[f"{base}.mlp.gate.weight"] = (hf["n_routed_experts"], width)
        inner = hf["moe_intermediate_size"]
        feed_forward(f"{base}.mlp.shared_experts", hf["n_shared_experts"] * inner)
        for expert in range(hf["n_routed_experts"]):
            feed_forward(f"{base}.mlp.experts.{expert}", inner)
    return shapes


def _make(folder: Path, case: int) -> tuple[dict[str, Any], dict[str, Any]]:
    hf = {**_BASE, **_CASES[case]}
    rng = np.random.default_rng(case)
    tensors = {
        name: (rng.normal(0, 0.3, shape) + (len(shape) == 1 and "norm" in name)).astype(np.float32)
        for name, shape in _shapes(hf).items()
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf))
    return hf, {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


@pytest.mark.parametrize("case", range(len(_CASES)))
def test_deepseek_moe_equals_its_derivation_and_survives_saving(case: int, tmp_path: Path) -> None:
    hf, tensors = _make(tmp_path / "model", case)
    model = load(tmp_path / "model")
    ids_BS, mask_BS = oracle.ragged(hf["vocab_size"], seed=case)
    save(model, tmp_path / "saved")
    with torch.no_grad():
        ours, again = (
            model(ids_BS, mask_BS).logits,
            load(tmp_path / "saved")(ids_BS, mask_BS).logits,
        )
    assert torch.equal(ours, again)
    for ids_S, mask_S, logits_SV in zip(ids_BS, mask_BS, ours, strict=True):
        expected = torch.from_numpy(derivation.deepseek(hf, tensors, ids_S[mask_S].tolist()))
        assert oracle.relative_error(logits_SV[mask_S], expected) <= oracle.TOLERANCE


@pytest.mark.parametrize("case", range(len(_CASES)))
def test_deepseek_moe_writes_the_derivations_twenty_greedy_tokens(
    case: int, tmp_path: Path
) -> None:
    hf, tensors = _make(tmp_path / "model", case)
    model = load(tmp_path / "model")
    ids, cache = [5, 3, 8], Cache(model.config)
    feed = torch.tensor([ids])
    for _ in range(20):
        with torch.no_grad():
            best = model(feed, cache=cache, logits="last").logits.argmax(-1)
        feed = best[:, None]
        assert derivation.deepseek(hf, tensors, ids)[-1].argmax() == best.item()
        ids.append(int(best))
