"""A conversation on the terminal: what was said so far, and the loop that asks and shows."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from expertly.cli.output import note, print_error
from expertly.errors import ExpertlyError

if TYPE_CHECKING:
    from expertly.engine import Piece, Prompt

RESET = "/reset"


class Conversation:
    """Turns lines into prompts: all messages so far for a chat, else the line alone."""

    def __init__(self, *, system: str | None, is_chat: bool) -> None:
        self._start = [] if system is None else [_message("system", system)]
        self._is_chat = is_chat
        self.reset()

    def reset(self) -> None:
        self.messages = list(self._start)

    def ask(self, line: str) -> "Prompt":
        if not self._is_chat:
            return line
        self.messages.append(_message("user", line))
        return list(self.messages)

    def hear(self, answer: str) -> None:
        """Keep the answer; an empty one takes back its question, so that turns still alternate."""
        if not self._is_chat:
            return
        if answer:
            self.messages.append(_message("assistant", answer))
        else:
            self.messages.pop()


def converse(
    conversation: Conversation,
    stream: Callable[["Prompt"], Iterator["Piece"]],
    show: Callable[[Iterator["Piece"]], None],
    read_line: Callable[[], str],
) -> None:
    """Ask, show, and ask again until the end of input. An interrupt ends the answer only; a
    prompt that cannot be read is explained and forgotten."""
    note(f"Ctrl-D ends, Ctrl-C stops an answer, {RESET} forgets what was said")
    while (line := _next_line(read_line)) is not None:
        if line.strip() == RESET:
            conversation.reset()
        elif line.strip():
            conversation.hear(_answer(conversation.ask(line), stream, show))


def _next_line(read_line: Callable[[], str]) -> str | None:
    while True:
        try:
            return read_line()
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()


def _answer(
    prompt: "Prompt",
    stream: Callable[["Prompt"], Iterator["Piece"]],
    show: Callable[[Iterator["Piece"]], None],
) -> str:
    said: list[str] = []

    def kept() -> Iterator["Piece"]:
        for piece in stream(prompt):
            said.append(piece.text)
            yield piece

    try:
        show(kept())
    except KeyboardInterrupt:
        note("stopped")
    except ExpertlyError as error:
        print_error("error", error.message, error.hint)
        return ""
    return "".join(said)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
