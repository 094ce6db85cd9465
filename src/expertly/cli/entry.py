"""`expertly`: runs a verb and turns whatever goes wrong into one line and an exit code.

0 done; 1 our fault; 2 something the user can mend; 130 interrupted; 141 the reader went away.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from expertly.cli.output import print_error
from expertly.cli.verbs import VERBS, group
from expertly.errors import ExpertlyError, OutputError

_OS_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "write to a folder that is not read-only",
    errno.ENOENT: "check the path",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the answer is its exit code."""
    globals_: dict[str, bool] = {}
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _open_streams()
        code = _invoke(given, globals_)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return 141
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if globals_.get("traceback"):
            traceback.print_exc()
        return _explain(error, given)


def _open_streams() -> None:
    """A stream that the caller closed is None to python, which would say to stdout what is for
    stderr. That of input is asked for where it is read."""
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        raise OutputError(
            "the standard output is closed", hint="send it to a file, a pipe or /dev/null"
        )


def _invoke(arguments: list[str], globals_: dict[str, bool]) -> int:
    command = group()
    try:
        with command.make_context("expertly", arguments, obj=globals_) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0


def _explain(error: Exception, given: Sequence[str]) -> int:
    if isinstance(error, ExpertlyError):
        return print_error("error", error.message, error.hint)
    if isinstance(error, typer.TyperException):
        return print_error("error", _said(error, given), f"see `{_path(error, given)} --help`")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return print_error(
            "error",
            f"not enough memory: {error}",
            "`expertly plan MODEL` says what a model needs; try --dtype bfloat16",
        )
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        hint = _OS_HINTS.get(error.errno or 0, "the system refused; mend it there and try again")
        return print_error("error", f"{place}{error.strerror}", hint)
    print_error(
        "internal error",
        f"{type(error).__name__}: {error}",
        "this is a fault of expertly; please report it with the output of "
        "`expertly --traceback VERB ...`",
    )
    return 1


def _said(error: Any, given: Sequence[str]) -> str:
    """What the parser says, after the option and the value that it is about."""
    options = getattr(getattr(error, "param", None), "opts", ())
    for place, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if name in options:
            shown = value if equals else " ".join(given[place + 1 : place + 2])
            said = error.message.removeprefix("Value error, ")
            return f"{name} {shown}: {said[:1].lower()}{said[1:]}"
    message: str = error.format_message()
    return message


def _path(error: Any, given: Sequence[str]) -> str:
    context = getattr(error, "ctx", None)
    if context:
        path: str = context.command_path
        return path
    # an error of a verb's own options comes without it
    verb = next((argument for argument in given if not argument.startswith("-")), None)
    return f"expertly {verb}" if verb in VERBS else "expertly"


def _discard_output() -> None:
    # python flushes stdout once more when it ends, and would complain
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
