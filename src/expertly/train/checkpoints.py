"""Checkpoints of a run: written whole or not at all, verified before they are trusted.

A folder step-00001200 holds model/ (a Hugging Face folder, float32), optimiser.safetensors,
trainer.json and, written last, manifest.json with the size and hash of every other file.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from expertly.checkpoint import load, save, whole_folder
from expertly.errors import CheckpointError, OutputError
from expertly.train.files import digest
from expertly.train.recipe import OptimiserRecipe
from expertly.train.state import (
    State,
    make_optimisers,
    optimiser_tensors,
    random_states,
    restore_optimisers,
    restore_random_states,
)

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


def write_checkpoint(folder: Path, state: State, about: dict[str, Any]) -> Path:
    """folder/step-N, durable when this returns; `about` goes into trainer.json as it is.

    Raises OutputError when it cannot be written; then nothing of it is left.
    """
    target = folder / f"step-{state.step:08d}"
    if target.exists():  # left by a run that is being repeated, and it did not verify
        shutil.rmtree(target)
    try:
        with whole_folder(target) as partial:
            save(state.model, partial / "model")
            save_file(optimiser_tensors(state), partial / "optimiser.safetensors")
            trainer = {**_counters(state), "random": random_states(), **about}
            (partial / "trainer.json").write_text(json.dumps(trainer), "utf-8")
            (partial / "manifest.json").write_bytes(_manifest(partial, state.step))
    except OutputError as error:
        message = f"the checkpoint was not saved: {error.message}"
        raise OutputError(message, hint=_how_to_go_on(folder)) from error
    return target


def read_trainer(folder: Path) -> dict[str, Any]:
    """trainer.json of a verified checkpoint."""
    trainer: dict[str, Any] = json.loads((folder / "trainer.json").read_bytes())
    return trainer


def read_checkpoint(folder: Path, recipe: OptimiserRecipe) -> State:
    """The state in a verified checkpoint; torch's, numpy's and Python's generators too."""
    trainer = read_trainer(folder)
    model = load(folder / "model", "float32").train()
    optimisers = make_optimisers(model, recipe)
    restore_optimisers(optimisers, model, load_file(folder / "optimiser.safetensors"))
    restore_random_states(trainer["random"])
    return State(model=model, optimisers=optimisers, **{key: trainer[key] for key in _COUNTERS})


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
