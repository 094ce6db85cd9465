"""Whole runs on a device that is not the processor: pretended, as no GPU is needed for that. All of
a run is there, losses are those of the processor, and its experts are computed without a wait."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import router_rules
import tomli_w

from tests.train.conftest import TINY

ROOT = Path(__file__).parents[2]
BALANCES = {
    "emo": {"rule": "global", "sequence": 0.1, "revive_after": 1},
    "softmax": {"rule": "switch"},
    "deepseek_v3": {"rule": "bias"},
    "deepseek_v4": {"rule": "quantile"},
    "relu": {"rule": "relu"},
    "gemma4": {"rule": "importance"},
}
MUON = ["zeda", "soft"]
QUICK = ["softmax", "emo", "zeda"]  # between them most of what a run can do
# the answer's size is of the choice's own making: a slot is no row, or has no expert to compute it
WAITING = {"switch", "next", "expert_choice", "relu", "zeda", "longcat", "emo"}
BFLOAT16 = "in_bfloat16"


def _write_recipes(folder: Path, names: list[str]) -> None:
    lines = [f"{n} owls and {n * n} cats went to sea in a boat of {n % 7} oars" for n in range(150)]
    (folder / "poem.txt").write_text("\n".join(lines) + "\n")
    for name in names:
        said = tomllib.loads(TINY)
        rules = router_rules.spelled("softmax" if name == BFLOAT16 else name)
        said["model"] = {key: value for key, value in rules.items() if key != "vocab_size"}
        said["run"].update(steps=4, statistics_every=2)
        said["balance"] = BALANCES.get(name, {})
        if name in MUON:
            said["optimiser"]["matrix_lr"] = 0.01
        if name == BFLOAT16:
            said["run"]["dtype"] = "bfloat16"
        (folder / f"{name}.toml").write_text(tomli_w.dumps(said))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    return _run(tmp_path_factory.mktemp("pretended"), [*QUICK, BFLOAT16])


@pytest.fixture(scope="module")
def found_of_all(tmp_path_factory) -> dict:
    return _run(tmp_path_factory.mktemp("pretended"), router_rules.NAMES)


def _run(folder: Path, names: list[str]) -> dict:
    _write_recipes(folder, names)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "train" / "pretend_runs.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def runs_of(found: dict, name: str) -> dict:
    assert "error" not in found["runs"][name], found["runs"][name]["error"]
    return found["runs"][name]


def hold(runs: dict) -> None:
    assert len(set(runs["cpu"]["losses"])) == 4
    for other in ("gpu", "moved"):
        for measure in ("losses", "norms", "entropies", "bits"):
            assert runs[other][measure] == pytest.approx(runs["cpu"][measure], abs=2e-5), measure
    # all that a resumed run holds: weights, buffers, moments
    assert runs["gpu"]["places"] == ["pretend"]
    # begun there, resumed here
    assert runs["moved"]["places"] == runs["cpu"]["places"] == ["cpu"]


@pytest.mark.parametrize("name", QUICK)
def test_a_run_on_another_device_is_the_run_on_the_processor(found, name) -> None:
    hold(runs_of(found, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", router_rules.NAMES)
def test_a_run_with_any_rule_is_the_run_on_the_processor(found_of_all, name) -> None:
    hold(runs_of(found_of_all, name))


def test_the_same_run_in_bfloat16_is_near(found) -> None:
    runs = runs_of(found, BFLOAT16)
    assert runs["gpu"]["losses"] == pytest.approx(runs["cpu"]["losses"], rel=0.01)
    assert runs["gpu"]["losses"] != runs["cpu"]["losses"]


@pytest.mark.parametrize("name", sorted({*router_rules.NAMES} - WAITING - {"soft"}))
def test_a_mixture_layer_and_its_losses_never_wait_for_the_device(found, name) -> None:
    waits = found["waits"][name]
    assert waits["layer"] == waits["losses"] == {}
    # the smallest and the largest id are looked at, for the whole model
    assert waits["model"] == {"aten::_local_scalar_dense": 2}


@pytest.mark.parametrize("name", sorted(WAITING))
def test_the_layers_that_wait_are_seen_to_wait(found, name) -> None:
    assert found["waits"][name]["layer"]


def test_the_pretended_device_refuses_to_mix_with_the_processor(found) -> None:
    assert found["refusal"] == "aten.add.Tensor of tensors on two devices"
