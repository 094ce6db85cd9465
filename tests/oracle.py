"""Tiny random checkpoints made and run by transformers, to hold our models against."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from oracle_cases import CASES
from torch import Tensor

# logits may differ by this much after dividing by their standard deviation
TOLERANCE = 1e-4

_CLASSES = {
    "mixtral": ("MixtralConfig", "MixtralForCausalLM"),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM"),
    "phimoe": ("PhimoeConfig", "PhimoeForCausalLM"),
    "dbrx": ("DbrxConfig", "DbrxForCausalLM"),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}


@dataclass(frozen=True)
class Oracle:
    family: str
    model: Any
    folder: Path

    def logits(self, ids_BS: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(ids_BS) if mask_BS is None else mask_BS.long()
        with torch.no_grad():
            return self.model(
                ids_BS, attention_mask=mask, position_ids=positions(mask), use_cache=False
            ).logits

    def greedy(self, ids_BS: Tensor, mask_BS: Tensor, num_tokens: int) -> Tensor:
        """The next tokens by recomputing everything for each: no cache takes part."""
        ids, mask = ids_BS, mask_BS
        for _ in range(num_tokens):
            best = self.logits(ids, mask)[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat((ids, best), dim=1)
            mask = torch.cat((mask, torch.ones_like(best, dtype=mask.dtype)), dim=1)
        return ids[:, ids_BS.shape[1] :]


def positions(mask_BS: Tensor) -> Tensor:
    return (mask_BS.cumsum(1) - 1).clamp(min=0)


def names() -> list[tuple[str, int]]:
    return [(family, i) for family, cases in CASES.items() for i in range(len(cases))]


def build(family: str, case: int, folder: Path, seed: int = 0) -> Oracle:
    """The model of one case with every tensor random, saved to `folder` by transformers."""
    config_class, model_class = (getattr(transformers, name) for name in _CLASSES[family])
    config = config_class(**json.loads(json.dumps(CASES[family][case])))
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = model_class(config).float().eval()
    randomise(model, seed + case)
    model.save_pretrained(folder)
    return Oracle(family, model, folder)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Norms, biases and sinks too: what stays at its default is not tested."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5 if parameter.dim() == 1 else 0.2, generator=generator)
            if parameter.dim() == 1 and "norm" in name and "bias" not in name:
                parameter.add_(1.0)


def open_folder(folder: Path, family: str) -> Oracle:
    """A folder as transformers reads it."""
    config_class, model_class = (getattr(transformers, name) for name in _CLASSES[family])
    config = config_class.from_pretrained(folder)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = model_class.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    return Oracle(family, model, folder)


def spell_as_hub(folder: Path) -> None:
    """Rewrites config.json the way the hub's older files are spelled."""
    path = folder / "config.json"
    hf = json.loads(path.read_text())
    hf["torch_dtype"] = hf.pop("dtype", "float32")
    rope = dict(hf.pop("rope_parameters", None) or {})
    theta = rope.pop("rope_theta", 10000.0)
    kind = rope.pop("rope_type", "default")
    # null stands for the class's own default, which is plain everywhere but in gpt-oss
    is_plain = kind == "default" and hf["model_type"] != "gpt_oss"
    scaling = None if is_plain else {"type": kind, **rope}
    if hf["model_type"] == "dbrx":
        hf["attn_config"]["rope_theta"] = theta
        for name in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
            hf.pop(name, None)
    else:
        hf["rope_theta"] = theta
        hf["rope_scaling"] = scaling
    path.write_text(json.dumps(hf))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.std()).item()


def ragged(vocab_size: int, seed: int, length: int = 13) -> tuple[Tensor, Tensor]:
    """ids_BS and mask_BS of three sequences padded on the left by 0, 4 and length - 1 columns."""
    generator = torch.Generator().manual_seed(seed)
    ids_BS = torch.randint(0, vocab_size, (3, length), generator=generator)
    mask_BS = torch.ones(3, length, dtype=torch.bool)
    mask_BS[1, :4] = False
    mask_BS[2, : length - 1] = False
    return ids_BS, mask_BS
