"""`expertly run`: write text with a model, or chat with it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from expertly.cli.store_options import (
    MEMORY_ONLY,
    Approximate,
    Context,
    Device,
    DeviceMemory,
    Lower,
    Memory,
    ReadAhead,
)
from expertly.cli.thread_option import Threads

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a .gguf file or a hub id. A single argument is the model if such a path "
        "exists, or if it has no space and a slash or ends in .gguf; otherwise it is the prompt. "
        '"" is the bundled model.',
        show_default="the bundled model",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT",
        help="The text to continue; - reads it from standard input. Without one: a chat on a "
        "terminal, piped text otherwise.",
    ),
]
MaxTokens = Annotated[int, typer.Option(help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most probable token each time.")]
TopK = Annotated[int, typer.Option(help="Choose among the k most probable; 0: all.")]
TopP = Annotated[
    float, typer.Option(help="Choose among the fewest that are together this probable.")
]
MinP = Annotated[
    float, typer.Option(help="Leave out what is less probable than this times the best.")
]
Penalty = Annotated[float, typer.Option(help="Above 1: less of what was already said.")]
Seed = Annotated[
    int | None, typer.Option(help="The same seed writes the same text.", show_default="none")
]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")]
Dtype = Annotated[
    Literal["native", "int8", "int4", "float32", "bfloat16"],
    typer.Option(
        help="native: weights as they are stored; int8, int4: quantised as they are read; the "
        "others are computed by torch."
    ),
]
System = Annotated[str | None, typer.Option(help="A chat's first message, from the system.")]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--raw",
        help="Put the prompt into the model's chat template, or continue it as it is.",
        show_default="--raw; a terminal without a prompt chats if there is a template",
    ),
]
ShowExperts = Annotated[
    bool, typer.Option("--show-experts", help="A line a token, with the experts it consulted.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a token, on a line each.")]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Write every routing decision to a Parquet file.", show_default="none"
    ),
]

CONDITIONS = (MEMORY_ONLY,)


def command(
    model: Model = None,
    prompt: Prompt = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    dtype: Dtype = "native",
    system: System = None,
    chat: Chat = None,
    show_experts: ShowExperts = False,
    as_json: AsJson = False,
    threads: Threads = None,
    memory: Memory = None,
    context: Context = None,
    read_ahead: ReadAhead = True,
    device: Device = None,
    device_memory: DeviceMemory = None,
    approximate: Approximate = None,
    lower: Lower = None,
    trace: Trace = None,
) -> None:
    """Write text with a model or chat with it, its experts shown if asked."""
    # the engine brings torch, which the help does without
    from expertly.cli.generate import Request, run
    from expertly.engine import Sampling

    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        seed=seed,
    )
    request = Request(
        words=tuple(word for word in (model, prompt) if word is not None),
        sampling=sampling,
        dtype=dtype,
        system=system,
        wants_chat=chat,
        shows_experts=show_experts,
        is_json=as_json,
        threads=threads,
        memory=memory,
        context=context,
        read_ahead=read_ahead,
        device=device,
        device_memory=device_memory,
        approximate=approximate,
        lower=lower,
        trace=trace,
    )
    run(request)
