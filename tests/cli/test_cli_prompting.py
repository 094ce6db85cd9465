from pathlib import Path

import pytest

from expertly.cli.pace import Pace
from expertly.cli.prompting import near_path, split


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ("", None)),
        (("a model", "a prompt"), ("a model", "a prompt")),
        (("", "and/or"), ("", "and/or")),
        (("",), ("", None)),
        (("owner/name",), ("owner/name", None)),
        (("./no/such/folder",), ("./no/such/folder", None)),
        (("nosuch.gguf",), ("nosuch.gguf", None)),
        (("What is a .gguf",), ("", "What is a .gguf")),
        (("Is it this and/or that?",), ("", "Is it this and/or that?")),
        (("Once",), ("", "Once")),
        (("-",), ("", "-")),
        (("x" * 10_000,), ("", "x" * 10_000)),
        (("a\0b",), ("", "a\0b")),
    ],
)
def test_arguments_are_model_and_prompt(words: tuple, expected: tuple) -> None:
    assert split(words) == expected


def test_a_word_that_is_nearly_a_model_here_is_asked_about(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert near_path("olmoe-4bit") is None
    (tmp_path / "olmoe-4bits").mkdir()
    (tmp_path / "small.gguf").touch()
    (tmp_path / "notes.txt").touch()
    assert near_path("olmoe-4bit") == "olmoe-4bits"
    assert near_path("smal.gguf") == "small.gguf"
    assert near_path("notes.tx") is None and near_path("Question:") is None


def test_nothing_is_asked_in_a_folder_that_is_gone(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert near_path("olmoe-4bit") is None


def test_a_path_that_exists_is_a_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    assert split(("my model",)) == ("my model", None)


def clock_of(*seconds: float):
    left = iter(seconds)
    return lambda: next(left)


def test_the_pace_counts_from_the_prompt_and_between_tokens() -> None:
    pace = Pace(clock_of(10.0, 12.0, 12.25, 12.5))
    assert list(pace.watch("abc")) == ["a", "b", "c"]
    assert pace.summary() == "3 tokens, the first after 2.00 s, then 4.0 tokens/s"


def test_the_pace_of_few_tokens_has_no_rate() -> None:
    assert Pace(clock_of(0.0)).summary() == "no tokens"
    pace = Pace(clock_of(0.0, 0.5))
    list(pace.watch("a"))
    assert pace.summary() == "1 token, the first after 0.50 s"
    instant = Pace(clock_of(0.0, 0.5, 0.5))
    list(instant.watch("ab"))
    assert instant.summary() == "2 tokens, the first after 0.50 s"
