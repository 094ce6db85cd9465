import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from expertly.train.recipe import Recipe, parse_recipe

TINY = """
[model]
model_type = "qwen2_moe"
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
intermediate_size = 16
num_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 8
shared_expert_intermediate_size = 8
norm_topk_prob = true
max_position_embeddings = 64
tie_word_embeddings = true

[tokenizer]
vocab_size = 280

[data]
texts = ["poem.txt"]
sequence = 16
held_out = 0.1

[optimiser]
peak_lr = 0.01
warmup_steps = 3

[run]
steps = 8
batch = 2
accumulation = 2
seed = 5
device = "cpu"
dtype = "float32"
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A tiny recipe beside its text; each change is (old, new) in the recipe's TOML."""

    def make(*changes: tuple[str, str]) -> Recipe:
        words = ["owl", "and", "cat", "went", "to", "sea", "in", "beautiful", "green", "boat"]
        rng = random.Random(3)
        lines = (" ".join(rng.choices(words, k=8)) for _ in range(150))
        (tmp_path / "poem.txt").write_text("\n".join(lines) + "\n")
        text = TINY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return parse_recipe(text, name="tiny", folder=tmp_path)

    return make
