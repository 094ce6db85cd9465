"""A run from its recipe to its final model."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from expertly.checkpoint import save, whole_folder
from expertly.errors import RecipeError
from expertly.machine import keep_freed_memory
from expertly.parallel import Ranks, joined, resolve_device
from expertly.train import checkpoints, watch
from expertly.train.begin import Begun, begin, run_folder
from expertly.train.board import Board
from expertly.train.evaluate import score
from expertly.train.files import writing
from expertly.train.metrics import Metrics
from expertly.train.progress import Display
from expertly.train.recipe import Recipe
from expertly.train.sampler import Sampler
from expertly.train.spreading import whole_model
from expertly.train.step import Report, take_step
from expertly.train.stopping import Stop, stopping

MAX_SKIPPED = 20


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`final` is the finished model's folder, None if the run stopped before its end;
    `bits_per_byte` by domain is that of the last evaluation, on held-out text."""

    folder: Path
    final: Path | None
    step: int
    tokens: int
    seconds: float
    skipped: int
    stopped_by: int | None = None  # the signal's number
    is_first: bool = True  # whether this process speaks for the run
    bits_per_byte: dict[str, float] = field(default_factory=dict)


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    begun: Begun
    metrics: Metrics
    display: Display
    saved: Path | None
    ranks: Ranks
    history: list[watch.Reading] = field(default_factory=list)
    bits_per_byte: dict[str, float] = field(default_factory=dict)


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    console: Console | None = None,
) -> Summary:
    """Trains `recipe` in `folder`: checkpoints/, metrics.jsonl, and final/ in the end.

    With `resume` it goes on from the newest checkpoint that verifies, and gives bit for bit what
    the run would have given that never stopped (on as many threads; on a GPU up to rounding).
    `stop_after` saves and returns after so many steps in all. SIGINT and SIGTERM finish the step,
    save and return.

    On several ranks (`[ranks]` in the recipe, processes begun by torchrun) the first writes and
    speaks for all.

    Raises RecipeError, InputError, ConfigError for what cannot be trained, OutputError for a
    folder that exists or cannot be written, RankError when another rank is gone; checkpoints
    saved before stay as they are.
    """
    keep_freed_memory()
    want, device = recipe.ranks, resolve_device(recipe.run.device)
    with joined(want.experts, want.data, is_sharded=want.shard, device=device) as ranks:
        return _train(recipe, folder, resume, stop_after, console, ranks)


def _train(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    stop_after: int | None,
    console: Console | None,
    ranks: Ranks,
) -> Summary:
    console = console or Console(stderr=True, quiet=not ranks.is_first)

    def note(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with stopping() as stop, _own_folder(folder, resume, ranks):
        begun = begin(recipe, folder, note, ranks)
        state = begun.state
        note(_describe(begun))
        sampler = Sampler(begun.packed, recipe.data.sequence, recipe.run.seed)
        last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
        if ranks.is_first and state.step < last:
            _set_aside(folder / "final", note)
        with _metrics(recipe, folder, state.step, ranks) as metrics:
            display = Display(recipe.steps, state.step, console=console)
            run = _Run(recipe, folder, begun, metrics, display, begun.saved, ranks)
            try:
                if run.saved is None:
                    _save(run)  # a disk that is too small shows before the work, not after
                _steps(run, sampler, last, stop)
                final = _finish(run) if state.step >= recipe.steps else None
            finally:
                display.close()
    return Summary(
        folder=folder,
        final=final,
        step=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        skipped=state.skipped,
        stopped_by=stop.signal,
        is_first=ranks.is_first,
        bits_per_byte=run.bits_per_byte,
    )


@contextmanager
def _own_folder(folder: Path, resume: bool, ranks: Ranks) -> Iterator[None]:
    """The run's folder, which the first rank makes and holds for all."""
    with run_folder(folder, resume=resume) if ranks.is_first else nullcontext():
        ranks.wait()
        yield


def _metrics(recipe: Recipe, folder: Path, step: int, ranks: Ranks) -> Metrics:
    if not ranks.is_first:
        return Metrics(None, step)
    board = Board(folder / "tensorboard", step) if recipe.run.tensorboard else None
    return Metrics(folder / "metrics.jsonl", step, board)


def _describe(begun: Begun) -> str:
    model, packed = begun.state.model, begun.packed
    total = sum(parameter.numel() for parameter in model.parameters())
    about = begun.about
    where = f"{about['threads']} threads" if about["device"] == "cpu" else about["device"]
    domains = ", ".join(f"{span.name} {span.end - span.start:,}" for span in packed.spans)
    return (
        f"{model.config.family} of {total:,} parameters, vocabulary "
        f"{model.config.vocab_size:,}, {about['dtype']} on {where}; "
        f"tokens to train on: {domains}"
    )


def _steps(run: _Run, sampler: Sampler, last: int, stop: Stop) -> None:
    """Steps up to `last` or until asked to stop; the state is saved when this returns."""
    state, every = run.begun.state, run.recipe.run
    while state.step < last and not _is_stopped(run, stop):
        began = time.monotonic()
        is_read = _is_due(state.step + 1, every.statistics_every)
        batches = _batches(sampler, run.recipe, state.step)
        report = take_step(
            state, run.recipe, batches, run.begun.dtype, read=is_read, ranks=run.ranks
        )
        state.seconds += time.monotonic() - began
        _record(run, report)
        _refuse_hopeless(run)
        if _is_due(state.step, every.evaluate_every) and state.step < run.recipe.steps:
            _timed(run, lambda: _evaluate(run, every.evaluation_bytes))
        if _is_due(state.step, every.checkpoint_every) and state.skipped_in_a_row == 0:
            _timed(run, lambda: _save(run))
    # a state in the middle of skipped steps may be beyond help: the one before them stays newest
    if state.skipped_in_a_row == 0:
        _save(run)


def _is_stopped(run: _Run, stop: Stop) -> bool:
    """Whether any rank was asked to stop: they do so together."""
    return run.ranks.any(stop.signal is not None)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _batches(sampler: Sampler, recipe: Recipe, step: int) -> Iterator[Tensor]:
    run = recipe.run
    for index in range(run.accumulation):
        yield sampler.sequences((step * run.accumulation + index) * run.batch, run.batch)


def _timed(run: _Run, work: Callable[[], None]) -> None:
    began = time.monotonic()
    work()
    run.begun.state.seconds += time.monotonic() - began
    run.display.pause()


def _record(run: _Run, report: Report) -> None:
    state = run.begun.state
    run.metrics.write(
        "step",
        state.step,
        loss=report.loss,
        balance=report.balance,
        z=report.z,
        lr=report.lr,
        grad_norm=report.grad_norm,
        is_skipped=report.is_skipped,
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
    )
    run.display.step(state.step, report.loss, run.recipe.tokens_per_step)
    if report.is_skipped:
        run.display.warn(
            f"step {state.step} is skipped: loss {report.loss}, gradient norm {report.grad_norm}"
        )
    for layer, expert in report.revived:
        run.metrics.write("revival", state.step, layer=layer, expert=expert)
        run.display.note(f"step {state.step}: expert {expert} of layer {layer} begins anew")
    for reading in report.readings:
        run.metrics.write("router", **asdict(reading))
    run.history += report.readings
    for text in watch.warnings(run.history) if report.readings else []:
        run.metrics.write("warning", state.step, text=text)
        run.display.warn(text)


def _refuse_hopeless(run: _Run) -> None:
    state = run.begun.state
    if state.skipped_in_a_row >= MAX_SKIPPED:
        good = run.saved.name if run.saved else "the beginning"
        raise RecipeError(
            f"{MAX_SKIPPED} steps in a row up to step {state.step} had no finite loss and gradient",
            hint=f"lower [optimiser] peak_lr and begin anew; {good} is good and kept",
        )


def _evaluate(run: _Run, num_bytes: int | None) -> None:
    """Bits per byte by domain, over the first `num_bytes` of each held-out text (None: all)."""
    state, sequence = run.begun.state, run.recipe.data.sequence
    state.model.eval()
    for name, text in run.begun.held_out.items():
        part = text if num_bytes is None else text.encode()[:num_bytes].decode(errors="ignore")
        measured = score(state.model, run.begun.tokenizer, part, sequence)
        run.bits_per_byte[name] = measured.bits_per_byte
    state.model.train()
    if run.bits_per_byte:
        run.metrics.write(
            "evaluation",
            state.step,
            bits_per_byte=dict(run.bits_per_byte),
            context=sequence,
            evaluation_bytes=num_bytes,
        )
        values = "  ".join(f"{name} {bits:.3f}" for name, bits in run.bits_per_byte.items())
        mean = sum(run.bits_per_byte.values()) / len(run.bits_per_byte)
        run.display.note(f"step {state.step}: bits per byte {mean:.3f} ({values})")


def _save(run: _Run) -> None:
    state, folder = run.begun.state, run.folder / "checkpoints"
    if run.saved is not None and run.saved.name == f"step-{state.step:08d}":
        return
    run.saved = checkpoints.write_checkpoint(folder, state, run.begun.about, run.ranks)
    if run.ranks.is_first:
        checkpoints.retain(folder, run.recipe.run.keep, run.saved)


def _set_aside(final: Path, note: Callable[[str], None]) -> None:
    """A run that goes on beyond an end keeps that end's model under another name."""
    if not final.is_dir():
        return
    others = (final.with_name(f"final-{number}") for number in count(1))
    other = next(path for path in others if not path.exists())
    with writing(final.parent):
        final.rename(other)
    note(f"{final} is of an earlier end: it is {other} now")


def _finish(run: _Run) -> Path:
    """The last evaluation, on all held-out text, and the model to use, with its recipe."""
    final = run.folder / "final"
    if final.is_dir():
        run.display.note(f"{final} is already there: this run had finished")
        return final
    _evaluate(run, None)
    dtype: torch.dtype = getattr(torch, run.recipe.run.final_dtype)
    model = whole_model(run.begun.state.model, run.ranks)
    if run.ranks.is_first:
        with whole_folder(final) as partial:
            save(model, partial, dtype=dtype)
            (partial / "recipe.toml").write_text(run.recipe.source, "utf-8")
    run.ranks.wait()
    return final
