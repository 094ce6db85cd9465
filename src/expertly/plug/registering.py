"""The one call that offers our experts to transformers."""

from expertly import _native
from expertly.errors import InputError
from expertly.machine import thread_count
from expertly.plug import theirs
from expertly.plug.implementation import Implementation, Workers
from expertly.plug.packing import FORMATS

NAMES = tuple(f"expertly_{dtype}" for dtype in FORMATS)


def plug_into_transformers(*, threads: int | None = None, kernels: str = "") -> tuple[str, ...]:
    """Register our experts with transformers, by its own interface: afterwards
    `from_pretrained(..., experts_implementation="expertly_int4")` and
    `model.set_experts_implementation("expertly_int4")` run a model's experts on our kernels, on
    `threads` threads (all usable cores unless given) and the instruction set `kernels` (the best
    that the processor has unless named). Returns the names: bf16, int8 and int4.

    Weights are packed at a module's first call, beside those that transformers holds, and again
    when a parameter was replaced or changed in place (writes through `.data` are not seen).

    Raises InputError without a transformers that has the interface, and for options that this
    machine cannot follow.
    """
    workers = Workers(_runtime(threads, kernels))
    for name, dtype in zip(NAMES, FORMATS, strict=True):
        theirs.register(name, Implementation(dtype, workers))
    return NAMES


def _runtime(threads: int | None, kernels: str) -> _native.Runtime:
    offered = _native.kernel_sets()
    if kernels and kernels not in offered:
        raise InputError(
            f"this processor has no kernels {kernels!r}", hint=f"one of {', '.join(offered)}"
        )
    return _native.Runtime(thread_count(threads), kernels)
