import importlib
from pathlib import Path

import pytest

from expertly.cli import main, verbs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("plan m --ranks 4", "--ranks without --train"),
        ("plan m --shard", "--shard without --train"),
        ("plan m --recompute --json", "--recompute without --train"),
        ("plan m --optimiser muon", "--optimiser without --train"),
        ("plan m --train --bits 4", "--bits with --train"),
        ("plan m --train --context 10", "--context with --train"),
        ("run m hello --context 10", "--context without --memory"),
        ("run m hello --no-read-ahead", "--no-read-ahead without --memory"),
        ("run m hello --read-ahead", "--read-ahead without --memory"),
        ("bench m --context 10", "--context without --memory"),
        ("bench m --bits 8", "--bits without --synthetic"),
        ("bench m --out there", "--out without --synthetic"),
        ("bench m --peer-python python3", "--peer-python without --peer"),
        ("pack m out --max-tokens 10", "--max-tokens without --calibrate"),
        ("observe m --text t --disk 2GB", "--disk without a trace"),
        ("observe --ram 2GB", "--ram without a trace"),
        ("observe trace t.parquet --top 3", "--top with a trace"),
        ("observe trace t.parquet --html p.html", "--html with a trace"),
    ],
)
def test_an_option_that_says_nothing_here_is_refused(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    shown = capsys.readouterr().err
    assert f"error: {message}" in shown and "\nhint: " in shown


def test_the_same_options_are_taken_where_they_say_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # each gets as far as the model, which is not there
    gone = str(tmp_path / "gone")
    for arguments in (
        ["plan", gone, "--train", "--ranks", "4", "--shard"],
        ["plan", gone, "--bits", "4", "--memory", "8GB"],
        ["run", f"{gone}/", "hello", "--memory", "8GB", "--context", "10", "--no-read-ahead"],
        ["observe", "trace", gone, "--disk", "2GB"],
    ):
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        assert "gone" in shown and "without" not in shown


@pytest.mark.parametrize("name", verbs.VERBS)
def test_conditions_name_parameters_that_a_verb_has(name: str) -> None:
    conditions = getattr(importlib.import_module(f"expertly.cli.{name}"), "CONDITIONS", ())
    parameters = {parameter.name for parameter in verbs.load_verb(name).params}
    assert all(only.parameters <= parameters for only in conditions)


def test_more_threads_than_any_machine_gains_by_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "", "hello", "--threads", "100000"]) == 2
    shown = capsys.readouterr().err
    assert "error: threads=100000: not from 1 to 1024" in shown and "hint: leave it out" in shown
