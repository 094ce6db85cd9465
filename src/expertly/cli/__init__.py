"""The command line: one verb a file; a verb's module is imported only when it runs."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["main"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the answer is its exit code."""
    with _interruptible():
        try:
            # a tenth of a second, in which a user may have had second thoughts
            from expertly.cli.entry import main as run
        except KeyboardInterrupt:
            return _INTERRUPTED
        return run(arguments)


@contextmanager
def _interruptible() -> Iterator[None]:
    # whoever started this may have asked for no interrupts, or for his own; threads get none
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As python's own. But torch loses an exception that comes while it imports numpy, and the
    program would run on: nothing is begun by then, so it ends at once."""
    at = frame
    while at is not None:
        if at.f_code.co_name == "<module>" and at.f_globals.get("__name__") == "torch":
            os._exit(_INTERRUPTED)
        at = at.f_back
    signal.default_int_handler(number, frame)
