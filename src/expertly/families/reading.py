"""Reads a parsed config.json key by key and remembers which keys had a say.

A family asks for what it knows; `finish` refuses whatever nobody asked for. A key may be spelled
in several ways; spellings that contradict each other are refused.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from expertly.errors import ConfigError

T = TypeVar("T")

# keys that say nothing about what the model computes at inference
WITHOUT_MEANING = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "attn_pdrop",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "emb_pdrop",
        "embd_pdrop",
        "finetuning_task",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "router_aux_loss_coef",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
        "use_return_dict",
    }
)

# keys that would change the model, were their value another
FIXED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
}

_LARGEST = 2**53  # a damaged count must not become a number that nothing can hold
_QUANTIZED_HINT = "use the checkpoint that holds plain bfloat16 or float32 weights"
_HINT = "check the model's config.json against its published one"


class _Needed:
    """Stands for: this key has no default."""


NEEDED = _Needed()


def show(value: Any) -> str:
    """A value as config.json spells it, cut when it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


class Keys:
    """One JSON object, read key by key.

    Readers take every spelling of a key, the usual one first. Each raises `ConfigError` for a
    value of the wrong type, for spellings that disagree, and, unless there is a default, for a
    missing key. A `maybe_` reader takes null as a value of its own.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} must be an object, not {show(values)}", hint=_HINT)
        self._values = values
        self._where = where
        self._used: set[str] = set()

    @property
    def where(self) -> str:
        return self._where

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def _find(self, names: tuple[str, ...], default: Any) -> Any:
        self._used.update(names)
        given = [name for name in names if name in self._values]
        if not given:
            if isinstance(default, _Needed):
                raise ConfigError(
                    f"{self._where} lacks the key {' or '.join(map(repr, names))}", hint=_HINT
                )
            return default
        first = self._values[given[0]]
        for name in given[1:]:
            other = self._values[name]
            if other != first or isinstance(other, bool) != isinstance(first, bool):
                self.contradict(given[0], first, name, other)
        return first

    def contradict(self, name: str, value: Any, other: str, other_value: Any) -> None:
        """Refuses two keys that spell one thing in two ways."""
        raise ConfigError(
            f"{self._where} contradicts itself: {name} is {show(value)}, "
            f"but {other} is {show(other_value)}",
            hint="remove the wrong one of the two",
        )

    def _read(
        self, names: tuple[str, ...], default: Any, fits: Callable[[Any], bool], expected: str
    ) -> Any:
        value = self._find(names, default)
        if value is not default and not fits(value):
            raise ConfigError(
                f"{self._where}: {names[0]} must be {expected}, not {show(value)}", hint=_HINT
            )
        return value

    def size(self, *names: str, default: int | _Needed = NEEDED, minimum: int = 1) -> int:
        """An integer, `minimum` or more."""
        return cast(int, self._read(names, default, _is_integer(minimum), _integer(minimum)))

    def maybe_size(self, *names: str, default: int | None = None, minimum: int = 1) -> int | None:
        """An integer, `minimum` or more, or null."""
        fits = _or_null(_is_integer(minimum))
        return cast("int | None", self._read(names, default, fits, _integer(minimum) + " or null"))

    def number(self, *names: str, default: float | _Needed = NEEDED) -> float:
        """A finite number from 0; an integer counts as one."""
        return float(self._read(names, default, _is_number, "a finite number from 0"))

    def maybe_number(self, *names: str, default: float | None = None) -> float | None:
        """A finite number from 0, or null."""
        value = self._read(names, default, _or_null(_is_number), "a finite number from 0, or null")
        return None if value is None else float(value)

    def flag(self, *names: str, default: bool) -> bool:
        """true or false; 0 and 1 are refused."""
        return cast(bool, self._read(names, default, _is_flag, "true or false"))

    def text(self, *names: str, default: str | _Needed = NEEDED) -> str:
        return cast(str, self._read(names, default, lambda v: isinstance(v, str), "a string"))

    def numbers(self, *names: str) -> tuple[float, ...]:
        """A list of finite numbers from 0."""
        value = self._read(names, NEEDED, _is_list(_is_number), "a list of finite numbers from 0")
        return tuple(map(float, value))

    def maybe_sizes(self, *names: str) -> tuple[int, ...] | None:
        """A list of integers from 0, or null, or nothing."""
        fits = _or_null(_is_list(_is_integer(0)))
        value = self._read(names, None, fits, "a list of integers from 0, or null")
        return None if value is None else tuple(value)

    def maybe_texts(self, *names: str) -> tuple[str, ...] | None:
        """A list of strings, or null, or nothing."""
        fits = _or_null(_is_list(lambda v: isinstance(v, str)))
        value = self._read(names, None, fits, "a list of strings, or null")
        return None if value is None else tuple(value)

    def section(self, *names: str) -> "Keys | None":
        """An object inside this one; None when it is null or missing."""
        value = self._read(names, None, _or_null(_is_object), "an object or null")
        return None if value is None else Keys(value, f"{self._where}: {names[0]}")

    def sections(self, name: str) -> "list[Keys] | None":
        """A list of objects, one or more, or None when it is null or missing."""
        fits = _or_null(lambda v: bool(v) and _is_list(_is_object)(v))
        values = self._read((name,), None, fits, "a list of objects, or null")
        where = f"{self._where}: {name}"
        return values and [Keys(value, f"{where}[{i}]") for i, value in enumerate(values)]

    def is_null(self, name: str) -> bool:
        return self._values.get(name) is None

    def choice(self, *names: str, of: Mapping[str, T], default: str | _Needed = NEEDED) -> T:
        """One of a few strings, as what it stands for."""
        value = self.text(*names, default=default)
        if value not in of:
            raise ConfigError(
                f"{self._where}: {names[0]} {show(value)} is not built",
                hint=f"built are: {', '.join(of)}",
            )
        return of[value]

    def must_be(self, name: str, *allowed: Any) -> None:
        """Refuses any other value of a key that has one meaning here; it may be missing."""
        value = self._find((name,), allowed[0])
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            raise ConfigError(
                f"{self._where}: {name} {show(value)} is not built, "
                f"only {' or '.join(map(show, allowed))}",
                hint=_QUANTIZED_HINT if name == "quantization_config" else _HINT,
            )

    def token(self, name: str, default: int | None = None) -> int | None:
        """A token's id or null; -1, an old spelling of none, is null too."""
        value = self.maybe_size(name, default=default, minimum=-1)
        return None if value == -1 else value

    def tokens(self, name: str, default: int | None = None) -> tuple[int, ...]:
        """A token's id, a list of them, or null."""
        if isinstance(self._values.get(name), list):
            return self.maybe_sizes(name) or ()
        one = self.token(name, default)
        return () if one is None else (one,)

    def values(self) -> Mapping[str, Any]:
        """All of the object, for a reader of its own; counts every key as read."""
        self._used.update(self._values)
        return self._values

    def finish(self, without_meaning: Iterable[str] = ()) -> None:
        """Refuses every key that nobody read and no list names as without meaning."""
        for name, value in FIXED.items():
            self.must_be(name, value)
        known = self._used | WITHOUT_MEANING | set(without_meaning)
        self._refuse(sorted(set(self._values) - known))

    def allow_only(self, names: Iterable[str]) -> None:
        """Refuses every other key, those without meaning too."""
        self._refuse(sorted(set(self._values) - set(names)))

    def _refuse(self, unknown: list[str]) -> None:
        if unknown:
            pairs = ", ".join(f"{name}={show(self._values[name])}" for name in unknown)
            raise ConfigError(
                f"{self._where} has {'an unknown key' if len(unknown) == 1 else 'unknown keys'}: "
                f"{pairs}",
                hint="a key that this version does not know may change what the model computes; "
                "remove it if you are sure that it does not",
            )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _LARGEST if isinstance(value, int) else 0.0 <= value < math.inf


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_integer(minimum: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and minimum <= v <= _LARGEST


def _is_list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list | tuple) and all(map(fits, v))


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or fits(v)


def _integer(minimum: int) -> str:
    return f"an integer from {minimum}"
