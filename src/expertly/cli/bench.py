"""`expertly bench`: how fast a model runs here, beside the machine's limits and a peer."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from expertly.cli.bench_request import Request, numbers
from expertly.cli.only import beside
from expertly.cli.store_options import (
    MEMORY_ONLY,
    Approximate,
    Context,
    Lower,
    Memory,
    ReadAhead,
)
from expertly.cli.thread_option import Threads

ModelPath = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A .gguf file, a folder or a hub id; left out with --synthetic.",
        show_default="none",
    ),
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
    str | None,
    typer.Option(
        metavar="N,N",
        help="Streams decoded together. The smallest is measured at every --decode, the others "
        "at the smallest --decode.",
        show_default="1,4,16,64; 1 with --memory",
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
Synthetic = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Measure a packed folder of a known model's shape with random weights, as "
        "mixtral-8x7b, which is written to --out unless it is there.",
        show_default="none",
    ),
]
Bits = Annotated[int, typer.Option(help="Bits a weight of --synthetic.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where --synthetic is kept.", show_default="none"),
]
RoutingOf = Annotated[
    str | None,
    typer.Option(
        "--routing",
        metavar="HOW",
        help="Which experts are chosen: own, by the model's router; modelled, drawn with the skew "
        "and repetition of measured traces (modelled:SKEW,STAY with these); like:FILE, with those "
        "of a trace; FILE, as in a trace of a model of this shape.",
        show_default="own; modelled with --synthetic, as random weights choose all alike",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print nothing but the line of JSON.")]

CONDITIONS = (
    MEMORY_ONLY,
    beside("--synthetic", "bits", "out", hint="add --synthetic NAME, or leave it out"),
    beside("--peer", "peer_python", hint="add --peer llama.cpp, or leave it out"),
)


def command(
    model: ModelPath = None,
    threads: Threads = None,
    prefill: Prefill = None,
    decode: Decode = None,
    batch: Batch = None,
    pairs: Pairs = 5,
    dtype: Kind = "native",
    memory: Memory = None,
    context: Context = None,
    read_ahead: ReadAhead = True,
    approximate: Approximate = None,
    lower: Lower = None,
    synthetic: Synthetic = None,
    bits: Bits = 4,
    out: Out = None,
    routing: RoutingOf = None,
    peer: PeerName = None,
    peer_python: PeerPython = None,
    kernels: KernelSet = "",
    as_json: AsJson = False,
) -> None:
    """Measure how fast a model runs here, beside what limits it; ends with a line of JSON."""
    request = Request(
        model=model,
        threads=threads,
        prefill=numbers("--prefill", prefill),
        decode=numbers("--decode", decode),
        batch=numbers("--batch", batch),
        pairs=pairs,
        dtype=dtype,
        memory=memory,
        context=context,
        read_ahead=read_ahead,
        approximate=approximate,
        lower=lower,
        synthetic=synthetic,
        bits=bits,
        out=out,
        routing=routing,
        peer=peer,
        peer_python=peer_python,
        kernels=kernels,
        is_json=as_json,
    )
    request.check()
    # it brings torch, which the help does without
    from expertly.cli.bench_run import run

    run(request)
