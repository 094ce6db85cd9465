"""What `expertly bench` does for models larger than memory: shapes of random weights, routing that
is put in place of theirs, experts on the disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from expertly.cli.bar import bar
from expertly.cli.output import note
from expertly.errors import InputError

if TYPE_CHECKING:
    from expertly.bench.limits import Probe
    from expertly.bench.modelled import Habits
    from expertly.bench.stored import StoredBench
    from expertly.model import NativeDecoder

# characters of text that a model with a tokenizer reads
_CHARACTERS = 200_000
_RANDOM_IDS = 1 << 15


def made(system: str, bits: int, folder: Path, threads: int) -> Path:
    """The folder of random weights, written unless it is there. Raises InputError, OutputError."""
    from expertly.checkpoint.recipe import recipe_of_bits
    from expertly.checkpoint.synthetic import is_there, save_synthetic, synthetic
    from expertly.families import read_config
    from expertly.planner import known

    name = known.name_of(system)
    planned = synthetic(read_config(known.config(name)), recipe_of_bits(bits), threads=threads)
    if is_there(planned, folder):
        note(f"{folder} holds {name} with random weights already")
        return folder
    note(f"{folder}: {name} with random weights takes {planned.num_bytes:,} bytes")
    with bar("writing") as progress:
        save_synthetic(planned, folder, progress=progress)
    return folder


def reroute(model: "NativeDecoder", text: str) -> None:
    """Put choices that `--routing` describes in place of the model's own. Raises InputError."""
    from expertly.bench.modelled import MEASURED, drawn, habits_of, recorded
    from expertly.checkpoint.streamed_loading import num_chosen, num_experts
    from expertly.store.trace import read_choices

    counts = num_experts(model.config), num_chosen(model.config)
    kind, _, value = text.partition(":")
    if text == "own":
        return
    if not any(counts[0]):
        raise InputError(
            f"--routing {text} for a model without experts", hint="leave out --routing"
        )
    if kind == "modelled":
        habits = _habits(value) if value else MEASURED
    elif kind == "like" and value:
        habits = habits_of(read_choices(Path(value)))
    else:
        model.rechoose = recorded(read_choices(Path(text)), *counts)
        return
    note(f"routing: drawn with skew {habits.skew:.2f} and stay {habits.stay:.2f}")
    model.rechoose = drawn(habits, *counts)


def _habits(text: str) -> "Habits":
    from expertly.bench.modelled import Habits

    try:
        skew, stay = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{text!r} is no skew and stay", hint="as --routing modelled:0.8,0.3"
        ) from None
    return Habits(skew=skew, stay=stay)


def stored_bench(model: "NativeDecoder", probe: "Probe", pairs: int) -> "StoredBench | None":
    """None if all experts are in memory."""
    from expertly.bench.stored import StoredBench
    from expertly.store import Streamed
    from expertly.store.probe import DiskProbe

    if not isinstance(model.store, Streamed):
        return None
    disk = DiskProbe(model.store.source.disk.sizes, model.expert_bytes[0])
    return StoredBench(model, model.store, probe, disk, _ids(model), pairs)


def _ids(model: "NativeDecoder") -> list[int]:
    """A text's, as routing goes by them; random ones for a model that has no tokenizer."""
    from expertly.bench.work import random_ids
    from expertly.text import corpora

    if model.tokenizer is None:
        return [*random_ids(model.config.vocab_size, _RANDOM_IDS, 0)]
    share = _CHARACTERS // len(corpora.domains())
    texts = [corpora.held_out_text(domain)[:share] for domain in corpora.domains()]
    return model.tokenizer.encode("\n\n".join(texts))
