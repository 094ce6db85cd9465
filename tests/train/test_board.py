"""A run's metrics as TensorBoard reads them: every number once, of resumed runs too."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from expertly.errors import RecipeError
from expertly.train.board import Board, scalars
from expertly.train.loop import train

WITH_BOARD = ("seed = 5", "seed = 5\ntensorboard = true\nstatistics_every = 4\nevaluate_every = 4")


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_a_run_shows_its_loss_its_texts_and_its_routers(make_recipe, tmp_path, quiet) -> None:
    train(make_recipe(WITH_BOARD), tmp_path / "run", console=quiet)
    shown = read(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in shown["step/loss"]] == list(range(1, 9))
    assert [step for step, _ in shown["evaluation/bits_per_byte/poem"]] == [4, 8]
    assert [step for step, _ in shown["router/layer 1/max_violation"]] == [4, 8]
    assert all(0 <= dead <= 4 for _, dead in shown["router/layer 0/dead experts"])


def test_a_resumed_run_shows_no_step_twice(make_recipe, tmp_path, quiet) -> None:
    recipe = make_recipe(WITH_BOARD, ("steps = 8", "steps = 8\ncheckpoint_every = 2"))
    train(recipe, tmp_path / "run", console=quiet, stop_after=5)
    train(recipe, tmp_path / "run", console=quiet, resume=True)
    shown = read(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in shown["step/loss"]] == list(range(1, 9))


def test_rows_of_a_step_that_comes_again_are_dropped(tmp_path) -> None:
    for first, loss in ((0, 9.0), (3, 1.0)):
        board = Board(tmp_path, first)
        for step in range(first + 1, 6):
            board.write("step", step, {"loss": loss})
        board.close()
    assert read(tmp_path)["step/loss"] == [(1, 9.0), (2, 9.0), (3, 9.0), (4, 1.0), (5, 1.0)]


def test_each_number_has_a_name_and_texts_and_lists_have_none() -> None:
    row = {"layer": 3, "num_experts": 8, "dead": (1, 2), "busiest": (0,), "load_entropy": 0.5}
    assert dict(scalars("router", row)) == {
        "router/layer 3/dead experts": 2.0,
        "router/layer 3/load_entropy": 0.5,
    }
    found = dict(scalars("evaluation", {"bits_per_byte": {"a": 1.5}, "context": 16, "text": "x"}))
    assert found == {"evaluation/bits_per_byte/a": 1.5, "evaluation/context": 16.0}


def test_without_tensorboard_the_run_says_so_and_leaves_nothing(
    make_recipe, tmp_path, quiet, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RecipeError, match="tensorboard is not installed"):
        train(make_recipe(WITH_BOARD), tmp_path / "run", console=quiet)
    assert not (tmp_path / "run").exists()
