import gzip
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from balance_tables import balanced_by
from rich.console import Console

from expertly.checkpoint import load
from expertly.errors import ExpertlyError, InputError, OutputError, RecipeError
from expertly.train import begin, checkpoints, loop
from expertly.train.evaluate import bits_per_byte
from expertly.train.loop import Summary, train
from expertly.train.recipe import Recipe
from expertly.train.state import fingerprint
from expertly.train.texts import open_domains

MakeRecipe = Callable[..., Recipe]
LONG = ("steps = 8", "steps = 200")


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if (row := json.loads(line))["kind"] == kind]


def final_fingerprint(recipe: Recipe, folder: Path) -> str:
    found, skipped = checkpoints.newest_verified(folder / "checkpoints")
    assert found is not None and skipped == []
    return fingerprint(checkpoints.read_checkpoint(found, recipe.optimiser))


def test_a_run_ends_with_a_model_that_can_be_used(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe(("steps = 8", "steps = 60"), ("seed = 5", "seed = 5\nevaluate_every = 20"))
    summary = train(recipe, tmp_path / "run", console=quiet)
    assert summary.final == tmp_path / "run" / "final"
    assert (summary.step, summary.tokens, summary.skipped) == (60, 60 * 64, 0)
    model = load(summary.final)
    assert model.tokenizer is not None
    assert (summary.final / "recipe.toml").read_text() == recipe.source
    # it has learned: far below what gzip makes of the same text
    (domain,) = open_domains(("poem.txt",), (), 0.1, tmp_path)
    held_out = domain.held_out()
    measured = bits_per_byte(model, model.tokenizer, held_out, 16)
    assert measured == pytest.approx(summary.bits_per_byte["poem"], rel=1e-5)
    assert measured < 8 * len(gzip.compress(held_out.encode())) / len(held_out)
    evaluations = rows(tmp_path / "run", "evaluation")
    assert [row["step"] for row in evaluations] == [20, 40, 60]
    assert evaluations[-1]["bits_per_byte"] == summary.bits_per_byte
    losses = [row["loss"] for row in rows(tmp_path / "run", "step")]
    assert len(losses) == 60 and sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("rates", ["peak_lr = 0.01", "peak_lr = 0.01\nmatrix_lr = 0.02"])
def test_a_run_stopped_five_times_is_the_run_that_never_stopped(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, rates: str
) -> None:
    """200 steps with accumulation, over several epochs: hash of parameters, moments, generators,
    counters, and the losses on the way."""
    every = ("seed = 5", "seed = 5\nevaluate_every = 70")
    recipe = make_recipe(LONG, every, ("peak_lr = 0.01", rates))
    train(recipe, tmp_path / "whole", console=quiet)
    for k in [*sorted(random.Random(1).sample(range(1, 200), 5)), None]:
        resume = (tmp_path / "parts").exists()
        # what else uses the generators must not matter
        torch.rand(3), random.random()
        train(recipe, tmp_path / "parts", resume=resume, stop_after=k, console=quiet)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert final_fingerprint(recipe, parts) == final_fingerprint(recipe, whole)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (parts / "final" / name).read_bytes() == (whole / "final" / name).read_bytes()
    for kind in ("step", "router", "evaluation"):
        ours, theirs = rows(parts, kind), rows(whole, kind)
        for row in ours + theirs:
            row.pop("seconds", None)
        assert ours == theirs
    assert len(rows(whole, "step")) == 200


@pytest.mark.slow
@pytest.mark.parametrize("k", random.Random(2).sample(range(1, 200), 50))
def test_two_hundred_steps_are_k_and_the_rest(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, k: int
) -> None:
    recipe = make_recipe(LONG)
    train(recipe, tmp_path / "whole", console=quiet)
    train(recipe, tmp_path / "parts", stop_after=k, console=quiet)
    train(recipe, tmp_path / "parts", resume=True, console=quiet)
    assert final_fingerprint(recipe, tmp_path / "parts") == final_fingerprint(
        recipe, tmp_path / "whole"
    )


def test_checkpoints_come_at_their_interval_and_only_the_newest_stay(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe(("seed = 5", "seed = 5\ncheckpoint_every = 3\nkeep = 3"))
    train(recipe, tmp_path / "run", console=quiet)
    found = checkpoints.listed(tmp_path / "run" / "checkpoints")
    assert [path.name for path in found] == ["step-00000003", "step-00000006", "step-00000008"]


def test_router_readings_come_at_their_interval(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe(("seed = 5", "seed = 5\nstatistics_every = 4"))
    train(recipe, tmp_path / "run", console=quiet)
    found = [(row["step"], row["layer"]) for row in rows(tmp_path / "run", "router")]
    assert found == [(4, 0), (4, 1), (8, 0), (8, 1)]
    assert {"load_entropy", "max_violation", "token_entropy", "dead"} <= rows(
        tmp_path / "run", "router"
    )[0].keys()


def test_a_router_that_collapses_is_called_out(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Routers that send everything to experts 0 and 1 of 4: two of four are dead."""
    recipe = make_recipe(("seed = 5", "seed = 5\nstatistics_every = 1"), balanced_by(rule="none"))
    real = begin.initialise

    def collapsed(model: Any, seed: int, std: float) -> None:
        real(model, seed, std)
        for layer in model.layers:
            layer.feed_forward.router.w_ED.data.zero_()
            layer.feed_forward.router.w_ED.requires_grad_(False)

    monkeypatch.setattr(begin, "initialise", collapsed)
    out = io.StringIO()
    train(recipe, tmp_path / "run", console=Console(file=out, width=500))
    warned = [row for row in rows(tmp_path / "run", "warning") if row["step"] == 3]
    assert len(warned) == 2
    assert "the router of layer 0 is collapsing since step 1" in warned[0]["text"]
    assert "2 of 4 experts dead" in warned[0]["text"]
    assert f"WARNING: {warned[1]['text']}" in out.getvalue()


def test_an_existing_folder_is_left_alone(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="run exists already") as caught:
        train(recipe, tmp_path / "run", console=quiet)
    assert "--resume" in caught.value.hint
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_resuming_nothing_begins_and_resuming_the_finished_changes_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe()
    first = train(recipe, tmp_path / "run", resume=True, console=quiet)
    assert first.final is not None
    before = {path: path.read_bytes() for path in first.final.iterdir()}
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = train(recipe, tmp_path / "run", resume=True, console=quiet)
    assert again.final == first.final
    assert {path: path.read_bytes() for path in again.final.iterdir()} == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_more_steps_than_a_finished_run_had_make_a_final_model_of_their_own(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    first = train(make_recipe(), tmp_path / "run", console=quiet)
    assert first.final is not None
    before = (first.final / "model.safetensors").read_bytes()
    longer = make_recipe(("steps = 8", "steps = 10"))
    out = io.StringIO()
    again = train(longer, tmp_path / "run", resume=True, console=Console(file=out, width=500))
    assert again.step == 10 and again.final == first.final
    assert "final is of an earlier end" in out.getvalue()
    assert (tmp_path / "run" / "final-1" / "model.safetensors").read_bytes() == before
    assert (again.final / "model.safetensors").read_bytes() != before


def test_a_text_that_is_too_short_leaves_no_folder(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe()
    (tmp_path / "poem.txt").write_text("the owl")
    with pytest.raises(InputError, match="tokens to train on"):
        train(recipe, tmp_path / "run", console=quiet)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_skipped_and_said_so(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe(("seed = 5", "seed = 5\ncheckpoint_every = 3"))
    train(recipe, tmp_path / "run", stop_after=6, console=quiet)
    whole = train(recipe, tmp_path / "whole", console=quiet)
    newest = checkpoints.listed(tmp_path / "run" / "checkpoints")[-1]
    (newest / "optimiser.safetensors").write_bytes(b"rot")
    out = io.StringIO()
    again = train(recipe, tmp_path / "run", resume=True, console=Console(file=out, width=500))
    assert "skipped a checkpoint" in out.getvalue() and newest.name in out.getvalue()
    assert "resumed at step 3" in out.getvalue()
    assert again.step == whole.step == 8
    assert final_fingerprint(recipe, tmp_path / "run") == final_fingerprint(
        recipe, tmp_path / "whole"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("peak_lr = 0.01", "peak_lr = 0.02", "[optimiser] peak_lr was 0.01"),
        ("batch = 2", "batch = 4", "[run] batch was 2"),
        ("accumulation = 2", "accumulation = 1", "[run] accumulation was 2"),
        ("num_experts = 4", "num_experts = 8", "[model] num_experts was 4"),
        ("sequence = 16", "sequence = 8", "[data] sequence was 16"),
        ("held_out = 0.1", "held_out = 0.1\nweights = [2]", "[data] weights was []"),
        ('"float32"', '"bfloat16"', "the dtype changed since this run began: float32 became"),
    ],
)
def test_another_recipe_is_not_a_resumption(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, old: str, new: str, said: str
) -> None:
    train(make_recipe(), tmp_path / "run", stop_after=1, console=quiet)
    with pytest.raises(RecipeError) as caught:
        train(make_recipe((old, new)), tmp_path / "run", resume=True, console=quiet)
    assert said in caught.value.message


def test_other_texts_are_not_a_resumption(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path / "run", stop_after=1, console=quiet)
    with (tmp_path / "poem.txt").open("a") as file:
        file.write("one line more\n")
    with pytest.raises(RecipeError, match="the texts or the tokenizer changed"):
        train(recipe, tmp_path / "run", resume=True, console=quiet)


def test_more_steps_go_on_from_where_the_run_ended(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path / "run", stop_after=4, console=quiet)
    longer = replace(recipe, run=replace(recipe.run, steps=12, checkpoint_every=5))
    out = io.StringIO()
    summary = train(longer, tmp_path / "run", resume=True, console=Console(file=out, width=500))
    assert summary.step == 12
    assert "12 steps instead of 8" in out.getvalue()


def test_twenty_skipped_steps_in_a_row_end_the_run_with_a_good_checkpoint(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(
        ("steps = 8", "steps = 100"), ("seed = 5", "seed = 5\ncheckpoint_every = 5")
    )
    real, calls = loop.take_step, 0

    def broken(state: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        hook = None
        if calls == 3 or calls > 12:
            hook = state.model.embed_VD.register_hook(lambda grad: grad * float("nan"))
        report = real(state, *arguments, **options)
        if hook is not None:
            hook.remove()
        return report

    monkeypatch.setattr(loop, "take_step", broken)
    with pytest.raises(RecipeError, match="20 steps in a row up to step 32") as caught:
        train(recipe, tmp_path / "run", console=quiet)
    assert "step-00000010 is good" in caught.value.hint
    found, _ = checkpoints.newest_verified(tmp_path / "run" / "checkpoints")
    assert found is not None and found.name == "step-00000010"
    state = checkpoints.read_checkpoint(found, recipe.optimiser)
    assert (state.skipped, state.skipped_in_a_row) == (1, 0)
    assert all(torch.isfinite(parameter).all() for parameter in state.model.parameters())
    skipped = [row["step"] for row in rows(tmp_path / "run", "step") if row["is_skipped"]]
    assert skipped == [3, *range(13, 33)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    recipe = make_recipe()
    real = loop.take_step

    def interrupted(state: Any, *arguments: Any, **options: Any) -> Any:
        if state.step == 2:
            os.kill(os.getpid(), number)
        return real(state, *arguments, **options)

    before = signal.getsignal(number)
    monkeypatch.setattr(loop, "take_step", interrupted)
    summary = train(recipe, tmp_path / "run", console=quiet)
    monkeypatch.undo()
    assert signal.getsignal(number) == before
    assert (summary.step, summary.final, summary.stopped_by) == (3, None, number)
    found, _ = checkpoints.newest_verified(tmp_path / "run" / "checkpoints")
    assert found is not None and found.name == "step-00000003"
    assert train(recipe, tmp_path / "run", resume=True, console=quiet).step == 8


def test_a_second_interrupt_ends_the_run_at_once(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "take_step", stuck)
    with pytest.raises(KeyboardInterrupt):
        train(make_recipe(), tmp_path / "run", console=quiet)
    monkeypatch.undo()
    assert train(make_recipe(), tmp_path / "run", resume=True, console=quiet).step == 8


def test_two_runs_in_one_folder_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    with (
        begin.run_folder(tmp_path / "run", resume=True),
        pytest.raises(OutputError, match="another run is at work"),
    ):
        train(make_recipe(), tmp_path / "run", resume=True, console=quiet)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (("poem.txt", "gone.txt"), InputError, "cannot read the text"),
        (("sequence = 16", "sequence = 65"), RecipeError, "sequence is 65, the model's context 64"),
        (("hidden_size = 16", "hidden_size = 16\nvocab_size = 100"), RecipeError, "is 100"),
        (("hidden_size = 16", "hidden_size = 16\nhiden_size = 3"), ExpertlyError, "hiden_size"),
        (("sequence = 16", "sequence = 16000"), ExpertlyError, "16000"),
        (("batch = 2", "batch = 100000000000"), RecipeError, "100,000,000,000 sequences"),
    ],
)
def test_what_cannot_be_trained_is_named_before_the_first_step(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    quiet: Console,
    change: tuple[str, str],
    kind: type[ExpertlyError],
    said: str,
) -> None:
    with pytest.raises(kind) as caught:
        train(make_recipe(change), tmp_path / "run", console=quiet)
    assert said in caught.value.message
    assert not checkpoints.listed(tmp_path / "run" / "checkpoints")


def test_a_batch_is_held_against_this_memory_only_where_it_is_computed_in_it(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(("batch = 2", "batch = 100000000000"))
    config = SimpleNamespace(hidden_size=16, layers=(None,))
    with pytest.raises(RecipeError, match="memory holds"):
        begin._check_batch(config, recipe)
    monkeypatch.setattr(begin, "resolve_device", lambda name: torch.device("cuda"))
    begin._check_batch(config, recipe)


def test_a_run_that_could_not_begin_leaves_no_folder(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(InputError):
        train(make_recipe(("poem.txt", "gone.txt")), tmp_path / "run", console=quiet)
    assert train(make_recipe(), tmp_path / "run", console=quiet).step == 8


def test_a_full_disk_at_the_first_save_shows_before_the_first_step(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(make_recipe(), tmp_path / "run", console=quiet)
    assert not (tmp_path / "run").exists()


def test_a_run_may_go_on_on_another_device_and_says_so(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    told = Console(file=out, width=500)
    train(make_recipe(), tmp_path / "run", stop_after=2, console=told)
    train(make_recipe(), tmp_path / "run", resume=True, stop_after=3, console=told)
    assert "instead of" not in out.getvalue()
    # as if it were: a recipe that names another device is the same run
    monkeypatch.setattr(begin, "describe_device", lambda _: "NVIDIA H100")
    recipe = make_recipe(('device = "cpu"', 'device = "auto"'))
    train(recipe, tmp_path / "run", resume=True, stop_after=4, console=told)
    assert "NVIDIA H100 instead of cpu: sums may round differently" in out.getvalue()
    assert "float32 on NVIDIA H100; tokens to train on" in out.getvalue()
    trainer = checkpoints.read_trainer(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert trainer["device"] == "NVIDIA H100"


def test_a_checkpoint_from_before_devices_was_made_on_a_processor() -> None:
    said: list[str] = []
    now = {"device": "cpu", "threads": 1}
    begin._note_other_rounding({"threads": 1}, now, said.append)
    assert said == []
    begin._note_other_rounding({"threads": 2}, now, said.append)
    assert said == ["1 threads instead of 2: sums may round differently from here on"]


def test_a_recipe_that_asks_for_a_gpu_where_there_is_none_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="device is 'cuda', and torch finds no GPU here"):
        train(make_recipe(('"cpu"', '"cuda"')), tmp_path / "run", console=quiet)
    assert not (tmp_path / "run").exists()


def test_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in [
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert begin.resolve_dtype("auto", torch.device("cpu")) == expected
    assert begin.resolve_dtype("float32", torch.device("cpu")) == torch.float32
    assert begin.resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_the_final_model_can_be_bfloat16(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe(("seed = 5", 'seed = 5\nfinal_dtype = "bfloat16"'))
    summary: Summary = train(recipe, tmp_path / "run", console=quiet)
    assert summary.final is not None
    config = json.loads((summary.final / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    found, _ = checkpoints.newest_verified(tmp_path / "run" / "checkpoints")
    assert found is not None
    trained = checkpoints.read_checkpoint(found, recipe.optimiser).model
    for ours, theirs in zip(load(summary.final).parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16().float())
    shutil.rmtree(summary.final)
    assert train(recipe, tmp_path / "run", resume=True, console=quiet).final == summary.final
