"""`expertly run` larger than memory and with answers that are not quite the model's own."""

from pathlib import Path

import pytest

from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.cli import main

GREEDY = ["--temperature", "0", "--max-tokens", "12", "--raw"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model"
    with open_folder(bundled()) as source:
        save_packed(source, path, recipe_of_bits(8))
    return path


def run(folder: Path, *options: str) -> int:
    return main(["run", str(folder), "Once upon a time", *GREEDY, *options])


def test_the_report_says_what_was_left_out_and_that_the_answer_is_not_the_models(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--approximate", "top:2") == 0
    said = capsys.readouterr().err
    assert "approximate (top:2)" in said and "50.0% were left out" in said
    assert "not the model's own" in said


def test_without_a_rule_nothing_is_said_and_the_text_is_the_models(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder) == 0
    own = capsys.readouterr()
    assert "approximate" not in own.err
    assert run(folder, "--approximate", "top:4") == 0
    assert capsys.readouterr().out == own.out


def test_naee_reads_a_packaged_text_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--approximate", "naee:0.5") == 0
    assert "approximate (naee:0.5)" in capsys.readouterr().err


def test_reading_ahead_can_be_left_out_within_a_memory_budget(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--memory", "4GB", "--no-read-ahead", "--approximate", "cold:1") == 0
    assert "all fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--approximate", "half"], "--approximate half"),
        (["--approximate", "top:2", "--dtype", "float32"], "--approximate with --dtype float32"),
        (["--memory", "1GB", "--dtype", "float32"], "--memory with --dtype float32"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_a_hint(
    folder: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *options) == 2
    said = capsys.readouterr().err
    assert expected in said and "hint:" in said and "Traceback" not in said


def test_a_bench_is_of_the_models_choices_or_of_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--routing", "modelled", "--approximate", "top:2"]
    assert main(["bench", str(folder), *options]) == 2
    assert "--approximate with --routing" in capsys.readouterr().err


def test_a_bench_says_in_its_json_that_answers_are_approximate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prefill", "8", "--decode", "0", "--batch", "1", "--pairs", "1", "--json"]
    assert main(["bench", str(folder), *options, "--approximate", "top:2"]) == 0
    assert '"approximate": "top:2"' in capsys.readouterr().out
