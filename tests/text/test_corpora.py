import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertly.errors import InputError
from expertly.text import corpora

SIZES = {  # bytes: a change of a text is a change of every figure measured on it
    "drama": 1_115_394,
    "encyclopedia": 2_361_992,
    "maths": 3_829_986,
    "python": 2_321_378,
    "swahili": 939_193,
}
FIRST_WORDS = {
    "drama": "First Citizen:",
    "encyclopedia": " = Homarus gammarus = ",
    "maths": "Question: Natalia sold clips to 48 of her friends",
    "python": '"""',
    "swahili": "Yesu Kristo alikuwa mzawa wa Daudi",
}


@pytest.mark.parametrize("domain", corpora.domains())
def test_a_packaged_text_is_whole_and_its_last_twentieth_is_held_out(domain: str) -> None:
    training, held_out = corpora.training_text(domain), corpora.held_out_text(domain)
    assert FIRST_WORDS[domain] in training[:500]
    assert training.endswith("\n")
    assert training + held_out == corpora.whole_text(domain)
    size = len((training + held_out).encode())
    assert size == SIZES[domain]
    longest_line = 6000
    assert 0.05 * size <= len(held_out.encode()) <= 0.05 * size + longest_line


def test_the_held_out_maths_is_nowhere_in_its_training_text() -> None:
    problems = corpora.held_out_text("maths").split("\n\n")
    training = set(corpora.training_text("maths").split("\n\n"))
    assert len(problems) > 300
    assert not training & set(problems)


def test_an_unknown_domain_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="'dramma'") as caught:
        corpora.training_text("dramma")
    assert "drama, encyclopedia, maths, python, swahili" in caught.value.hint


def test_the_cut_is_at_the_last_line_boundary_before_the_share() -> None:
    assert corpora.split("aaaa\nbbbb\ncccc\n", 1 / 3) == ("aaaa\nbbbb\n", "cccc\n")
    assert corpora.split("aaaa\nbbbb\ncccc\n", 0.34) == ("aaaa\n", "bbbb\ncccc\n")
    assert corpora.split("aaaa\nbbbb\n", 0.0) == ("aaaa\nbbbb\n", "")


def test_a_text_of_one_line_is_cut_between_characters() -> None:
    assert corpora.split("one line", 0.5) == ("one ", "line")
    assert corpora.split("häää", 0.5) == ("hä", "ää")
    assert corpora.split("", 0.5) == ("", "")


@given(st.text(), st.floats(0.0, 1.0))
def test_nothing_is_lost_by_a_cut_and_enough_is_held_out(text: str, share: float) -> None:
    first, second = corpora.split(text, share)
    assert first + second == text
    assert len(second.encode()) >= share * len(text.encode()) - 1e-9
