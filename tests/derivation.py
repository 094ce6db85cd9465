"""DeepSeek-MoE and Phi-3.5-MoE from their papers in float64 numpy, a token and a head at a time.

Written apart from the package, straight from a config.json and its tensors: for what transformers
does not have (`deepseek`) or does otherwise than the checkpoint's own code (LongRoPE's long set).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    return down @ (silu(gate @ x) * (up @ x))


def turn(x: Array, position: int, frequencies: Array, scale: float) -> Array:
    """Pairs (i, i + half) as complex numbers, each multiplied by scale * e^(i position f)."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * scale * np.exp(1j * position * frequencies)
    return np.concatenate([turned.real, turned.imag])


def attend(hf: dict[str, Any], w: Tensors, prefix: str, x: list[Array], rope: Any) -> list[Array]:
    """Causal attention over the whole text; rope is (frequencies, scale)."""
    heads, groups = hf["num_attention_heads"], hf["num_key_value_heads"]
    size = hf.get("head_dim") or hf["hidden_size"] // heads
    window = hf.get("sliding_window") or len(x)

    def project(name: str, v: Array) -> Array:
        bias = w.get(f"{prefix}.{name}.bias")
        return w[f"{prefix}.{name}.weight"] @ v + (0 if bias is None else bias)

    q = [project("q_proj", v).reshape(heads, size) for v in x]
    k = [project("k_proj", v).reshape(groups, size) for v in x]
    v = [project("v_proj", v).reshape(groups, size) for v in x]
    out = []
    for t in range(len(x)):
        rows = []
        for h in range(heads):
            g = h * groups // heads
            query = turn(q[t][h], t, *rope)
            seen = range(max(0, t - window + 1), t + 1)
            scores = [query @ turn(k[s][g], s, *rope) / math.sqrt(size) for s in seen]
            shares = softmax(np.array(scores))
            rows.append(sum(share * v[s][g] for share, s in zip(shares, seen, strict=True)))
        out.append(project("o_proj", np.concatenate(rows)))
    return out


def deepseek(hf: dict[str, Any], w: Tensors, ids: list[int]) -> Array:
    """DeepSeekMoE, arXiv 2401.06066, equations 9 to 11; logits SV."""

    def rms(x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean() + hf["rms_norm_eps"]) * w[f"{name}.weight"]

    def feed_forward(x: Array, prefix: str) -> Array:
        names = (f"{prefix}.{part}_proj.weight" for part in ("gate", "up", "down"))
        return swiglu(x, *(w[name] for name in names))

    def mixture(x: Array, prefix: str) -> Array:
        scores = softmax(w[f"{prefix}.gate.weight"] @ x)
        best = np.argsort(-scores)[: hf["num_experts_per_tok"]]
        total = scores[best].sum() if hf["norm_topk_prob"] else 1.0
        y = feed_forward(x, f"{prefix}.shared_experts")
        for expert in best:
            y = y + scores[expert] / total * feed_forward(x, f"{prefix}.experts.{expert}")
        return y

    size = hf["hidden_size"] // hf["num_attention_heads"]
    frequencies = hf["rope_theta"] ** (-np.arange(0, size, 2) / size)
    x = [w["model.embed_tokens.weight"][i] for i in ids]
    for layer in range(hf["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        normed = [rms(v, f"{base}.input_layernorm") for v in x]
        attended = attend(hf, w, f"{base}.self_attn", normed, (frequencies, 1.0))
        x = [a + b for a, b in zip(x, attended, strict=True)]
        is_mixture = layer >= hf["first_k_dense_replace"] and layer % hf["moe_layer_freq"] == 0
        block = mixture if is_mixture else feed_forward
        x = [v + block(rms(v, f"{base}.post_attention_layernorm"), f"{base}.mlp") for v in x]
    return np.stack([w["lm_head.weight"] @ rms(v, "model.norm") for v in x])


def long_rope(hf: dict[str, Any], length: int) -> tuple[Array, float]:
    """LongRoPE, arXiv 2402.13753: one divisor a frequency, another set beyond the first context."""
    rope = hf["rope_parameters"]
    size = hf["hidden_size"] // hf["num_attention_heads"]
    kind = "long" if length > rope["original_max_position_embeddings"] else "short"
    divisors = np.array(rope[f"{kind}_factor"])
    plain = rope["rope_theta"] ** (-np.arange(0, size, 2) / size)
    return plain / divisors, rope[f"{kind}_mscale"]


def phimoe(hf: dict[str, Any], w: Tensors, ids: list[int]) -> Array:
    """Phi-3.5-MoE at inference: GRIN, arXiv 2409.12136, with layer norms and LongRoPE."""

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean()
        normed = centred / np.sqrt((centred**2).mean() + hf["rms_norm_eps"])
        return normed * w[f"{name}.weight"] + w[f"{name}.bias"]

    def mixture(x: Array, prefix: str) -> Array:
        z = w[f"{prefix}.gate.weight"] @ x
        taken: list[int] = []
        y = np.zeros_like(x)
        for _ in range(2):
            left = [i for i in range(len(z)) if i not in taken]
            best = max(left, key=lambda i: z[i])
            near = [
                i
                for i in left
                if (z[best] - z[i]) / max(abs(z[i]), z[best]) <= 2 * hf["router_jitter_noise"]
            ]
            weight = math.exp(z[best]) / sum(math.exp(z[i]) for i in near)
            names = (f"{prefix}.experts.{best}.{part}.weight" for part in ("w1", "w3", "w2"))
            y = y + weight * swiglu(x, *(w[name] for name in names))
            taken.append(best)
        return y

    rope = long_rope(hf, len(ids))
    x = [w["model.embed_tokens.weight"][i] for i in ids]
    for layer in range(hf["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        normed = [norm(v, f"{base}.input_layernorm") for v in x]
        attended = attend(hf, w, f"{base}.self_attn", normed, rope)
        x = [a + b for a, b in zip(x, attended, strict=True)]
        x = [
            v + mixture(norm(v, f"{base}.post_attention_layernorm"), f"{base}.block_sparse_moe")
            for v in x
        ]
    head = w["lm_head.weight"]
    bias = w.get("lm_head.bias", np.zeros(len(head)))
    return np.stack([head @ norm(v, "model.norm") + bias for v in x])
