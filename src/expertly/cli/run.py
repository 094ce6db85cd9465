"""`expertly run`: write text with a model, or chat with it."""

from typing import Annotated, Literal

import typer


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A folder or a hub id. A single argument is the model if such a path exists, or "
            'if it has a slash and no space; otherwise it is the prompt. "" is the bundled model.',
            show_default="the bundled model",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The text to continue; - reads it from standard input. Without one: a chat on a "
            "terminal, piped text otherwise.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 256,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most probable token each time.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k most probable; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Choose among the fewest that are together this probable.")
    ] = 0.95,
    min_p: Annotated[
        float, typer.Option(help="Leave out what is less probable than this times the best.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: less of what was already said.")
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="The same seed writes the same text.", show_default="none")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; repeatable.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="What weights are kept in.")
    ] = "float32",
    system: Annotated[
        str | None, typer.Option(help="A chat's first message, from the system.")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw",
            help="Put the prompt into the model's chat template, or continue it as it is.",
            show_default="--raw; a terminal without a prompt chats if there is a template",
        ),
    ] = None,
    show_experts: Annotated[
        bool, typer.Option("--show-experts", help="A line a token, with the experts it consulted.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a token, on a line each.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads.", show_default="all cores")
    ] = None,
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
    run(
        Request(
            words=tuple(word for word in (model, prompt) if word is not None),
            sampling=sampling,
            dtype=dtype,
            system=system,
            wants_chat=chat,
            shows_experts=show_experts,
            is_json=as_json,
            threads=threads,
        )
    )
