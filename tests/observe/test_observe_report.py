"""The report as a page and as a dictionary, on one small report written by hand."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from expertly.observe.report import LayerReport, Report, TokenUse, strip, table

LAYER = LayerReport(
    layer=1,
    num_experts=4,
    num_chosen=2,
    num_rows=40,
    load=[0.5, 0.25, 0.25, 0.0],
    entropy=0.75,
    max_violation=1.0,
    gini=0.375,
    dead_experts=[3],
    token_entropy=1.25,
    repeat_share=0.125,
    coactivation=[[1.0, 0.5, 0.5, 0], [0.9, 1.0, 0.1, 0], [1.0, 0.0, 1.0, 0], [0, 0, 0, 0]],
    pair_lift=[[0.0, 1.2, 0.8, 0], [1.2, 0.0, 0.5, 0], [0.8, 0.5, 0.0, 0], [0, 0, 0, 0]],
    tokens_by_expert=[20, 10, 9, 0],
    domain_rows=[[10, 8, 2, 0], [10, 0, 10, 0]],
    domain_row_share=[[0.5, 0.4, 0.1, 0.0], [0.5, 0.0, 0.5, 0.0]],
    domain_token_share=[[1.0, 0.8, 0.2, 0.0], [1.0, 0.0, 1.0, 0.0]],
    domain_entropy=1.0,
    information=0.25,
    shuffled_information=[0.01, 0.03],
    token_information=0.5,
    shuffled_token_information=0.02,
    halves_information=None,
    vocabulary_rows=[[10, 0, 10, 0], [3, 2, 1, 0]],
    favourites=[[0, 1], [1], [0, 1], []],
)
REPORT = Report(
    tokens_by_domain={"drama": 1500, "maths": 500},
    min_count=10,
    vocabulary=[TokenUse(id=7, text=" x", count=10), TokenUse(id=9, text="\n", count=3)],
    layers=[LAYER],
    samples={},
)


def section(text: str, start: str) -> list[str]:
    """Lines of the part of a page whose first line begins with `start`, split into cells."""
    part = next(p for p in text.split("\n\n") if p.lstrip().startswith(start))
    return part.splitlines()


def test_the_page_begins_with_the_texts_and_their_tokens() -> None:
    assert REPORT.to_text().startswith("2,000 tokens: drama 1,500, maths 500\n\n")


def test_the_page_has_a_line_of_measures_for_each_layer() -> None:
    lines = section(REPORT.to_text(), "layer  entropy")
    measures = "layer entropy MaxVio Gini dead token entropy repeats load"
    assert lines[0].split() == measures.split()
    assert lines[1].split()[:7] == ["1", "0.750", "1.00", "0.38", "1", "1.25", "12.5%"]
    assert lines[1].endswith("|*-- |")


def test_a_layer_without_neighbouring_tokens_has_no_share_of_repeats() -> None:
    report = replace(REPORT, layers=[replace(LAYER, repeat_share=None)])
    assert section(report.to_text(), "layer  entropy")[1].split()[6] == "-"


def test_dead_experts_are_named_only_where_there_are_some() -> None:
    assert "dead in layer 1 (under 1% of a fair share): 3" in REPORT.to_text()
    alive = replace(REPORT, layers=[replace(LAYER, dead_experts=[])])
    assert "dead in layer" not in alive.to_text()


def test_the_strongest_pairs_leave_out_experts_with_few_tokens_and_themselves() -> None:
    lines = section(REPORT.to_text(top=3), "layer  expert  consulted")
    # expert 2 goes with expert 0 always, but it has 9 tokens, under the floor of 10
    assert [line.split() for line in lines[1:]] == [
        ["1", "1", "0", "90%", "33%"],
        ["1", "0", "1", "50%", "33%"],
        ["1", "0", "2", "50%", "33%"],
    ]


def test_each_domain_lists_its_experts_with_their_own_tokens() -> None:
    lines = section(REPORT.to_text(top=2), "domain")
    assert [line.split() for line in lines[1:]] == [
        ["drama", "1", "0", "100%", "2.0x", "'", "x'", "'\\n'"],
        ["drama", "1", "1", "80%", "1.6x", "'\\n'"],
        ["maths", "1", "0", "100%", "2.0x", "'", "x'", "'\\n'"],
        ["maths", "1", "2", "100%", "2.0x", "'", "x'", "'\\n'"],
    ]


def test_experts_of_layers_with_unlike_shapes_are_ranked_by_their_fair_share() -> None:
    # 60% of the tokens is 1.2 times fair in a layer of 4 experts, 4.8 times in one of 16
    wide = replace(
        LAYER,
        layer=5,
        num_experts=16,
        domain_token_share=[[0.6, *[0.0] * 15], [0.0] * 16],
        favourites=[[]] * 16,
        coactivation=[],
    )
    lines = section(replace(REPORT, layers=[LAYER, wide]).to_text(top=1), "domain")
    assert lines[1].split()[:5] == ["drama", "5", "0", "60%", "4.8x"]


def test_the_page_is_plain_ascii_when_the_tokens_are() -> None:
    assert REPORT.to_text().isascii()
    assert "\x1b" not in REPORT.to_text()


def test_control_characters_in_tokens_are_spelled_out() -> None:
    hostile = replace(REPORT, vocabulary=[TokenUse(id=7, text="\x1b[2J", count=10)] * 2)
    assert "\x1b" not in hostile.to_text()
    assert "'\\x1b[2J'" in hostile.to_text()


def test_the_dictionary_survives_json_and_holds_every_matrix() -> None:
    document = json.loads(json.dumps(REPORT.to_dict(), allow_nan=False))
    layer = document["layers"][0]
    assert layer["coactivation"] == LAYER.coactivation
    assert layer["domain_row_share"] == LAYER.domain_row_share
    assert layer["domain_token_share"] == LAYER.domain_token_share
    assert layer["vocabulary_rows"] == LAYER.vocabulary_rows
    assert document["vocabulary"][0] == {"id": 7, "text": " x", "count": 10}
    assert document["tokens_by_domain"] == {"drama": 1500, "maths": 500}


def test_the_dictionary_has_the_fair_shares_to_compare_with() -> None:
    layer = REPORT.to_dict()["layers"][0]
    assert (layer["fair_row_share"], layer["fair_token_share"]) == (0.25, 0.5)


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        REPORT.min_count = 1  # type: ignore[misc]


def test_a_fair_load_is_a_third_of_the_ramp_and_three_times_fair_its_end() -> None:
    assert strip([0.25] * 4) == "----"
    assert strip([0.75, 0.25, 0.0, 0.0]) == "@-  "


def test_a_load_that_is_not_idle_is_always_seen() -> None:
    assert strip([0.001, 0.999, 0.0]) == ".@ "


def test_many_experts_are_averaged_in_neighbouring_groups() -> None:
    load = [2 / 128, 0.0] * 64
    assert strip(load) == "-" * 64
    assert len(strip([1 / 100] * 100)) == 50


def test_tables_align_numbers_to_the_right_and_named_columns_to_the_left() -> None:
    lines = table(("a", "name"), [("100", "x"), ("1", "long one")], left=(1,))
    assert lines == ["  a  name", "100  x", "  1  long one"]
