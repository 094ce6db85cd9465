"""What a config refuses, with the values in the message, and what it says of its layers."""

import dataclasses
import re

import pytest

from expertly.config import (
    Attention,
    Dense,
    Glu,
    Layer,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
)
from expertly.errors import ConfigError

ATTENTION = Attention(num_heads=6, num_kv_heads=3, head_size=8, rope=Rope(base=10000.0))
DENSE = Dense(size=20)
MIXTURE = Mixture(num_experts=4, num_chosen=2, expert_size=12, router=Router())
CONFIG = ModelConfig(
    family="mixtral",
    vocab_size=50,
    hidden_size=16,
    max_context=64,
    layers=(Layer(attention=ATTENTION, feed_forward=MIXTURE),),
    norm=Norm(eps=1e-6),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "heads 0, kv heads 3, head size 8"),
        ({"num_kv_heads": -2}, "heads 6, kv heads -2, head size 8"),
        ({"head_size": 0}, "heads 6, kv heads 3, head size 0"),
        ({"num_kv_heads": 4}, "6 heads cannot be grouped over 4 kv heads"),
        ({"num_heads": 3, "num_kv_heads": 6}, "3 heads cannot be grouped over 6 kv heads"),
        ({"head_size": 7}, "head size 7 is odd"),
        ({"window": 0}, "window 0 is not positive"),
        ({"window": -5}, "window -5 is not positive"),
    ],
)
def test_attention_refuses_what_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(ATTENTION, **changes)


@pytest.mark.parametrize("size", [0, -3])
def test_a_dense_feed_forward_needs_a_width(size: int) -> None:
    with pytest.raises(ConfigError, match=f"size {size} is not positive"):
        Dense(size=size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 0}, "0 experts of width 12"),
        ({"expert_size": -1}, "4 experts of width -1"),
        ({"num_chosen": 0}, "0 experts chosen out of 4"),
        ({"num_chosen": 5}, "5 experts chosen out of 4"),
        ({"shared_size": -8}, "shared expert of width -8"),
        ({"has_shared_gate": True}, "a shared gate without a shared expert"),
        (
            {"num_chosen": 3, "router": Router(rule="sparsemixer", jitter=0.1)},
            "sparsemixer chooses at most 2 experts, not 3",
        ),
    ],
)
def test_a_mixture_refuses_what_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(MIXTURE, **changes)


def test_a_mixture_may_choose_all_of_its_experts() -> None:
    assert dataclasses.replace(MIXTURE, num_chosen=4).num_chosen == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "at least one layer"),
        ({"vocab_size": 0}, "vocabulary 0, hidden 16, context 64"),
        ({"hidden_size": -1}, "vocabulary 50, hidden -1, context 64"),
        ({"max_context": 0}, "vocabulary 50, hidden 16, context 0"),
    ],
)
def test_a_model_refuses_what_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(CONFIG, **changes)


def test_every_refusal_says_what_to_do() -> None:
    with pytest.raises(ConfigError) as caught:
        Dense(size=0)
    assert "config.json" in caught.value.hint
    assert "\nhint: " in str(caught.value)


def test_mixture_layers_are_the_indices_of_the_layers_that_hold_a_mixture() -> None:
    kinds = [DENSE, MIXTURE, DENSE, MIXTURE, MIXTURE]
    layers = tuple(Layer(attention=ATTENTION, feed_forward=kind) for kind in kinds)
    assert dataclasses.replace(CONFIG, layers=layers).mixture_layers == (1, 3, 4)
    assert dataclasses.replace(CONFIG, layers=layers[:1]).mixture_layers == ()


def test_a_config_cannot_be_changed_and_takes_no_positions() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.hidden_size = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Dense(20)  # type: ignore[misc]


def test_where_a_config_was_read_from_does_not_make_it_another_one() -> None:
    assert dataclasses.replace(CONFIG, source={"model_type": "mixtral"}) == CONFIG
    assert dataclasses.replace(CONFIG, vocab_size=51) != CONFIG


def test_what_layers_share_can_key_a_dictionary() -> None:
    twin = Attention(num_heads=6, num_kv_heads=3, head_size=8, rope=Rope(base=10000.0))
    assert {ATTENTION: 1}[twin] == 1
    assert Glu() == DENSE.glu == MIXTURE.glu
