"""What `expertly run` does: open the model, find the prompt, write or talk."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from expertly.checkpoint import load
from expertly.cli.approximating import approximated
from expertly.cli.chat import Conversation, converse
from expertly.cli.output import note
from expertly.cli.prompting import find_prompt, near_path, split
from expertly.cli.show import Show
from expertly.cli.store_options import check_approximate
from expertly.cli.streaming import check_trace, reported, traced
from expertly.engine import Engine, Sampling
from expertly.errors import InputError
from expertly.machine import thread_count
from expertly.model import Model, NativeDecoder
from expertly.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `expertly run`; `words` are its arguments."""

    words: tuple[str, ...]
    sampling: Sampling
    dtype: Literal["native", "int8", "int4", "float32", "bfloat16"]
    system: str | None
    wants_chat: bool | None
    shows_experts: bool
    is_json: bool
    threads: int | None
    memory: str | None
    context: int | None
    read_ahead: bool
    device: str | None
    device_memory: str | None
    approximate: str | None
    lower: str | None
    trace: Path | None


def run(request: Request) -> None:
    """Raises ExpertlyError for what the user can mend."""
    name, prompt = split(request.words)
    if len(request.words) == 1 and prompt and (meant := near_path(prompt)):
        note(f"note: {prompt} is not there, and so a prompt; did you mean {meant}?")
    if request.system is not None and request.wants_chat is False:
        raise InputError("--system with --raw", hint="a system message needs a chat; drop one")
    check_approximate(request.approximate, request.lower, request.memory)
    check_trace(request.trace)
    if request.threads is not None:
        torch.set_num_threads(thread_count(request.threads))
    model = _load(name, request)
    show = _show(model, request)
    text = find_prompt(prompt, is_bundled=name == "", needs_text=request.shows_experts)
    with (
        reported(model),
        traced(model, request.trace),
        Engine(model, routings=request.shows_experts) as engine,
    ):
        if text is None:
            _talk(engine, show, request)
        else:
            _write(engine, show, text, request)


def _load(name: str, request: Request) -> Model:
    if request.dtype in ("float32", "bfloat16"):
        for option in ("memory", "device", "approximate"):
            if getattr(request, option) is not None:
                raise InputError(
                    f"--{option} with --dtype {request.dtype}, which torch computes",
                    hint="leave out one of them",
                )
        return load(name, request.dtype, threads=request.threads)
    model = load(
        name,
        request.dtype,
        memory=request.memory,
        context=request.context,
        read_ahead=request.read_ahead,
        lower=request.lower,
        device=request.device,
        device_memory=request.device_memory,
        threads=request.threads,
    )
    assert isinstance(model, NativeDecoder)
    if model.budget is not None:
        note(model.budget)
    if request.approximate is not None:
        approximated(model, request.approximate)
    return model


def _show(model: Model, request: Request) -> Show:
    layers = model.config.mixture_layers
    if request.shows_experts and not layers:
        raise InputError(
            f"a {model.config.family} has no mixture layers, so no experts to show",
            hint="leave out --show-experts",
        )
    if model.tokenizer is None:
        raise InputError(
            "this model has no tokenizer.json", hint="put it beside the model's weights"
        )
    return Show(
        tokenizer=model.tokenizer,
        layers=layers if request.shows_experts else None,
        is_json=request.is_json,
    )


def _is_chat(tokenizer: Tokenizer, request: Request, *, talks: bool) -> bool:
    if request.wants_chat is not None:
        return request.wants_chat
    return request.system is not None or (talks and tokenizer.has_template)


def _write(engine: Engine, show: Show, text: str, request: Request) -> None:
    if _is_chat(show.tokenizer, request, talks=False):
        conversation = Conversation(system=request.system, is_chat=True)
        show(engine.stream(conversation.ask(text), request.sampling))
        return
    if show.tokenizer.has_template and request.wants_chat is None:
        note("note: the text is continued as it is; --chat puts it into the chat template")
    show(engine.stream(text, request.sampling), text)


def _talk(engine: Engine, show: Show, request: Request) -> None:
    # line editing and history, where the system has them
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401

    is_chat = _is_chat(show.tokenizer, request, talks=True)
    if not is_chat:
        note("each line is continued by itself: this is no chat")
    converse(
        Conversation(system=request.system, is_chat=is_chat),
        lambda prompt: engine.stream(prompt, request.sampling),
        show,
        lambda: input("> " if sys.stdout.isatty() else ""),
    )
