"""Which family a dense model's mixture gets, and what is refused because none has it."""

from typing import Any

import pytest
from dense_folders import LLAMA

from expertly.errors import InputError
from expertly.families import read_config
from expertly.rewrite.shaping import Shape, differences, to_mixture

SHAPE = Shape(num_experts=4, num_chosen=2, expert_size=12)


def dense(**changes: Any):
    return read_config({**LLAMA, **changes})


@pytest.mark.parametrize(
    ("changes", "shape", "family"),
    [
        ({}, SHAPE, "mixtral"),
        ({"model_type": "mistral"}, SHAPE, "mixtral"),
        ({"model_type": "qwen2"}, SHAPE, "qwen2_moe"),
        ({"model_type": "qwen3", "head_dim": 8}, SHAPE, "qwen3_moe"),
        # what mixtral has not: a shared expert, layers that stay dense
        ({}, Shape(num_experts=4, num_chosen=2, expert_size=6, shared_size=6), "qwen2_moe"),
        ({}, Shape(num_experts=4, num_chosen=2, expert_size=12, every=3), "qwen2_moe"),
        ({"model_type": "qwen3"}, Shape(num_experts=4, num_chosen=2, expert_size=12, every=2),
         "qwen3_moe"),
    ],
)  # fmt: skip
def test_the_first_family_that_has_everything_is_taken(
    changes: dict, shape: Shape, family: str
) -> None:
    config = to_mixture(dense(**changes), shape)
    assert config.family == config.source["model_type"] == family


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attention_bias": True}, "layers.attention.has_output_bias (False instead of True)"),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "sliding_window": 4,
                "max_window_layers": 1,
            },
            "qwen3_moe differs in layers.attention.window (4 instead of None)",
        ),
    ],
)
def test_what_no_mixture_has_is_refused_by_name(changes: dict, told: str) -> None:
    with pytest.raises(InputError, match="no mixture is built that has all of this") as caught:
        to_mixture(dense(**changes), SHAPE)
    assert told in caught.value.message


def test_biases_of_a_feed_forward_are_refused() -> None:
    with pytest.raises(InputError, match="feed-forwards of this llama have biases"):
        to_mixture(dense(mlp_bias=True), SHAPE)


@pytest.mark.parametrize(
    ("changes", "shape", "family", "told"),
    [
        ({}, SHAPE, "qwen3_moe", "layers.attention.qk_norm (head instead of None)"),
        ({"model_type": "qwen2"}, SHAPE, "mixtral", "has_qkv_bias (False instead of True)"),
        (
            {},
            Shape(num_experts=4, num_chosen=2, expert_size=6, shared_size=6),
            "mixtral",
            "layers.feed_forward.shared_size (0 instead of 6)",
        ),
        (
            {},
            Shape(num_experts=4, num_chosen=2, expert_size=12, every=2),
            "mixtral",
            "layers.feed_forward (Mixture instead of Dense)",
        ),
        (
            {"model_type": "qwen3"},
            Shape(num_experts=4, num_chosen=2, expert_size=6, shared_size=6),
            "qwen3_moe",
            "layers.feed_forward.shared_size (0 instead of 6)",
        ),
    ],
)
def test_a_family_that_is_asked_for_and_lacks_something_is_refused(
    changes: dict, shape: Shape, family: str, told: str
) -> None:
    with pytest.raises(InputError) as caught:
        to_mixture(dense(**changes), shape, family)
    assert f"{family} differs in" in caught.value.message
    assert told in caught.value.message


def test_a_family_that_is_no_target_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match="no olmoe can be made of a dense model") as caught:
        to_mixture(dense(), SHAPE, "olmoe")
    assert "mixtral, qwen2_moe, qwen3_moe" in caught.value.hint


def test_a_mixture_is_refused_with_what_makes_it_larger() -> None:
    mixture = to_mixture(dense(), SHAPE)
    with pytest.raises(InputError, match="this mixtral is a mixture already") as caught:
        to_mixture(mixture, SHAPE)
    assert "--duplicate" in caught.value.hint


def test_every_key_that_a_default_would_decide_is_spelled_out() -> None:
    hf = to_mixture(dense(), SHAPE).source
    assert hf["rope_theta"] == 10000.0  # a mixtral's own is a million
    assert hf["rms_norm_eps"] == 1e-6  # and 1e-5
    assert (hf["bos_token_id"], hf["eos_token_id"], hf["head_dim"]) == (1, 256, 8)


def test_a_base_of_rope_that_is_spelled_inside_is_not_spelled_twice() -> None:
    rope = {"rope_type": "default", "rope_theta": 77.0}
    hf = to_mixture(dense(rope_parameters=rope), SHAPE).source
    assert hf["rope_parameters"] == rope
    assert "rope_theta" not in hf


def test_several_end_tokens_stay_several() -> None:
    config = to_mixture(dense(eos_token_id=[5, 7]), SHAPE)
    assert config.source["eos_token_id"] == [5, 7]
    assert config.eos_ids == (5, 7)


def test_differences_name_fields_and_values_and_tell_layers_once() -> None:
    found = differences(dense(), dense(rms_norm_eps=0.5, intermediate_size=9))
    assert found == [
        "layers.feed_forward.size (9 instead of 12)",
        "norm.eps (0.5 instead of 1e-06)",
    ]
    assert differences(dense(), dense()) == []
