import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertly.checkpoint import load
from expertly.errors import CheckpointError, OutputError
from expertly.train import checkpoints
from expertly.train.begin import make_model
from expertly.train.recipe import Recipe
from expertly.train.state import State, fingerprint, make_optimisers, seed_all
from expertly.train.step import take_step
from expertly.train.texts import open_domains
from expertly.train.vocabulary import make_tokenizer

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe()


@pytest.fixture
def state(recipe: Recipe, tmp_path: Path) -> State:
    """After two steps, so that the optimiser has moments."""
    tokenizer = make_tokenizer(recipe, open_domains(("poem.txt",), (), 0.1, tmp_path), tmp_path)
    model = make_model(recipe, tokenizer)
    model.tokenizer = tokenizer
    state = State(model=model, optimisers=make_optimisers(model, recipe.optimiser))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        batches = list(torch.randint(280, (2, 2, 17), generator=generator))
        take_step(state, recipe, batches, torch.float32, read=False)
    return state


def fake(folder: Path, step: int) -> Path:
    """A checkpoint of that name which verifies; what is in it does not matter."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "data").write_bytes(bytes(50))
    (path / "manifest.json").write_bytes(checkpoints._manifest(path, step))
    return path


def test_what_is_read_back_is_what_was_written(
    state: State, recipe: Recipe, tmp_path: Path
) -> None:
    seed_all(77)
    random.random(), np.random.normal(), torch.rand(3)
    state.skipped, state.seconds = 3, 12.5
    before = fingerprint(state)
    path = checkpoints.write_checkpoint(tmp_path / "c", state, {"data": "abc"})
    expected = (random.random(), np.random.normal(), torch.rand(1).item())
    seed_all(1)
    again = checkpoints.read_checkpoint(path, recipe.optimiser)
    assert fingerprint(again) == before
    assert (again.step, again.tokens, again.skipped, again.seconds) == (2, 128, 3, 12.5)
    assert (random.random(), np.random.normal(), torch.rand(1).item()) == expected
    assert checkpoints.read_trainer(path)["data"] == "abc"


def test_a_checkpoints_model_can_be_loaded_and_run_by_itself(state: State, tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", state, {})
    model = load(path / "model")
    ids_BS = torch.tensor([[5, 7, 9]])
    with torch.inference_mode():
        assert torch.equal(model(ids_BS).logits, state.model(ids_BS).logits)
    assert model.tokenizer is not None
    assert model.tokenizer.decode(model.tokenizer.encode("owl")) == "owl"


def test_no_file_of_a_checkpoint_is_a_pickle(state: State, tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", state, {})
    kinds = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_the_fingerprint_changes_with_any_part_of_the_state(state: State) -> None:
    seen = {fingerprint(state)}
    assert fingerprint(state) in seen
    weight = next(state.model.parameters())
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0))
    seen.add(fingerprint(state))
    state.optimisers[0].state[weight]["exp_avg_sq"][0, 0] += 1
    seen.add(fingerprint(state))
    random.random()
    seen.add(fingerprint(state))
    torch.rand(1)
    seen.add(fingerprint(state))
    state.step += 1
    seen.add(fingerprint(state))
    assert len(seen) == 6


def test_every_flipped_bit_is_detected(state: State, tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", state, {})
    checkpoints.verify(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    rng = random.Random(0)
    for number in range(1000):
        file = files[number % len(files)]
        data = bytearray(file.read_bytes())
        bit = rng.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        good = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(CheckpointError):
            checkpoints.verify(path)
        file.write_bytes(good)
    checkpoints.verify(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "manifest.json").unlink(), "no manifest: it is unfinished"),
        (lambda p: (p / "manifest.json").write_bytes(b"{}"), "manifest.json is damaged"),
        (lambda p: (p / "data").unlink(), "data is missing"),
        (lambda p: (p / "data").write_bytes(bytes(49)), "data is not as it was written"),
        (lambda p: (p / "data").write_bytes(bytes(49) + b"x"), "data is not as it was written"),
    ],
)
def test_damage_is_named_and_an_older_checkpoint_is_used(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    old, new = fake(tmp_path, 10), fake(tmp_path, 20)
    assert checkpoints.newest_verified(tmp_path) == (new, [])
    damage(new)
    found, skipped = checkpoints.newest_verified(tmp_path)
    assert found == old
    assert len(skipped) == 1 and said in skipped[0] and "step-00000020" in skipped[0]


def test_a_checkpoint_under_another_steps_name_is_not_trusted(tmp_path: Path) -> None:
    fake(tmp_path, 10).rename(tmp_path / "step-00000099")
    found, skipped = checkpoints.newest_verified(tmp_path)
    assert found is None
    assert "holds step 10" in skipped[0]


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    fake(tmp_path, 99_999_999)
    late = fake(tmp_path, 100_000_000)
    assert checkpoints.newest_verified(tmp_path)[0] == late
    assert checkpoints.listed(tmp_path)[-1] == late


def test_no_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.newest_verified(tmp_path / "gone") == (None, [])


@settings(max_examples=40, deadline=None)
@given(
    keep=st.integers(1, 4),
    saves=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8),
)
def test_retention_never_leaves_fewer_than_one_verified(
    tmp_path_factory: pytest.TempPathFactory, keep: int, saves: list[tuple[bool, bool]]
) -> None:
    """Saves one after another; some rot later, and some runs resume from the newest good one."""
    folder = tmp_path_factory.mktemp("c")
    good: set[int] = set()
    step = 0
    for rots, resumes in saves:
        if resumes:
            found, _ = checkpoints.newest_verified(folder)
            step = int(found.name.removeprefix("step-")) if found else 0
        step += 10
        target = folder / f"step-{step:08d}"
        if target.exists():
            shutil.rmtree(target)
        saved = fake(folder, step)
        good.add(step)
        checkpoints.retain(folder, keep, saved)
        left = {int(path.name.removeprefix("step-")) for path in checkpoints.listed(folder)}
        assert step in left and len(left) <= keep
        newest_good = sorted((s for s in good if s <= step), reverse=True)
        assert newest_good[0] in left
        if rots and len(left & good) > 1:
            (saved / "data").write_bytes(b"rot")
            good.discard(step)
        assert checkpoints.newest_verified(folder)[0] is not None


@pytest.mark.parametrize("nth", range(12))
def test_a_full_disk_loses_nothing(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Every fsync, mkdir and rename of a save fails once."""
    folder = tmp_path / "c"
    good = checkpoints.write_checkpoint(folder, state, {})
    state.step += 1
    calls = 0
    real = {"fsync": os.fsync, "rename": Path.rename, "mkdir": Path.mkdir}

    def failing(name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", failing("fsync"))
    monkeypatch.setattr(Path, "rename", failing("rename"))
    monkeypatch.setattr(Path, "mkdir", failing("mkdir"))
    with pytest.raises(OutputError) as caught:
        checkpoints.write_checkpoint(folder, state, {})
    monkeypatch.undo()
    assert "the checkpoint was not saved" in caught.value.message
    assert "No space left on device" in caught.value.message
    assert "step-00000002 is kept" in caught.value.hint
    assert "--resume" in caught.value.hint
    checkpoints.verify(good)
    found, skipped = checkpoints.newest_verified(folder)
    # only the last fsync, that of the parent, comes after the rename: then both are whole
    assert skipped == []
    assert found == good or found == folder / "step-00000003"
    assert not list(folder.glob(".step-*"))


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    kept = fake(folder, 10)
    for name in (folder / ".step-00000020.abc", tmp_path / ".final.abc", tmp_path / "..final.a.b"):
        (name / "model").mkdir(parents=True)
    assert len(checkpoints.remove_leftovers(folder)) == 3
    assert checkpoints.listed(folder) == [kept]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints"]
