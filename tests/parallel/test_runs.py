"""A run on several processes is the run on one: losses, routers' readings, models, checkpoints."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import expertly
from tests.parallel.launching import command_of, environment, losses, recipe_of, rows, train

TOLERANCE = 1e-5


def finished(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def alike(one: Path, other: Path) -> None:
    first, second = losses(one), losses(other)
    assert len(first) == len(second) and first[-1] < first[0] - 0.2
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= TOLERANCE


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    finished(train(recipe_of(folder), folder / "run", 1))
    return folder / "run"


@pytest.mark.parametrize(
    ("experts", "data", "shard"), [(2, 1, False), (1, 2, True)], ids=["experts", "shards"]
)
def test_two_ranks_reproduce_one_process(experts, data, shard, single, tmp_path) -> None:
    done = train(recipe_of(tmp_path, experts, data, shard=shard), tmp_path / "run", 2)
    finished(done)
    assert done.stdout.split() == [str(tmp_path / "run" / "final")]
    alike(single, tmp_path / "run")
    ours, theirs = rows(tmp_path / "run", "router"), rows(single, "router")
    assert [row["max_violation"] for row in ours] == [row["max_violation"] for row in theirs]
    assert [row["dead"] for row in ours] == [row["dead"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row["router_gradient"] == pytest.approx(other["router_gradient"], rel=1e-4)
    whole = load_file(tmp_path / "run" / "final" / "model.safetensors")
    for name, tensor in load_file(single / "final" / "model.safetensors").items():
        assert (whole[name] - tensor).abs().max() <= 1e-4, name
    expertly.load(tmp_path / "run" / "final")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experts", "data", "shard"),
    [
        (2, 1, False),
        (1, 2, False),
        (1, 2, True),
        (4, 1, False),
        (1, 4, True),
        (2, 2, False),
        (2, 2, True),
    ],
)
@pytest.mark.parametrize("balance", ['rule = "switch"', 'rule = "global"'])
def test_fifty_steps_on_two_and_four_ranks(experts, data, shard, balance, tmp_path) -> None:
    finished(train(recipe_of(tmp_path, steps=50, balance=balance), tmp_path / "one", 1))
    recipe = recipe_of(tmp_path, experts, data, shard=shard, steps=50, balance=balance)
    finished(train(recipe, tmp_path / "many", experts * data))
    alike(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
@pytest.mark.parametrize(("experts", "data"), [(2, 1), (2, 2)])
def test_muon_moves_whole_matrices_whatever_the_shards(experts, data, tmp_path) -> None:
    plain = recipe_of(tmp_path, optimiser="matrix_lr = 0.002")
    finished(train(plain, tmp_path / "one", 1))
    recipe = recipe_of(tmp_path, experts, data, shard=data > 1, optimiser="matrix_lr = 0.002")
    finished(train(recipe, tmp_path / "many", experts * data))
    first, second = losses(tmp_path / "one"), losses(tmp_path / "many")
    # Muon makes every direction as long as the longest, those of rounding too
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= 1e-3


@pytest.mark.slow
def test_checkpoints_move_between_one_two_and_four_ranks(tmp_path) -> None:
    finished(train(recipe_of(tmp_path, steps=24, every=6), tmp_path / "one", 1))
    ways = [(1, 1, False), (2, 1, False), (2, 2, True), (1, 2, True), (1, 1, False)]
    for part, (experts, data, shard) in enumerate(ways):
        recipe = recipe_of(tmp_path, experts, data, shard=shard, steps=24, every=6)
        stopped = _stop_after(recipe, tmp_path / "moved", experts * data, 4 * part + 3, part > 0)
        assert part == 4 or stopped, "it was over before it was stopped"
    finished(train(recipe_of(tmp_path, steps=24), tmp_path / "moved", 1, "--resume"))
    alike(tmp_path / "one", tmp_path / "moved")


def _stop_after(recipe: Path, out: Path, count: int, step: int, is_resumed: bool) -> bool:
    """Interrupts a run once it has done so many steps; whether it was still at work."""
    more = ["--resume"] if is_resumed else []
    process = subprocess.Popen(
        command_of(count, str(recipe), "--out", str(out), *more),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _await_step(out, step, process)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    return process.returncode != 0


def _await_step(out: Path, step: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            if losses(out)[step - 1 :]:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.02)


def _children(process: subprocess.Popen) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in found.stdout.split()]


def test_when_a_rank_is_killed_the_others_end_with_one_line_and_the_run_can_go_on(tmp_path) -> None:
    recipe = recipe_of(tmp_path, 2, 1, steps=4000, every=5)
    process = subprocess.Popen(
        command_of(2, str(recipe), "--out", str(tmp_path / "run")),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _await_step(tmp_path / "run", 8, process)
    os.kill(_children(process)[1], signal.SIGKILL)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began <= 30
    assert process.returncode != 0
    assert said.count("ends: another one is gone or silent") == 1
    assert "hint: see what that one said" in said
    assert not list((tmp_path / "run" / "checkpoints").glob(".step*"))
    done = len(losses(tmp_path / "run"))
    again = recipe_of(tmp_path, 1, 1, steps=4000, every=5)
    assert _stop_after(again, tmp_path / "run", 1, done + 3, True)
