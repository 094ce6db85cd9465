"""TOML tables into frozen dataclasses, strictly: unknown keys and wrong types are refused."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from expertly.errors import RecipeError

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}


def read_table(kind: type[T], table: Any, where: str) -> T:
    """`kind` made from a parsed TOML table; RecipeError names the key, its value and the table."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where} is {table!r}", hint=f"make it a table: {where}, then its keys")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    refuse_unknown(table, fields, where)
    for name, field in fields.items():
        is_needed = field.default is field.default_factory is dataclasses.MISSING
        if is_needed and name not in table:
            raise RecipeError(f"{where} lacks {name}", hint=f"add a line '{name} = ...' to {where}")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], table[key], f"{where} {key}") for key in table})


def refuse_unknown(keys: Collection[str], known: Collection[str], where: str) -> None:
    """RecipeError when a key is not known, with the known ones that look most like it."""
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known) or sorted(known)
            raise RecipeError(
                f"{where} has an unknown key {key!r}", hint=f"did you mean {' or '.join(close)}?"
            )


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is UnionType:
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return _chosen(get_args(hint), value, where)
    if get_origin(hint) is tuple:
        return _sequence(get_args(hint)[0], value, where)
    if not _is_a(hint, value):
        raise RecipeError(f"{where} is {value!r}", hint=f"it must be {_NAMES[hint]}")
    return float(value) if hint is float else value


def _chosen(options: tuple[str, ...], value: Any, where: str) -> Any:
    if value not in options:
        raise RecipeError(f"{where} is {value!r}", hint=f"it must be one of {', '.join(options)}")
    return value


def _sequence(kind: type, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise RecipeError(f"{where} is {value!r}", hint="it must be a list: [...]")
    return tuple(_convert(kind, one, f"{where}, entry {i + 1},") for i, one in enumerate(value))


def _is_a(kind: type, value: Any) -> bool:
    checks: dict[type, Callable[[Any], bool]] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: isinstance(v, int) and not isinstance(v, bool),
        float: lambda v: (
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        ),
        str: lambda v: isinstance(v, str),
    }
    return checks[kind](value)
