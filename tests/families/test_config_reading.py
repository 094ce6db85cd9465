import math

import pytest

from expertly.errors import ConfigError
from expertly.families.reading import WITHOUT_MEANING, Keys, show


def refusal(act) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    assert caught.value.hint
    return caught.value.message


def test_a_needed_key_that_is_missing_is_named_with_its_other_spellings() -> None:
    message = refusal(lambda: Keys({}).size("num_local_experts", "num_experts"))
    assert "'num_local_experts' or 'num_experts'" in message


def test_a_default_stands_in_for_a_missing_key_and_not_for_null() -> None:
    assert Keys({}).size("width", default=7) == 7
    assert "width must be an integer from 1, not null" in refusal(
        lambda: Keys({"width": None}).size("width", default=7)
    )


def test_null_is_a_value_of_its_own_where_it_may_be() -> None:
    keys = Keys({"window": None, "clip": None})
    assert keys.maybe_size("window", default=4096) is None
    assert keys.maybe_number("clip", default=8.0) is None
    assert Keys({}).maybe_size("window", default=4096) == 4096
    assert Keys({}).maybe_number("clip", default=8.0) == 8.0


@pytest.mark.parametrize("bad", [True, 2.0, "2", 0, -1, [2], 2**53 + 1, 10**400])
def test_a_size_is_a_positive_integer_of_sane_size(bad) -> None:
    assert "width must be an integer from 1" in refusal(lambda: Keys({"width": bad}).size("width"))


def test_a_size_may_be_as_small_as_its_minimum() -> None:
    assert Keys({"first": 0}).size("first", minimum=0) == 0
    assert Keys({"first": 2**53}).size("first") == 2**53


@pytest.mark.parametrize("bad", [True, math.nan, math.inf, -0.5, -1, "1", None, 10**400])
def test_a_number_is_finite_and_no_flag(bad) -> None:
    assert "eps must be a finite number" in refusal(lambda: Keys({"eps": bad}).number("eps"))


def test_an_integer_counts_as_a_number() -> None:
    found = Keys({"theta": 10000}).number("theta")
    assert found == 10000.0
    assert isinstance(found, float)


@pytest.mark.parametrize("bad", [0, 1, "true", None])
def test_a_flag_is_true_or_false_alone(bad) -> None:
    assert "tied must be true or false" in refusal(
        lambda: Keys({"tied": bad}).flag("tied", default=False)
    )


@pytest.mark.parametrize("bad", [3, [1, math.nan], [True], "12", None, ["1"]])
def test_a_list_of_numbers_holds_finite_numbers_alone(bad) -> None:
    assert "factors must be a list" in refusal(lambda: Keys({"factors": bad}).numbers("factors"))


def test_lists_come_back_as_tuples() -> None:
    keys = Keys({"n": [1, 2.5], "i": [0, 3], "t": ["a"], "null": None})
    assert keys.numbers("n") == (1.0, 2.5)
    assert keys.maybe_sizes("i") == (0, 3)
    assert keys.maybe_texts("t") == ("a",)
    assert keys.maybe_sizes("null") is None
    assert keys.maybe_texts("absent") is None
    assert "i must be a list of integers" in refusal(lambda: Keys({"i": [-1]}).maybe_sizes("i"))
    assert "t must be a list of strings" in refusal(lambda: Keys({"t": [1]}).maybe_texts("t"))


def test_two_spellings_may_agree() -> None:
    assert Keys({"a": 3, "b": 3}).size("a", "b") == 3
    assert Keys({"b": 3}).size("a", "b") == 3


def test_two_spellings_that_disagree_are_both_named_with_their_values() -> None:
    message = refusal(lambda: Keys({"a": 3, "b": 4}).size("a", "b"))
    assert "a is 3, but b is 4" in message


def test_true_and_one_are_not_the_same_value() -> None:
    assert "a is 1, but b is true" in refusal(lambda: Keys({"a": 1, "b": True}).size("a", "b"))
    assert "gate 1 is not built" in refusal(lambda: Keys({"gate": 1}).must_be("gate", True))


def test_a_choice_gives_what_a_string_stands_for_and_lists_the_others() -> None:
    built = {"silu": 1, "gelu": 2}
    assert Keys({"act": "gelu"}).choice("act", of=built) == 2
    assert Keys({}).choice("act", of=built, default="silu") == 1
    with pytest.raises(ConfigError) as caught:
        Keys({"act": "tanh"}).choice("act", of=built)
    assert caught.value.message == 'config.json: act "tanh" is not built'
    assert caught.value.hint == "built are: silu, gelu"


def test_a_fixed_key_may_be_missing_or_have_one_of_its_values() -> None:
    Keys({}).must_be("topk", 2)
    Keys({"topk": 2}).must_be("topk", 1, 2)
    assert "topk 3 is not built, only 1 or 2" in refusal(
        lambda: Keys({"topk": 3}).must_be("topk", 1, 2)
    )


def test_minus_one_is_no_token() -> None:
    keys = Keys({"pad": -1, "bos": 0, "end": [3, 4], "ends": -1, "none": None})
    assert keys.token("pad") is None
    assert keys.token("bos") == 0
    assert keys.token("absent", default=5) == 5
    assert keys.tokens("end") == (3, 4)
    assert keys.tokens("ends", default=9) == ()
    assert keys.tokens("none", default=9) == ()
    assert keys.tokens("absent", default=9) == (9,)
    assert keys.tokens("absent") == ()
    assert "bos must be" in refusal(lambda: Keys({"bos": -2}).token("bos"))
    assert "end must be" in refusal(lambda: Keys({"end": ["</s>"]}).tokens("end"))


def test_what_nobody_read_is_refused_by_name_and_value() -> None:
    keys = Keys({"width": 3, "gizmo": [1], "alpha": "x"})
    keys.size("width")
    message = refusal(keys.finish)
    assert message == 'config.json has unknown keys: alpha="x", gizmo=[1]'
    assert "an unknown key: gizmo" in refusal(lambda: Keys({"gizmo": 1}).finish())


def test_keys_without_meaning_pass_whatever_their_value() -> None:
    Keys(dict.fromkeys(WITHOUT_MEANING, object())).finish()
    Keys({"mine": 1}).finish(("mine",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantization_config", {"quant_method": "mxfp4"}),
        ("is_encoder_decoder", True),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
    ],
)
def test_keys_that_would_change_the_model_pass_only_at_rest(name, value) -> None:
    assert f"{name} " in refusal(lambda: Keys({name: value}).finish())


def test_a_quantized_checkpoint_is_refused_with_what_to_use_instead() -> None:
    Keys({"quantization_config": None}).finish()
    with pytest.raises(ConfigError) as caught:
        Keys({"quantization_config": {"quant_method": "mxfp4"}}).finish()
    assert "mxfp4" in caught.value.message
    assert "bfloat16" in caught.value.hint


def test_a_section_refuses_its_own_unknown_keys_and_says_where() -> None:
    keys = Keys({"ffn": {"size": 3, "more": 1}, "none": None})
    section = keys.section("ffn")
    assert section is not None
    assert section.size("size") == 3
    assert refusal(section.finish) == "config.json: ffn has an unknown key: more=1"
    assert keys.section("none") is None
    assert keys.section("absent") is None
    assert "ffn must be an object" in refusal(lambda: Keys({"ffn": 3}).section("ffn"))


def test_something_that_is_no_object_is_refused() -> None:
    assert "config.json must be an object, not [1]" in refusal(lambda: Keys([1]))


def test_a_long_value_is_cut_in_a_message() -> None:
    assert show("x" * 58) == '"' + "x" * 58 + '"'
    assert show("x" * 59) == '"' + "x" * 56 + "..."
