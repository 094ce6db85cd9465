"""A peer in a process of its own: loaded once, idle while others are measured, timed on demand."""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from expertly.bench.work import Work
from expertly.errors import InputError

_CHILD = Path(__file__).with_name("llama_child.py")
_PATIENCE_SECONDS = 10


class Peer:
    """llama.cpp through llama-cpp-python, as the interpreter `python` finds it.

    `python` is the running interpreter unless it is given. Raises InputError where the peer is
    not installed, or cannot load the file, or fails later.
    """

    name = "llama.cpp"

    def __init__(
        self, model: Path, threads: int, python: str | None = None, child: Path | None = None
    ) -> None:
        if model.suffix != ".gguf":
            raise InputError(
                f"{self.name} reads .gguf files only, not {model}",
                hint="bench a .gguf file, or leave out --peer",
            )
        self._files = ExitStack()
        self._errors = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        # -P: modules beside the child must not be taken for others of the same name
        python = python or sys.executable
        command = [python, "-P", str(child or _CHILD), str(model), str(threads)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._files.close()
            raise InputError(
                f"{python} does not start: {error.strerror}",
                hint="name a Python interpreter with --peer-python",
            ) from None
        try:
            self.about: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def prepare(self, work: Work) -> None:
        self._ask({"prompts": work.prompts, "room": work.room})

    def seconds(self, work: Work) -> float:
        return float(self._ask({"calls": work.calls})["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_PATIENCE_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._files.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        found: dict[str, Any] = json.loads(line)
        if "missing" in found:
            raise InputError(
                f"{self.name} is not installed: no module {found['missing']}",
                hint="pip install llama-cpp-python, or name an interpreter that has it with "
                "--peer-python",
            )
        if "error" in found:
            raise InputError(f"{self.name}: {found['error']}", hint=self._last_words())
        return found

    def _died(self) -> InputError:
        code = self._process.wait()
        return InputError(f"{self.name} ended with code {code}", hint=self._last_words())

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "leave out --peer, or try a smaller measurement"
