"""A claim run whole, as small as can be: files in, a page and a plot out."""

import shutil
from pathlib import Path

import pytest

from evidence import __main__ as command
from evidence import claim as claims
from evidence.running import run
from expertly.train import train

TINY = """
"data.texts" = ["packaged:drama"]
"tokenizer.vocab_size" = 300
"data.sequence" = 16
"model.num_hidden_layers" = 1
"run.steps" = 3
"run.batch" = 2
"run.evaluate_every" = 1
"run.evaluation_bytes" = 200
"run.statistics_every" = 1
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The claim `mixture`, whose full size is a tiny one."""
    shutil.copytree(claims.ROOT / "mixture", tmp_path / "mixture")
    path = tmp_path / "mixture" / "claim.toml"
    path.write_text(path.read_text().split("[full]")[0] + "[full]" + TINY)
    for module in (claims, command):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def test_a_claim_makes_its_page_and_runs_nothing_twice(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claims.read_claim("mixture", root)
    outcomes = run(claim, tmp_path / "runs", is_full=True, note=lambda text: None)
    assert {arm: len(found) for arm, found in outcomes.items()} == {"dense": 3, "mixture": 3}
    assert all(len(found.bits) == 3 for arm in outcomes.values() for found in arm)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr("evidence.running.train", refuse)
    assert run(claim, tmp_path / "runs", is_full=True, note=lambda text: None) == outcomes


def test_the_command_writes_a_page_a_plot_a_result_and_the_table_of_all(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["evidence", "mixture", "--full", "--runs", str(tmp_path / "r")]
    )
    (root / "mixture" / "finding.md").write_text("What was found, by hand.\n")
    command.main()
    page = (root / "mixture" / "README.md").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == str(root / "mixture" / "README.md")
    assert "What was found, by hand." in page
    assert (root / "mixture" / "mixture.svg").read_text().lstrip().startswith("<?xml")
    table = (root / "README.md").read_text()
    assert table.count("mixture/README.md") == len(claims.read_claim("mixture", root).judged)


def test_a_claim_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evidence", "nothing"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no claim 'nothing'; there are" in capsys.readouterr().err


def test_a_run_that_was_stopped_is_gone_on_with(root: Path, tmp_path: Path) -> None:
    claim = claims.read_claim("mixture", root)
    whole = run(claim, tmp_path / "whole", is_full=True, note=lambda text: None)
    folder = next((tmp_path / "whole").glob("mixture-1-*"))
    train(claim.recipe_of("mixture", 1, is_full=True), tmp_path / "cut" / folder.name, stop_after=1)
    again = run(claim, tmp_path / "cut", is_full=True, note=lambda text: None)
    assert again["mixture"][0].bits == whole["mixture"][0].bits


def test_arms_begin_with_what_a_stage_ended_with(tmp_path: Path) -> None:
    small = "".join(
        f'"{key}" = {value}\n'
        for key, value in {
            "data.texts": '["packaged:drama"]',
            "data.sequence": 16,
            "run.steps": 20,
            "run.batch": 2,
            "run.evaluate_every": 10,
            "run.evaluation_bytes": 200,
        }.items()
    )
    shutil.copytree(claims.ROOT / "upcycling", tmp_path / "upcycling")
    path = tmp_path / "upcycling" / "claim.toml"
    text = path.read_text().split("[full]")[0].replace("seeds = [1, 2, 3]", "seeds = [4]")
    path.write_text(text + "[full]\n" + small)
    claim = claims.read_claim("upcycling", tmp_path)
    outcomes = run(claim, tmp_path / "runs", is_full=True, note=lambda text: None)
    assert {arm: len(found) for arm, found in outcomes.items()} == dict.fromkeys(claim.arms, 1)
    # a copy of its feed-forwards says what the dense model said, until it is trained on
    first = {arm: found[0].rows for arm, found in outcomes.items()}
    losses = {
        arm: next(r["loss"] for r in rows if r["kind"] == "step") for arm, rows in first.items()
    }
    assert losses["upcycled"] == pytest.approx(losses["continued"], abs=0.02)
    assert losses["scratch"] > losses["continued"] + 0.2
