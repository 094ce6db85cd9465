"""Checkpoints of a run: written whole or not at all, verified before they are trusted.

A folder step-00001200 holds model/ (a Hugging Face folder, float32), optimiser.safetensors,
trainer.json and, written last, manifest.json with the size and hash of every other file. A run on
several ranks has shards/ (safetensors, each rank its part) in place of the first two; any number
of ranks reads either.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from expertly.checkpoint import load, save, whole_folder
from expertly.errors import CheckpointError, OutputError
from expertly.families import read_config
from expertly.model import Decoder
from expertly.parallel import ALONE, Ranks, names_in, place, read_spread, write_spread
from expertly.train.files import digest, writing
from expertly.train.recipe import OptimiserRecipe
from expertly.train.spreading import OPTIMISER, add_moments, local_moments, parts
from expertly.train.state import (
    State,
    make_optimisers,
    optimiser_tensors,
    random_states,
    restore_optimisers,
    restore_random_states,
)

SHARDS, CONFIG = "shards", "config.json"
Parts = tuple[Decoder, tuple[torch.optim.Optimizer, ...]]

_NAME = re.compile(r"step-(\d{8,})")
_COUNTERS = (
    "step",
    "tokens",
    "skipped",
    "skipped_in_a_row",
    "seconds",
    "balance_weight",
    "dead_steps",
)


def write_checkpoint(
    folder: Path, state: State, about: dict[str, Any], ranks: Ranks = ALONE
) -> Path:
    """folder/step-N, durable when this returns; `about` goes into trainer.json as it is.

    Raises OutputError when it cannot be written; then nothing of it is left.
    """
    target = folder / f"step-{state.step:08d}"
    if target.exists() and ranks.is_first:  # left by a run that is repeated; it did not verify
        shutil.rmtree(target)
    try:
        shards = _write_shards(target, state, ranks) if ranks.count > 1 else None
        if not ranks.is_first:
            ranks.wait()
            return target
        with whole_folder(target) as partial:
            if shards is None:
                save(state.model, partial / "model")
                moments = {name: part.cpu() for name, part in optimiser_tensors(state).items()}
                save_file(moments, partial / "optimiser.safetensors")
            else:
                shards.rename(partial / SHARDS)
                config = json.dumps(dict(state.model.config.source))
                (partial / CONFIG).write_text(config, "utf-8")
            trainer = {**_counters(state), "random": random_states(ranks.device), **about}
            (partial / "trainer.json").write_text(json.dumps(trainer), "utf-8")
            (partial / "manifest.json").write_bytes(_manifest(partial, state.step))
    except OutputError as error:
        message = f"the checkpoint was not saved: {error.message}"
        raise OutputError(message, hint=_how_to_go_on(folder)) from error
    ranks.wait()
    return target


def _write_shards(target: Path, state: State, ranks: Ranks) -> Path:
    """What all ranks write together, beside where it will be."""
    folder = target.with_name(f".{target.name}.{SHARDS}")
    if ranks.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            folder.mkdir(parents=True)
    ranks.wait()
    write_spread(folder, parts(state, ranks), ranks)
    ranks.wait()
    return folder


def read_trainer(folder: Path) -> dict[str, Any]:
    """trainer.json of a verified checkpoint."""
    trainer: dict[str, Any] = json.loads((folder / "trainer.json").read_bytes())
    return trainer


def read_checkpoint(folder: Path, recipe: OptimiserRecipe, ranks: Ranks = ALONE) -> State:
    """The state in a verified checkpoint, or this rank's part of it; torch's, numpy's and Python's
    generators too."""
    trainer = read_trainer(folder)
    counters = {key: trainer[key] for key in _COUNTERS}
    read = _from_shards if (folder / SHARDS).is_dir() else _from_files
    model, optimisers = read(folder, recipe, ranks)
    restore_random_states(trainer["random"], ranks.device)
    return State(model=model, optimisers=optimisers, **counters)


def _from_files(folder: Path, recipe: OptimiserRecipe, ranks: Ranks) -> Parts:
    model = load(folder / "model", "float32").train()
    place(model, ranks)
    optimisers = make_optimisers(model, recipe)
    moments = load_file(folder / "optimiser.safetensors")
    restore_optimisers(optimisers, model, local_moments(moments, model, ranks))
    return model, optimisers


def _from_shards(folder: Path, recipe: OptimiserRecipe, ranks: Ranks) -> Parts:
    config = read_config(json.loads((folder / CONFIG).read_bytes()))
    model = Decoder(config, dtype=torch.float32).train()
    place(model, ranks)
    state = State(model=model, optimisers=make_optimisers(model, recipe))
    names = names_in(folder / SHARDS)
    add_moments(state, [n.removeprefix(OPTIMISER) for n in names if n.startswith(OPTIMISER)])
    read_spread(folder / SHARDS, parts(state, ranks), ranks)
    return model, state.optimisers


def newest_verified(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose every byte is as written, and why newer ones are not."""
    skipped = []
    for path in reversed(listed(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            skipped.append(error.message)
            continue
        return path, skipped
    return None, skipped


def verify(folder: Path) -> None:
    """Raises CheckpointError naming the first file that is missing, cut short or changed."""
    hint = "an older checkpoint of the run can be used instead"
    try:
        lines = (folder / "manifest.json").read_bytes().split(b"\n")
    except OSError:
        raise CheckpointError(f"{folder} has no manifest: it is unfinished", hint=hint) from None
    if len(lines) != 3 or lines[2] or lines[1] != _seal(lines[0]):
        raise CheckpointError(f"{folder / 'manifest.json'} is damaged", hint=hint)
    manifest = json.loads(lines[0])
    if folder.name != f"step-{manifest['step']:08d}":
        raise CheckpointError(f"{folder} holds step {manifest['step']}", hint=hint)
    for name, (size, expected) in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing", hint=hint)
        if path.stat().st_size != size or digest(path) != expected:
            raise CheckpointError(f"{path} is not as it was written", hint=hint)


def retain(folder: Path, keep: int, trusted: Path) -> None:
    """Removes all but the newest `keep` checkpoints. `trusted`, which has just been written or
    verified, stays whatever `keep` says, and it is what newer ones are measured by: those that
    do not verify count for nothing."""
    others = [path for path in reversed(listed(folder)) if path != trusted]
    newer = [path for path in others if path.name > trusted.name]
    older = [path for path in others if path.name < trusted.name]
    for path in [path for path in newer if not _verifies(path)] + older[max(0, keep - 1) :]:
        _remove(path)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what runs that were killed while they wrote or removed left behind."""
    left = sorted(folder.glob(".step-*")) + sorted(folder.parent.glob(".*final.*"))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return left


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, verified or not, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _remove(path: Path) -> None:
    # renamed first: half a removed folder must not look like a checkpoint
    doomed = path.with_name(f".{path.name}.removed")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _verifies(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def _counters(state: State) -> dict[str, Any]:
    return {key: getattr(state, key) for key in _COUNTERS}


def _manifest(folder: Path, step: int) -> bytes:
    """One line of JSON and the line's own hash: a change in either is seen."""
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, digest(path)]
        for path in _files(folder)
    }
    line = json.dumps({"step": step, "files": files}, sort_keys=True).encode()
    return line + b"\n" + _seal(line) + b"\n"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _seal(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=32).hexdigest().encode()


def _how_to_go_on(folder: Path) -> str:
    last: Sequence[Path] = listed(folder)
    kept = f"{last[-1].name} is kept; " if last else ""
    return f"{kept}free some space, then run again with --resume"
