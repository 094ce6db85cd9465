"""A whole training step (forward, backward, clipping, optimiser) of a 64-expert mixture against
the dense model of the same active width."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.harness import interleave
from expertly.families import read_config
from expertly.model import Decoder, initialise
from expertly.train.recipe import parse_recipe
from expertly.train.state import State, make_optimisers
from expertly.train.step import take_step

BATCH, SEQUENCE, VOCABULARY = 8, 512, 4096
_SHARED = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "max_position_embeddings": SEQUENCE,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
}
_MIXTURE = {
    "model_type": "qwen3_moe",
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
MODELS = {"dense": {"model_type": "qwen3"}, "mixture": _MIXTURE}
RECIPE = """
[model]
model_type = "qwen3"
[tokenizer]
vocab_size = 4096
[data]
texts = ["packaged:drama"]
sequence = 512
[optimiser]
peak_lr = 1e-3
{matrix_lr}
[run]
steps = 1000000
batch = 8
"""


def step_of(name: str, dtype: torch.dtype, has_muon: bool) -> Callable[[], object]:
    """A step of a new model on the same random tokens each time."""
    text = RECIPE.format(matrix_lr="matrix_lr = 0.02" if has_muon else "")
    recipe = parse_recipe(text, name="step", folder=Path())
    model = Decoder(read_config({**_SHARED, **MODELS[name]}), dtype=torch.float32)
    initialise(model, 1, std=0.02)
    state = State(model=model.train(), optimisers=make_optimisers(model, recipe.optimiser))
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(VOCABULARY, (BATCH, SEQUENCE + 1), generator=generator)
    return lambda: take_step(state, recipe, [ids_BS], dtype, read=False)


def rows(pairs: int = 5) -> Iterator[dict[str, object]]:
    """A row a type and optimiser: tokens a second, and the mixture's as a share of the dense's."""
    for dtype in (torch.float32, torch.bfloat16):
        for has_muon in (False, True):
            steps = {name: step_of(name, dtype, has_muon) for name in MODELS}
            timed = interleave(steps, pairs)
            tokens = BATCH * SEQUENCE
            low, high = timed.spread["mixture"]
            yield {
                "dtype": str(dtype).removeprefix("torch."),
                "optimiser": "muon" if has_muon else "adamw",
                "tokens_per_second": {
                    name: round(1e3 * tokens / ms) for name, ms in timed.milliseconds.items()
                },
                "share_of_dense": round(1 / timed.ratio["mixture"], 3),
                "spread": [round(1 / high, 3), round(1 / low, 3)],
            }
