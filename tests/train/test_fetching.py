"""Texts by a data set's name: streamed once, as much as was asked for, through the real library on
files that are here."""

import json
import sys
from pathlib import Path

import pytest

from expertly.errors import InputError
from expertly.train.fetching import fetch, parse
from expertly.train.loop import train


def rows_of(folder: Path, *texts: object, column: str = "text") -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({column: text, "n": 1}) + "\n" for text in texts))
    return path


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_documents_come_one_after_another_with_an_empty_line_between(tmp_path) -> None:
    path = rows_of(tmp_path, "one\n", "two", "three")
    [name] = fetch((f"datasets:json?files={path}",), tmp_path / "texts")
    assert Path(name).read_text() == "one\n\ntwo\n\nthree\n\n"
    assert Path(name).parent == (tmp_path / "texts").absolute()
    assert Path(name).name.startswith("json-")


def test_other_options_are_another_text(tmp_path) -> None:
    path = rows_of(tmp_path, "a" * 600, "b" * 600)
    entries = tuple(f"datasets:json?files={path}&bytes={size}" for size in ("1kB", "500B"))
    long, short = (Path(name).read_text() for name in fetch(entries, tmp_path / "texts"))
    assert "b" in long and "b" not in short


def test_other_names_stay_as_they_are(tmp_path) -> None:
    names = ("packaged:drama", "poem.txt")
    assert fetch(names, tmp_path / "texts") == names and not (tmp_path / "texts").exists()


def test_no_more_is_streamed_than_was_asked_for(tmp_path) -> None:
    path = rows_of(tmp_path, *["x" * 600] * 50)
    [name] = fetch((f"datasets:json?files={path}&bytes=1kB",), tmp_path / "texts")
    assert Path(name).read_text().count("x") == 1200


def test_what_was_fetched_is_not_fetched_again(tmp_path) -> None:
    path = rows_of(tmp_path, "one")
    entry = f"datasets:json?files={path}"
    [name] = fetch((entry,), tmp_path / "texts")
    path.unlink()
    assert fetch((entry,), tmp_path / "texts") == (name,)
    assert Path(name).read_text() == "one\n\n"


def test_a_run_trains_on_it_and_resumes(make_recipe, tmp_path, quiet) -> None:
    verses = [f"verse {n}: the sheep of hill {n * n} went home by themselves" for n in range(300)]
    path = rows_of(tmp_path, *verses, column="verse")
    entry = f"datasets:json?files={path}&column=verse"
    recipe = make_recipe(('texts = ["poem.txt"]', f'texts = ["{entry}"]'))
    train(recipe, tmp_path / "run", console=quiet, stop_after=4)
    path.unlink()
    summary = train(recipe, tmp_path / "run", console=quiet, resume=True)
    assert summary.step == 8 and [name[:5] for name in summary.bits_per_byte] == ["json-"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("datasets:json?files=FILE&column=body", "'body' is no column of text"),
        ("datasets:json?files=FILE&column=n", "'n' is no column of text"),
        ("datasets:json?files=FILE&split=test", "cannot be read"),
        ("datasets:json?files=missing.jsonl", "cannot be read"),
        ("datasets:nobody/nothing-of-this-name", "cannot be read"),
        ("datasets:json?files=FILE&part=2", "'part' is no option"),
        ("datasets:?split=train", "names no data set"),
        ("datasets:json?files=FILE&bytes=many", "many"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_leaves_no_text(tmp_path, entry, said) -> None:
    path = rows_of(tmp_path, "one")
    with pytest.raises(InputError, match=said) as caught:
        fetch((entry.replace("FILE", str(path)),), tmp_path / "texts")
    assert len(str(caught.value).splitlines()) == 2
    assert not list((tmp_path / "texts").glob("*.txt"))


def test_without_the_library_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        fetch(("datasets:json",), tmp_path / "texts")


def test_options_have_defaults_that_a_query_changes() -> None:
    source, options = parse("datasets:a/b?config=small&column=body")
    assert source == "a/b" and options["split"] == "train" and options["bytes"] == "64MB"
    assert (options["config"], options["column"]) == ("small", "body")
