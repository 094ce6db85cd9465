"""What a request asks of generation, checked when it is made."""

import math
from dataclasses import dataclass
from typing import Any

from expertly.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when they end.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 do nothing.
    A text ends at the model's end token unless `ignore_eos`, before any of the `stop` strings,
    after `max_tokens` tokens (None: at the end of the context). Without a seed each run differs.

    Raises InputError with the value that is wrong.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, 100.0)
        _whole("top_k", self.top_k, 0)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1)
        if self.seed is not None:
            _whole("seed", self.seed, 0, 2**63 - 1)
        if not isinstance(self.ignore_eos, bool):
            raise _wrong("ignore_eos", self.ignore_eos, "true or false")
        object.__setattr__(self, "stop", _strings(self.stop))


def _wrong(name: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{name} is {value!r}", hint=f"give {wanted}")


def _number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # a NaN compares with nothing, so it fails here too
    if not (is_number and math.isfinite(value) and low <= value <= high):
        raise _wrong(name, value, f"a number from {low:g} to {high:g}")


def _whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not (is_whole and low <= value and (high is None or value <= high)):
        wanted = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise _wrong(name, value, f"a whole number {wanted}")


def _strings(stop: Any) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else stop
    is_right = isinstance(texts, tuple | list)
    if not (is_right and all(isinstance(text, str) and text for text in texts)):
        raise _wrong("stop", stop, "strings that are not empty")
    return tuple(texts)
