"""The report as an HTML file: alone, well-formed, escaped, and with the report's numbers in it."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.observe import page as pages
from expertly.observe.information import information_by_chance, mutual_information
from expertly.observe.page import findings, lift, page, shade_of, strongest_pairs
from expertly.observe.report import TokenUse
from expertly.observe.sample import Reading
from tests.observe.test_observe_report import LAYER, REPORT

EVIL = "</script><img src=x onerror=alert(1)>\"'&"
READING = Reading(
    domain="drama", tokens=["To", " be"], chosen=[[[(0, 0.75), (2, 0.25)], [(1, 1.0)]]]
)
VOID = {"meta", "img", "br", "input", "rect"}


class Reader(HTMLParser):
    """Tags as they open and close, attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def made() -> Reader:
    return Reader(page(REPORT, [READING], "a model"))


def test_every_tag_is_closed_in_its_place(made) -> None:
    assert made.open == [] and made.tags.count("h2") == 5


def test_nothing_in_it_is_fetched_from_elsewhere(made) -> None:
    text = page(REPORT, [READING], "a model")
    assert not [a for a in made.attributes if a[1] in ("src", "href", "srcset", "action", "data")]
    assert "http" not in text.replace("http-equiv", "") and "@import" not in text
    assert "url(" not in text


def test_names_texts_and_vocabulary_are_escaped() -> None:
    report = replace(
        REPORT,
        tokens_by_domain={EVIL: 1500, "maths": 500},
        vocabulary=[TokenUse(id=7, text=EVIL, count=10), REPORT.vocabulary[1]],
    )
    reading = replace(READING, domain=EVIL, tokens=[EVIL, " be"])
    reader = Reader(page(report, [reading], EVIL))
    assert "img" not in reader.tags and reader.tags.count("script") == 1
    assert any(EVIL in words for words in reader.words)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]


def test_every_picture_says_what_it_shows_and_its_numbers_are_in_a_table(made) -> None:
    pictures = [tag for tag in made.tags if tag in ("svg", "canvas")]
    labels = [value for _, name, value in made.attributes if name == "aria-label"]
    assert len(pictures) == len(labels) == 4 and all("table below" in label for label in labels)
    assert "50.0 25.0 25.0 0.0" in " ".join(" ".join(made.words).split())


def test_the_load_has_a_picture_of_all_texts_and_one_of_each_domain() -> None:
    text = page(REPORT, [READING], "a model")
    shown = re.findall(r'<rect class="s(\d)" x="(\d)" y="0"[^>]*><title>([^<]*)', text)
    assert len(shown) == 3 * 4
    assert shown[0] == ("6", "0", "layer 1, expert 0: 50.0% (2.0x fair)")
    assert shown[5] == ("5", "1", "layer 1, expert 1: 40.0% (1.6x fair)")


@pytest.mark.parametrize(
    ("times", "shade"), [(0.0, 0), (0.01, 1), (1.0, 3), (1.5, 4), (3.0, 9), (40.0, 9)]
)
def test_shades_go_from_nothing_to_three_times_a_fair_share(times, shade) -> None:
    assert shade_of(times) == shade


def test_what_is_wrong_with_a_layer_is_said_in_words() -> None:
    assert findings(LAYER) == [
        "experts 3 get under 1% of a fair share of rows: dead on these texts",
        "the load is uneven: entropy 0.75 of 1",
    ]
    assert (
        findings(replace(LAYER, max_violation=3.0))[-1] == "expert 0 gets 4.0 times its fair share"
    )
    assert findings(replace(LAYER, dead_experts=[], entropy=0.99)) == []


def test_lift_is_how_much_oftener_than_by_independent_choices() -> None:
    # 20 tokens; expert 1 is in half of them, and in half of those with expert 0
    assert lift(LAYER, 0, 1) == pytest.approx(0.5 / 0.5)
    assert lift(LAYER, 1, 0) == pytest.approx(0.9 / 1.0)
    assert lift(LAYER, 0, 3) == 0.0


def test_pairs_of_few_tokens_are_not_called_strong() -> None:
    assert strongest_pairs(LAYER, 10) == [
        (0, 2, pytest.approx(0.5 / 0.45), 10),
        (0, 1, pytest.approx(1.0), 10),
    ]
    assert strongest_pairs(LAYER, 11) == []


def test_a_layer_too_many_to_draw_is_left_to_the_table(monkeypatch) -> None:
    monkeypatch.setattr(pages, "_MOST_CELLS", 15)
    reader = Reader(page(REPORT, [READING], "a model"))
    assert "canvas" not in reader.tags
    assert any("too large" in words for words in reader.words)


def test_a_text_is_shown_with_the_first_expert_and_all_weights() -> None:
    text = page(REPORT, [READING], "a model")
    assert 'title="expert 0: 0.75, expert 2: 0.25">To</span><sub>0</sub>' in text
    assert 'title="expert 1: 1.00"> be</span><sub>1</sub>' in text


def test_two_experts_that_share_out_two_domains_tell_one_bit() -> None:
    assert mutual_information([[50, 0], [0, 50]]) == pytest.approx(1.0)
    assert mutual_information([[25, 25], [25, 25]]) == 0.0
    by_hand = (
        0.6 * math.log2(0.6 / 0.49) + 0.2 * math.log2(0.1 / 0.21) + 0.2 * math.log2(0.2 / 0.09)
    )
    assert mutual_information([[60, 10], [10, 20]]) == pytest.approx(by_hand)


def test_no_rows_tell_nothing() -> None:
    assert mutual_information([[0, 0]]) == information_by_chance([[0, 0]]) == 0.0


def test_independent_draws_seem_to_tell_about_what_is_said_of_chance() -> None:
    generator = torch.Generator().manual_seed(1)
    told = []
    for _ in range(40):
        drawn = torch.randint(4 * 16, (2000,), generator=generator)
        counts = torch.bincount(drawn, minlength=64).view(4, 16).tolist()
        told.append(mutual_information(counts))
    expected = information_by_chance(counts)
    assert expected == pytest.approx(3 * 15 / (2 * 2000 * math.log(2)))
    assert sum(told) / len(told) == pytest.approx(expected, rel=0.15)


@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=5))
def test_information_is_between_nothing_and_the_experts_own(counts) -> None:
    assert 0.0 <= mutual_information(counts) <= math.log2(3) + 1e-9
