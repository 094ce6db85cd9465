import os
from collections.abc import Callable
from pathlib import Path

import pytest

from expertly.cli.entry import main
from expertly.train import loop
from expertly.train.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "owl.toml"
    path.write_text(make_recipe().source)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


def test_training_prints_where_the_model_is(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{Path('runs') / 'owl' / 'final'}\n"
    assert Path(captured.out.strip(), "model.safetensors").is_file()
    assert "step 8/8" in captured.err
    assert "bits per byte" in captured.err


def test_steps_and_texts_can_be_given_on_the_command_line(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.txt").write_text("my own words, line by line\n" * 200)
    code = main(["train", str(recipe), "--steps", "3", "--text", "mine.txt", "--out", "out"])
    assert code == 0
    captured = capsys.readouterr()
    assert "step 3/3" in captured.err
    assert "tokens to train on: mine " in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.toml"], "error: cannot read the recipe gone.toml: No such file or directory"),
        (["../owl.toml", "--steps", "0"], "error: --steps is 0"),
        (["../owl.toml", "--text", "gone.txt"], "gone.txt: No such file or directory"),
        (["../owl.toml", "--out", "../here"], "error: ../here exists already"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_hint(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("file").write_text("mine")
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.splitlines()) == 2
    assert "hint: " in captured.err


def test_a_stopped_run_says_how_to_go_on_and_goes_on(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.take_step

    def interrupted(*arguments: object, **options: object) -> object:
        os.kill(os.getpid(), 15)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", interrupted)
        assert main(["train", str(recipe)]) == 128 + 15
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "stopped at step 1 of 8; go on with --resume" in captured.err
    assert main(["train", str(recipe), "--resume"]) == 0
    assert "resumed at step 1" in capsys.readouterr().err
