"""A chat to text by the model's own template, rendered in a process that can be killed."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expertly.errors import InputError

Message = Mapping[str, Any]

_SANDBOX = Path(__file__).with_name("sandbox.py")
# the child is held to 2 s of processor time; the clock only catches one that sleeps or starves
_CLOCK_SECONDS = 10.0
_HINT = "use another template, or give the prompt as plain text"


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    names: Mapping[str, str] | None = None,
) -> str:
    """The text of a chat; `names` are the special tokens that templates write, such as bos_token.

    Raises InputError for messages without a role, and with the template's own words if it refuses,
    fails, or uses more than 2 s or 256 MiB.
    """
    check_messages(messages)
    variables = {
        **(names or {}),
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    answer = _in_child({"template": template, "variables": variables})
    if "error" in answer:
        words = " ".join(answer["error"].split())
        raise InputError(f"the chat template failed: {words}", hint=_HINT)
    return answer["text"]


def check_messages(messages: Sequence[Message]) -> None:
    """Raises InputError unless each message is a mapping with a role and content of plain data."""
    hint = 'a chat is a list such as [{"role": "user", "content": "Hello"}]'
    if not messages:
        raise InputError("the chat has no messages", hint=hint)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"message {index} of the chat has no role: {message!r}", hint=hint)
        if not isinstance(message.get("content"), str | list | None):
            raise InputError(
                f"message {index} has content of type {type(message['content']).__name__}",
                hint=hint,
            )


def _in_child(request: dict[str, Any]) -> dict[str, str]:
    try:
        done = subprocess.run(
            # -P: the script's folder is no place to import from
            [sys.executable, "-P", str(_SANDBOX)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_CLOCK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it was stopped after {_CLOCK_SECONDS:.0f} s"}
    except (TypeError, ValueError) as error:
        return {"error": f"the messages are not plain data: {error}"}
    if done.returncode < 0:
        return {"error": "it was stopped after 2 s of processor time"}
    if done.returncode:
        return {"error": done.stderr.decode(errors="replace").strip().rpartition("\n")[2]}
    answer: dict[str, str] = json.loads(done.stdout)
    return answer
