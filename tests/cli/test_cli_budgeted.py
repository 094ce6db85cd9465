"""`expertly run` larger than memory and with answers that are not quite the model's own."""

import json
from pathlib import Path

import pytest

from expertly.checkpoint import load
from expertly.checkpoint.budget import reserve_bytes
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.cli import main
from expertly.cli.approximating import _ids, approximated
from expertly.families import read_config

GREEDY = ["--temperature", "0", "--max-tokens", "12", "--raw"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model"
    with open_folder(bundled()) as source:
        save_packed(source, path, recipe_of_bits(8))
    return path


@pytest.fixture(scope="module")
def smaller(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lower") / "model"
    with open_folder(bundled()) as source:
        save_packed(source, path, recipe_of_bits(4))
    return path


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a budget of 4 GB, no more than 2 MB are left for experts, which take 5 MB."""
    config = read_config(json.loads((bundled() / "config.json").read_text()))
    used = 4 * 10**9 - reserve_bytes(config) - 2 * 10**6
    monkeypatch.setattr("expertly.checkpoint.budget.resident_bytes", lambda: used)


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
    kept = capsys.readouterr()
    assert kept.out == own.out
    assert "all choices were kept; answers are the model's own" in kept.err


def test_naee_reads_a_packaged_text_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--approximate", "naee:0.5") == 0
    assert "approximate (naee:0.5)" in capsys.readouterr().err


def test_a_text_ends_where_the_room_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--memory", "4GB", "--context", "8", "--json") == 0
    pieces = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert pieces[-1]["finish_reason"] == "length" and len(pieces) < 8
    assert run(folder, "--memory", "4GB", "--context", "2") == 2
    said = capsys.readouterr().err
    assert "the memory budget has room for 2" in said and "a larger --context" in said


def test_what_naee_reads_first_fits_the_room_too(folder: Path) -> None:
    model = load(folder, memory="4GB", context=8)
    approximated(model, "naee:0.5")
    assert len(_ids(model)) == 8


def test_room_for_more_than_the_models_context_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--memory", "4GB", "--context", "100000000") == 2
    assert "room for 100,000,000 tokens" in capsys.readouterr().err


def test_an_amount_that_is_none_is_named_before_what_the_model_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "Hello", "--memory", "8XB"]) == 2
    assert "'8XB' is not an amount of memory" in capsys.readouterr().err


def test_reading_ahead_can_be_left_out_within_a_memory_budget(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--memory", "4GB", "--no-read-ahead", "--approximate", "cold:1") == 0
    assert "all fit" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["cold:1", "cached:0.5"])
def test_a_rule_about_experts_in_memory_is_refused_where_all_are(
    folder: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["run", str(folder), "Once"], ["bench", str(folder)]):
        assert main([*verb, "--approximate", rule]) == 2
        said = capsys.readouterr().err
        assert f"--approximate {rule} without --memory" in said and "hint: add --memory" in said


LOWER = ["--memory", "4GB", "--approximate", "lower:1000"]


def test_the_report_says_how_much_was_computed_from_lower_copies(
    folder: Path, smaller: Path, room: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *LOWER, "--lower", str(smaller)) == 0
    said = capsys.readouterr().err
    assert "approximate (lower:1000)" in said and "computed from lower copies" in said
    assert "0.0% were left out and 0.0% exchanged" in said


def test_a_bench_names_the_lower_copy_and_counts_what_was_read(
    folder: Path, smaller: Path, room: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prefill", "", "--decode", "0", "--batch", "1", "--pairs", "1", "--json"]
    assert main(["bench", str(folder), *options, *LOWER, "--lower", str(smaller)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["approximate"], found["lower"]) == ("lower:1000", "model")
    assert "a lower copy takes" in found["memory"]
    assert found["rows"][0]["reading"]["bytes_per_token"] > 0


def test_where_all_experts_fit_the_text_is_the_models_own_and_nothing_is_lowered(
    folder: Path, smaller: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder) == 0
    own = capsys.readouterr()
    assert run(folder, *LOWER, "--lower", str(smaller)) == 0
    found = capsys.readouterr()
    assert found.out == own.out and "all fit" in found.err and "lower copies" not in found.err


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("--memory", "--lower without --memory"),
        ("--approximate", "--lower without --approximate lower:F"),
        ("--lower", "--approximate lower:1000 without --lower"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "bench"])
def test_a_lower_copy_its_rule_and_a_budget_come_together(
    folder: Path, smaller: Path, verb, left_out, expected, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**dict(zip(LOWER[::2], LOWER[1::2], strict=True)), "--lower": str(smaller)}
    del options[left_out]
    assert main([verb, str(folder), *(word for pair in options.items() for word in pair)]) == 2
    said = capsys.readouterr().err
    assert expected in said and "hint:" in said and "Traceback" not in said


def test_a_lower_copy_of_another_model_is_one_line_and_a_hint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *LOWER, "--lower", str(tmp_path)) in (1, 2)
    assert run(folder, *LOWER, "--lower", str(folder / "config.json")) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("hint:") == 2 and "Traceback" not in said


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


def test_a_budget_names_the_bundled_model_that_it_cannot_be_given_for(capsys) -> None:
    assert main(["run", "--memory", "8GB"]) == 2
    assert "a memory budget for the bundled model, whose experts" in capsys.readouterr().err
