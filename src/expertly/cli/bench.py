"""`expertly bench`: how fast a model runs here, beside the machine's limits and a peer."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from expertly.errors import InputError

if TYPE_CHECKING:
    from expertly.bench import Bench, Timed, Work

_PREFILL, _DECODE = (128, 512, 2048), (0, 2048, 8192)

ModelPath = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .gguf file, a folder or a hub id.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Processor threads.", show_default="all cores")
]
Prefill = Annotated[
    str | None,
    typer.Option(
        metavar="N,N",
        help='Tokens of a prompt; "" for none.',
        show_default="128,512,2048, as far as the model's context goes",
    ),
]
Decode = Annotated[
    str | None,
    typer.Option(
        metavar="N,N",
        help='Tokens in the cache; "" for none.',
        show_default="0,2048,8192, as far as the model's context goes",
    ),
]
Batch = Annotated[
    str,
    typer.Option(
        metavar="N,N",
        help="Streams decoded together. The smallest is measured at every --decode, the others "
        "at the smallest --decode.",
    ),
]
Pairs = Annotated[int, typer.Option(min=1, help="Rounds of limit, ours and peer.")]
Kind = Annotated[Literal["native", "int8", "int4"], typer.Option(help="What weights are kept in.")]
PeerName = Annotated[
    Literal["llama.cpp"] | None,
    typer.Option("--peer", help="Measure it in the same rounds, on the same .gguf file."),
]
PeerPython = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="The Python interpreter that has llama-cpp-python.",
        show_default="the one that runs this",
    ),
]
KernelSet = Annotated[
    str,
    typer.Option(
        "--kernels",
        metavar="NAME",
        help="An instruction set that this machine has.",
        show_default="the best",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print nothing but the line of JSON.")]


def command(
    model: ModelPath,
    threads: Threads = None,
    prefill: Prefill = None,
    decode: Decode = None,
    batch: Batch = "1,4,16,64",
    pairs: Pairs = 5,
    dtype: Kind = "native",
    peer: PeerName = None,
    peer_python: PeerPython = None,
    kernels: KernelSet = "",
    as_json: AsJson = False,
) -> None:
    """Measure how fast a model runs here, beside what limits it; ends with a line of JSON."""
    prefills, contexts = _numbers("--prefill", prefill), _numbers("--decode", decode)
    batches = _numbers("--batch", batch) or []
    if peer_python is not None and peer is None:
        raise InputError("--peer-python without --peer", hint="add --peer llama.cpp")
    # they bring torch, which the help does without
    from expertly.bench import Bench, Peer, Probe, plan
    from expertly.bench.work import DECODE_STEPS
    from expertly.machine import usable_cores

    threads = threads or usable_cores()
    with ExitStack() as stack:
        other = None
        if peer is not None:
            other = stack.enter_context(Peer(Path(model), threads, peer_python))
        opened = _open(model, dtype, threads, kernels)
        longest = opened.config.max_context
        works = plan(
            _up_to(longest, _PREFILL) if prefills is None else prefills,
            _up_to(longest - DECODE_STEPS, _DECODE) if contexts is None else contexts,
            batches,
            vocab_size=opened.config.vocab_size,
            max_context=longest,
        )
        bench = Bench(opened, Probe(opened.runtime), other, pairs)
        about = None if other is None else {"name": other.name, **other.about}
        _measure(bench, works, Path(model).name, about, as_json)


def _open(
    model: str, dtype: Literal["native", "int8", "int4"], threads: int, kernels: str
) -> "Timed":
    from expertly.checkpoint import load

    return load(model, dtype, threads=threads, kernels=kernels)


def _up_to(longest: int, lengths: tuple[int, ...]) -> list[int]:
    return [length for length in lengths if length <= longest]


def _measure(
    bench: "Bench", works: "list[Work]", model: str, peer: dict[str, Any] | None, as_json: bool
) -> None:
    from expertly import _native
    from expertly.bench import header, line, table_row
    from expertly.machine import describe

    machine, runtime = describe(_native.kernel_sets()), bench.model.runtime
    where: Any = {"machine": machine, "threads": runtime.threads, "kernels": runtime.kernels}
    if not as_json:
        print(header(**where, limits=bench.probe.limits), flush=True)
    found = []
    for work in works:
        for row in bench.rows(work):
            found.append(row)
            if not as_json:
                print(table_row(row), flush=True)
    print(line(model=model, **where, limits=bench.probe.limits, rows=found, peer=peer))


def _numbers(name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
        raise InputError(f"{name} {text!r} is no list of numbers", hint=f"as {name} 128,512")
    return [int(part) for part in parts]
