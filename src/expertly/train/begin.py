"""What a run needs before its first step: its folder, texts, tokenizer and state."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch

from expertly.checkpoint import load
from expertly.config import ModelConfig
from expertly.errors import OutputError, RecipeError
from expertly.families import read_config
from expertly.machine import total_memory_bytes
from expertly.model import Decoder, initialise
from expertly.parallel import ALONE, Ranks, describe_device, has_bfloat16, place, resolve_device
from expertly.text import Tokenizer
from expertly.train import checkpoints
from expertly.train.balancing import check_balance
from expertly.train.fetching import fetch
from expertly.train.files import write_whole, writing
from expertly.train.pack import Packed, pack
from expertly.train.recipe import Recipe
from expertly.train.state import State, make_optimisers, seed_all
from expertly.train.texts import Domain, open_domains
from expertly.train.vocabulary import make_tokenizer

# what may change between a run and its resumption without making it another run
_FREE = (
    "steps",
    "tokens",
    "evaluate_every",
    "evaluation_bytes",
    "checkpoint_every",
    "keep",
    "statistics_every",
    "final_dtype",
    "dtype",
    "device",
    "tensorboard",
)


@dataclass(frozen=True, kw_only=True)
class Begun:
    state: State
    tokenizer: Tokenizer
    packed: Packed
    held_out: dict[str, str]  # by domain, where there is any
    dtype: torch.dtype
    saved: Path | None  # the checkpoint that the state came from
    about: dict[str, Any]  # what a checkpoint says of the run beside its state


@contextmanager
def run_folder(folder: Path, *, resume: bool) -> Iterator[None]:
    """Makes the run's folder and keeps it for this process alone; a run that fails before its
    first checkpoint leaves none behind.

    Raises OutputError if it has something in it and nobody asked to resume, or if another run is
    at work in it.
    """
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not (is_new or resume):
        raise OutputError(
            f"{folder} exists already",
            hint="continue that run with --resume, or choose another --out",
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        _take(lock, folder)
        checkpoints.remove_leftovers(folder / "checkpoints")
        try:
            yield
        except Exception:
            if is_new and not checkpoints.listed(folder / "checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _take(lock: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"another run is at work in {folder}",
            hint="wait for it, stop it, or choose another --out",
        ) from None


def begin(recipe: Recipe, folder: Path, note: Callable[[str], None], ranks: Ranks = ALONE) -> Begun:
    """The run's newest verified checkpoint, or its first state where there is none; on several
    ranks each has its part."""
    dtype = resolve_dtype(recipe.run.dtype, ranks.device)
    data = recipe.data
    if ranks.is_first:
        fetch(data.texts, folder / "texts")
    ranks.wait()
    texts = fetch(data.texts, folder / "texts")
    domains = open_domains(texts, data.weights, data.held_out, recipe.folder)
    found, rejected = checkpoints.newest_verified(folder / "checkpoints")
    for reason in rejected:
        note(f"skipped a checkpoint: {reason}")
    with writing(folder):
        if ranks.is_first:
            tokenizer, packed = _files(recipe, domains, folder, is_new=found is None)
        ranks.wait()
        if not ranks.is_first:
            tokenizer, packed = _files(recipe, domains, folder, is_new=False)
    about = {
        "settings": _settings(recipe),
        "data": packed.fingerprint,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": describe_device(ranks.device),
    }
    if found is None:
        state = _first_state(recipe, tokenizer, ranks)
    else:
        state = _resumed(found, recipe, about, note, ranks)
    state.model.tokenizer = tokenizer
    held_out = {domain.name: text for domain in domains if (text := domain.held_out()).strip()}
    return Begun(
        state=state,
        tokenizer=tokenizer,
        packed=packed,
        held_out=held_out,
        dtype=dtype,
        about=about,
        saved=found,
    )


def _files(
    recipe: Recipe, domains: tuple[Domain, ...], folder: Path, *, is_new: bool
) -> tuple[Tokenizer, Packed]:
    tokenizer = _first_files(recipe, domains, folder) if is_new else Tokenizer.open(folder)
    end_id = min(tokenizer.eos_ids, default=None)
    return tokenizer, pack(domains, folder / "tokenizer.json", folder / "data", end_id)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """What the matrices are multiplied in; "auto" is bfloat16 where the device has it."""
    is_half = has_bfloat16(device) if name == "auto" else name == "bfloat16"
    return torch.bfloat16 if is_half else torch.float32


def make_model(recipe: Recipe, tokenizer: Tokenizer) -> Decoder:
    """The recipe's model with random weights, or those that it starts with; RecipeError if
    tokenizer or sequences do not fit."""
    if "start" in recipe.model:
        model = load(recipe.folder / str(recipe.model["start"]), "float32")
        assert isinstance(model, Decoder)
        _check_fit(model.config, recipe, tokenizer)
        return model.train()
    special = {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": min(tokenizer.eos_ids, default=None),
    }
    config = read_config({**special, **recipe.model})
    _check_fit(config, recipe, tokenizer)
    model = Decoder(config, dtype=torch.float32)
    initialise(model, recipe.run.seed, std=float(recipe.model.get("initializer_range", 0.02)))
    return model.train()


def _check_fit(config: ModelConfig, recipe: Recipe, tokenizer: Tokenizer) -> None:
    if config.vocab_size < tokenizer.vocab_size:
        raise RecipeError(
            f"[model] vocab_size is {config.vocab_size}, the tokenizer has {tokenizer.vocab_size}",
            hint="leave vocab_size out of [model]",
        )
    if config.max_context < recipe.data.sequence:
        raise RecipeError(
            f"[data] sequence is {recipe.data.sequence}, the model's context {config.max_context}",
            hint="shorten it or raise [model] max_position_embeddings",
        )
    _check_batch(config, recipe)


def _check_batch(config: ModelConfig, recipe: Recipe) -> None:
    """Refuses what no memory here could hold: for the way back each layer keeps at least its input,
    two bytes a number. A GPU says so itself."""
    if resolve_device(recipe.run.device).type != "cpu":
        return
    a_sequence = 2 * recipe.data.sequence * config.hidden_size * len(config.layers)
    most = total_memory_bytes() // a_sequence * recipe.ranks.count
    if recipe.run.batch > most:
        raise RecipeError(
            f"[run] batch is {recipe.run.batch:,} sequences, and memory holds {most:,} at most",
            hint="take a smaller batch, and a larger accumulation for steps as large",
        )


def _first_files(recipe: Recipe, domains: tuple[Domain, ...], folder: Path) -> Tokenizer:
    write_whole(folder / "recipe.toml", recipe.source.encode())
    return make_tokenizer(recipe, domains, folder)


def _first_state(recipe: Recipe, tokenizer: Tokenizer, ranks: Ranks) -> State:
    seed_all(recipe.run.seed)
    # drawn by the processor, so that a seed means the same weights on every device
    model = make_model(recipe, tokenizer)
    check_balance(model.config, recipe.balance)
    place(model, ranks)
    return State(model=model, optimisers=make_optimisers(model, recipe.optimiser))


def _resumed(
    found: Path,
    recipe: Recipe,
    about: dict[str, Any],
    note: Callable[[str], None],
    ranks: Ranks,
) -> State:
    before = checkpoints.read_trainer(found)
    _refuse_another_run(before, about)
    _note_other_rounding(before, about, note)
    if before["settings"]["steps"] != recipe.steps:
        note(
            f"{recipe.steps} steps instead of {before['settings']['steps']}: the learning rate "
            "follows another curve from here on"
        )
    state = checkpoints.read_checkpoint(found, recipe.optimiser, ranks)
    note(f"resumed at step {state.step} from {found}")
    return state


def _note_other_rounding(
    before: dict[str, Any], now: dict[str, Any], note: Callable[[str], None]
) -> None:
    was, device = before.get("device", "cpu"), now["device"]
    if was != device:
        note(f"{device} instead of {was}: sums may round differently from here on")
    elif before["threads"] != now["threads"]:
        note(
            f"{now['threads']} threads instead of {before['threads']}: sums may round "
            "differently from here on"
        )


def _refuse_another_run(before: dict[str, Any], now: dict[str, Any]) -> None:
    hint = "resume with the recipe, texts and dtype it began with, or begin anew in another --out"
    for part, values in now["settings"].items():
        was = before["settings"][part]
        if part == "steps" or values == was:
            continue
        keys = [key for key in values.keys() | was.keys() if values.get(key) != was.get(key)]
        key = min(keys)
        raise RecipeError(
            f"[{part}] {key} was {was.get(key)!r} in this run, now it is {values.get(key)!r}",
            hint=hint,
        )
    for part, name in (("data", "the texts or the tokenizer"), ("dtype", "the dtype")):
        if before[part] != now[part]:
            raise RecipeError(
                f"{name} changed since this run began: {before[part]} became {now[part]}", hint=hint
            )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What makes a run this run, as JSON gives it back."""
    run = {key: value for key, value in asdict(recipe.run).items() if key not in _FREE}
    data = asdict(replace(recipe.data, texts=("",) * len(recipe.data.texts)))
    settings = {
        "model": dict(recipe.model),
        "data": data,
        "optimiser": asdict(recipe.optimiser),
        "run": run,
        "balance": asdict(recipe.balance),
        "steps": recipe.steps,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain
