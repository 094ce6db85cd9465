"""What `expertly bench` does: open the model, plan the work, measure and print."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from expertly import _native
from expertly.bench import Bench, Peer, Probe, Row, Timed, Work, header, line, plan, table_row
from expertly.bench.work import DECODE_STEPS
from expertly.checkpoint import load
from expertly.cli.approximating import approximated
from expertly.cli.bench_memory import made, reroute, stored_bench
from expertly.cli.bench_request import Request
from expertly.machine import describe, thread_count
from expertly.model import NativeDecoder

_PREFILL, _DECODE, _BATCH = (128, 512, 2048), (0, 2048, 8192), (1, 4, 16, 64)
# of a model that does not fit, whose every prompt may read all of its experts
_FEW_PREFILL, _FEW_DECODE, _FEW_BATCH = (128,), (0,), (1,)


class Rows(Protocol):
    def rows(self, work: Work) -> list[Row]: ...


# larger than the caches of processors, small beside a budget
_SMALL_BYTES = 128 << 20


def run(request: Request) -> None:
    """Raises ExpertlyError for what the user can mend."""
    threads = thread_count(request.threads)
    path = request.model
    if path is None:
        assert request.synthetic is not None and request.out is not None
        path = str(made(request.synthetic, request.bits, request.out, threads))
    with ExitStack() as stack:
        peer = None
        if request.peer is not None:
            peer = stack.enter_context(Peer(Path(path), threads, request.peer_python))
        probe = None
        if request.memory is not None:
            # before the model, as what it takes is taken from the experts' room
            probe = Probe(_native.Runtime(threads, request.kernels), _SMALL_BYTES)
        model = _open(path, threads, request)
        probe = probe or Probe(model.runtime)
        about: dict[str, Any] = {} if peer is None else {"peer": {"name": peer.name, **peer.about}}
        bench: Rows | None = None
        if request.memory is not None:
            bench = stored_bench(model, probe, request.pairs)
            about = {"memory": model.budget}
        bench = bench or Bench(model, probe, peer, request.pairs)
        named = {"model": Path(path).name, **_how(request), **about}
        _measure(bench, _works(model, request), model, probe, named, request.is_json)


def _open(path: str, threads: int, request: Request) -> NativeDecoder:
    model = load(
        path,
        request.dtype,
        memory=request.memory,
        context=request.context,
        read_ahead=request.read_ahead,
        lower=request.lower,
        threads=threads,
        kernels=request.kernels,
    )
    if request.approximate is None:
        reroute(model, _routing(request))
    else:
        approximated(model, request.approximate)
    return model


def _routing(request: Request) -> str:
    return request.routing or ("own" if request.synthetic is None else "modelled")


def _how(request: Request) -> dict[str, Any]:
    """What the JSON says of weights and routing that are not a model's own."""
    found: dict[str, Any] = {}
    if request.synthetic is not None:
        found["weights"] = "random"
    if request.approximate is not None:
        found["approximate"] = request.approximate
        if request.lower is not None:
            found["lower"] = Path(request.lower).name
    elif _routing(request) != "own":
        found["routing"] = _routing(request)
    return found


def _works(model: Timed, request: Request) -> list[Work]:
    longest, is_few = model.context, request.memory is not None
    prefill, decode = (_FEW_PREFILL, _FEW_DECODE) if is_few else (_PREFILL, _DECODE)
    batch = _FEW_BATCH if is_few else _BATCH
    return plan(
        _up_to(longest, prefill) if request.prefill is None else request.prefill,
        _up_to(longest - DECODE_STEPS, decode) if request.decode is None else request.decode,
        batch if request.batch is None else request.batch,
        vocab_size=model.config.vocab_size,
        max_context=longest,
    )


def _up_to(longest: int, lengths: tuple[int, ...]) -> list[int]:
    return [length for length in lengths if length <= longest]


def _measure(
    bench: Rows,
    works: list[Work],
    model: Timed,
    probe: Probe,
    named: dict[str, Any],
    is_json: bool,
) -> None:
    machine, runtime = describe(_native.kernel_sets()), model.runtime
    where: Any = {"machine": machine, "threads": runtime.threads, "kernels": runtime.kernels}
    if not is_json:
        print(header(**where, limits=probe.limits), flush=True)
    found = []
    for work in works:
        for row in bench.rows(work):
            found.append(row)
            if not is_json:
                print(table_row(row), flush=True)
    print(line(**where, limits=probe.limits, rows=found, named=named))
