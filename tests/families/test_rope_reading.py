import math

import pytest

from expertly.config import LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling
from expertly.errors import ConfigError
from expertly.families.reading import Keys
from expertly.families.rope import read_rope

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 4.0],
    "original_max_position_embeddings": 16,
}


def read(hf, **options) -> Rope:
    options = {"head_size": 4, "max_context": 64, **options}
    keys = Keys(hf)
    rope = read_rope(keys, **options)
    keys.finish()
    return rope


def refusal(hf, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        read(hf, **options)
    return caught.value.message


def test_no_key_at_all_is_plain_rope_with_the_default_base() -> None:
    assert read({}) == Rope(base=10000.0)
    assert read({}, default_base=5e5) == Rope(base=5e5)
    assert read({"rope_scaling": None, "rope_theta": None}) == Rope(base=10000.0)


def test_the_base_is_read_in_either_spelling() -> None:
    expected = Rope(base=300.0)
    assert read({"rope_theta": 300}) == expected
    assert read({"rope_parameters": {"rope_theta": 300.0, "rope_type": "default"}}) == expected
    assert read({"rope_theta": 300, "rope_parameters": {"rope_theta": 300.0}}) == expected


def test_a_base_that_is_not_positive_is_refused() -> None:
    assert "rope_theta must be positive" in refusal({"rope_theta": 0})
    assert "rope_theta must be" in refusal({"rope_theta": -1.0})


def test_bases_that_disagree_are_refused() -> None:
    message = refusal({"rope_theta": 300, "rope_parameters": {"rope_theta": 400.0}})
    assert "rope_parameters.rope_theta is 400.0, but rope_theta is 300" in message


def test_sections_that_disagree_are_refused() -> None:
    message = refusal(
        {
            "rope_scaling": {"type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "linear", "factor": 3.0},
        }
    )
    assert "rope_parameters.factor is 3.0, but rope_scaling.factor is 2.0" in message


def test_type_and_rope_type_are_one_key() -> None:
    scaling = LinearScaling(factor=2.0)
    assert read({"rope_scaling": {"type": "linear", "factor": 2}}).scaling == scaling
    both = {"type": "linear", "rope_type": "linear", "factor": 2.0}
    assert read({"rope_scaling": both}).scaling == scaling
    message = refusal({"rope_scaling": {**both, "rope_type": "yarn"}})
    assert "rope_scaling.type" in message
    assert "rope_scaling.rope_type" in message


@pytest.mark.parametrize("kind", ["dynamic", "mrope", "proportional"])
def test_a_kind_that_is_not_built_is_refused_by_name(kind) -> None:
    assert f'"{kind}" is not built' in refusal({"rope_scaling": {"type": kind, "factor": 2.0}})


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_a_factor_must_be_there_and_positive(kind) -> None:
    frequencies = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    extra = frequencies if kind == "llama3" else {}
    assert "lacks the key 'factor'" in refusal({"rope_scaling": {"type": kind, **extra}})
    assert "factor must be positive" in refusal(
        {"rope_scaling": {"type": kind, "factor": 0.0, **extra}}
    )


def test_a_key_of_another_kind_is_unknown() -> None:
    message = refusal({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3.0}})
    assert "unknown key: beta_fast=3.0" in message


def test_part_of_a_head_rotated_is_not_built() -> None:
    assert read({"partial_rotary_factor": 1.0}) == Rope(base=10000.0)
    assert "partial_rotary_factor 0.5" in refusal({"partial_rotary_factor": 0.5})


def test_an_original_context_without_scaling_has_no_meaning() -> None:
    assert read({"original_max_position_embeddings": 64}) == Rope(base=10000.0)
    assert read({"original_max_position_embeddings": None}) == Rope(base=10000.0)
    assert "original_max_position_embeddings 16" in refusal(
        {"original_max_position_embeddings": 16}
    )


def test_llama3_keeps_its_four_numbers() -> None:
    hf = {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    }
    assert read(hf).scaling == Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=32
    )
    del hf["rope_scaling"]["original_max_position_embeddings"]
    scaling = read(hf).scaling
    assert isinstance(scaling, Llama3Scaling)
    assert scaling.original_context == 64


def yarn(**changes) -> YarnScaling:
    section = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    scaling = read({"rope_parameters": {**section, **changes}}).scaling
    assert isinstance(scaling, YarnScaling)
    return scaling


def test_yarn_has_the_papers_defaults() -> None:
    assert yarn() == YarnScaling(
        factor=4.0,
        original_context=16,
        beta_fast=32.0,
        beta_slow=1.0,
        attention_factor=0.1 * math.log(4) + 1,
        is_truncated=True,
    )


def test_yarn_reads_all_of_its_keys() -> None:
    assert yarn(beta_fast=8, beta_slow=2, truncate=False, attention_factor=0.5) == YarnScaling(
        factor=4.0,
        original_context=16,
        beta_fast=8.0,
        beta_slow=2.0,
        attention_factor=0.5,
        is_truncated=False,
    )


def test_yarns_attention_factor_is_the_ratio_of_both_mscales() -> None:
    found = yarn(mscale=2.0, mscale_all_dim=0.5).attention_factor
    assert found == pytest.approx((0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1))
    assert yarn(mscale=2.0).attention_factor == yarn().attention_factor
    assert yarn(mscale=2.0, mscale_all_dim=0.5, attention_factor=3.0).attention_factor == 3.0


def test_yarn_that_does_not_stretch_does_not_scale() -> None:
    assert yarn(factor=1.0).attention_factor == 1.0
    assert yarn(factor=0.5).attention_factor == 1.0


def test_yarns_null_factor_is_the_ratio_of_the_contexts() -> None:
    assert yarn(factor=None).factor == 64 / 16


def test_yarns_original_context_defaults_to_the_longest() -> None:
    scaling = read({"rope_scaling": {"type": "yarn", "factor": 2.0}}).scaling
    assert isinstance(scaling, YarnScaling)
    assert scaling.original_context == 64


@pytest.mark.parametrize("name", ["beta_fast", "beta_slow"])
def test_yarns_rotations_are_positive_and_zero_stands_for_the_default(name) -> None:
    assert yarn(**{name: 0}) == yarn(**{name: None}) == yarn()
    with pytest.raises(ConfigError, match=f"{name} must be"):
        yarn(**{name: -1.0})


def test_longrope_scales_by_the_papers_formula_unless_it_is_told() -> None:
    scale = math.sqrt(1 + math.log(64 / 16) / math.log(16))
    assert read({"rope_scaling": LONG}).scaling == LongScaling(
        short_factors=(1.0, 1.5),
        long_factors=(2.0, 4.0),
        short_scale=scale,
        long_scale=scale,
        original_context=16,
    )
    for extra, expected in (
        ({"attention_factor": 1.25}, 1.25),
        ({"factor": 16.0}, math.sqrt(2)),
        ({"factor": 1.0}, 1.0),
    ):
        found = read({"rope_scaling": {**LONG, **extra}}).scaling
        assert isinstance(found, LongScaling)
        assert found.short_scale == found.long_scale == pytest.approx(expected)


def test_longrope_with_mscales_takes_them_as_they_stand() -> None:
    hf = {"rope_scaling": {**LONG, "short_mscale": 1.1, "long_mscale": 1.3}}
    found = read(hf, has_mscales=True).scaling
    assert isinstance(found, LongScaling)
    assert (found.short_scale, found.long_scale) == (1.1, 1.3)
    assert "unknown keys: long_mscale=1.3, short_mscale=1.1" in refusal(hf)
    assert "short_mscale" in refusal({"rope_scaling": LONG}, has_mscales=True)
    assert '"linear" is not built' in refusal(
        {"rope_scaling": {"type": "linear", "factor": 2.0}}, has_mscales=True
    )


def test_longropes_original_context_may_stand_outside_and_must_agree() -> None:
    outside = {k: v for k, v in LONG.items() if k != "original_max_position_embeddings"}
    found = read({"rope_scaling": outside, "original_max_position_embeddings": 16})
    assert found == read({"rope_scaling": LONG})
    assert "original_max_position_embeddings is 16" in refusal(
        {"rope_scaling": LONG, "original_max_position_embeddings": 32}
    )


@pytest.mark.parametrize("name", ["short_factor", "long_factor"])
def test_longrope_needs_a_positive_factor_for_each_frequency(name) -> None:
    assert f"{name} holds 3 numbers" in refusal({"rope_scaling": {**LONG, name: [1.0, 1.0, 1.0]}})
    assert f"{name} must be positive" in refusal({"rope_scaling": {**LONG, name: [1.0, 0.0]}})


def test_an_original_context_of_one_token_is_refused() -> None:
    message = refusal({"rope_scaling": {**LONG, "original_max_position_embeddings": 1}})
    assert "original_max_position_embeddings must be an integer from 2" in message
