"""Which format each matrix gets: by bits, by type, by name, and by what its width can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packing import FAMILIES, GPT_OSS, TIED, WIDE

from expertly.checkpoint.packed_layout import all_places
from expertly.checkpoint.recipe import (
    BITS,
    OF_BITS,
    fitting,
    formats_of,
    name_of,
    read_keep,
    recipe_of_bits,
    recipe_of_type,
)
from expertly.errors import InputError
from expertly.families import read_config
from expertly.formats.blocks import BLOCKS
from expertly.model.weights import is_router

PLACES = {name: all_places(read_config(hf)) for name, hf in FAMILIES.items()}


def test_every_format_has_its_bits_and_every_bits_its_format() -> None:
    assert BITS.keys() == BLOCKS.keys()
    assert {bits: BITS[name] for bits, name in OF_BITS.items()} == {bits: bits for bits in OF_BITS}
    for name, block in BLOCKS.items():
        # scales and minima take less than one more bit
        stored = 8 * block.num_bytes / block.size
        assert BITS[name] <= stored < BITS[name] + 1.01, name


def test_experts_get_the_bits_and_what_every_token_passes_eight() -> None:
    formats = formats_of(recipe_of_bits(4), PLACES["wide"])
    assert formats["layers.0.feed_forward.experts.w_gate_EFD", 4] == "i4"
    assert formats["layers.0.feed_forward.shared.w_gate_FD", None] == "q8_0"
    assert formats["layers.1.attention.w_o_DHC", None] == "q8_0"
    assert formats["embed_VD", None] == formats["head_VD", None] == "q8_0"


def test_the_feed_forwards_of_a_dense_model_get_the_bits() -> None:
    formats = formats_of(recipe_of_bits(5), PLACES["tied"])
    assert formats["layers.0.feed_forward.w_up_FD", None] == "q5_1"
    assert formats["embed_VD", None] == "q8_0"


@pytest.mark.parametrize("bits", OF_BITS)
@pytest.mark.parametrize("name", PLACES)
def test_nothing_that_every_token_passes_has_fewer_than_eight_bits(name: str, bits: int) -> None:
    formats = formats_of(recipe_of_bits(bits), PLACES[name])
    for place in PLACES[name]:
        if place.expert is None and ".feed_forward.w_" not in place.parameter:
            assert BITS[formats[place.parameter, place.expert]] >= 8


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", PLACES)
def test_routers_are_float32_whatever_is_asked_for(name: str, kind: str) -> None:
    formats = formats_of(recipe_of_type(kind, [("*", kind)]), PLACES[name])
    routers = {key: found for key, found in formats.items() if is_router(key[0])}
    assert set(routers.values()) <= {"f32"} and bool(routers) == (name != "tied")


def test_the_last_pattern_that_matches_decides() -> None:
    keep = [("layers.0.*", "f16"), ("*.experts.3.*", "q5_0"), ("*.3.w_down_EDF", "bf16")]
    formats = formats_of(recipe_of_bits(4, keep), PLACES["wide"])
    assert formats["layers.0.feed_forward.experts.w_up_EFD", 2] == "f16"
    assert formats["layers.0.feed_forward.experts.w_up_EFD", 3] == "q5_0"
    assert formats["layers.0.feed_forward.experts.w_down_EDF", 3] == "bf16"
    assert formats["layers.1.feed_forward.experts.w_up_EFD", 2] == "i4"


def test_names_for_patterns_have_the_expert_before_their_last_part() -> None:
    names = {name_of(place) for place in PLACES["gpt_oss"]}
    assert "layers.1.feed_forward.experts.2.w_down_EDF" in names and "embed_VD" in names
    assert len(names) == len(PLACES["gpt_oss"])


@pytest.mark.parametrize(
    ("asked", "columns", "used"),
    [
        ("q4_k", 512, "q4_k"),
        ("q4_k", 192, "q5_0"),
        ("q6_k", 64, "q8_0"),
        ("q2_k", 320, "iq4_nl"),
        ("q5_k", 128, "q5_1"),
        # two scales a row of 8 bytes, against 2 more bytes a group of 32
        ("i4", 96, "q4_1"),
        ("i4", 128, "i4"),
        ("q8_0", 7, "q8_0"),
        ("f32", 7, "f32"),
    ],
)
def test_a_format_that_does_not_fit_the_rows_gives_way(asked: str, columns: int, used: str) -> None:
    assert fitting(asked, columns) == used


@given(st.sampled_from(sorted(BLOCKS)), st.integers(1, 3000))
def test_what_is_fitting_takes_every_width_and_is_fitting_itself(name: str, columns: int) -> None:
    found = fitting(name, columns)
    assert BLOCKS[found].size != 256 or columns % 256 == 0
    assert fitting(found, columns) == found
    assert BITS[found] >= BITS[name]


@pytest.mark.parametrize(
    ("text", "pattern", "name"),
    [("layers.0.*=q8_0", "layers.0.*", "q8_0"), ("a=b*=f16", "a=b*", "f16")],
)
def test_a_pattern_and_its_type_are_read(text: str, pattern: str, name: str) -> None:
    assert read_keep(text) == (pattern, name)


@pytest.mark.parametrize("text", ["q8_0", "=q8_0", "", "layers.0.*", "layers.*=q9"])
def test_what_is_no_pattern_and_type_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_keep(text)


@pytest.mark.parametrize("bits", [0, 1, 7, 9, -4, 64])
def test_bits_without_a_format_are_refused_with_those_that_have_one(bits: int) -> None:
    with pytest.raises(InputError, match="2, 3, 4, 5, 6, 8, 16, 32"):
        recipe_of_bits(bits)


def test_a_type_that_is_not_known_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"(?s)'q4_2' is not known.*q4_0, q4_1"):
        recipe_of_type("q4_2")


@pytest.mark.parametrize("hf", [GPT_OSS, TIED, WIDE])
def test_a_pattern_of_no_matrix_is_refused_with_names_that_there_are(hf) -> None:
    with pytest.raises(InputError, match=r"(?s)called 'norm\*'.*names are such as embed_VD"):
        formats_of(recipe_of_bits(4, [("norm*", "q8_0")]), all_places(read_config(hf)))
