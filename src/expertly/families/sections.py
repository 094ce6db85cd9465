"""Sections of a config.json that are spelled as the fields of our own config are."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from expertly.config import LinearScaling, Llama3Scaling, LongScaling, YarnScaling
from expertly.errors import ConfigError
from expertly.families.reading import Keys

T = TypeVar("T")

# a section that may be one of several says which by its key "kind"
_KINDS: Mapping[str, type] = {
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
    "longrope": LongScaling,
}


def read_fields(keys: Keys, kind: type[T]) -> T:
    """A dataclass of `config` from a section with its fields for keys; those with a default may
    be missing. Raises `ConfigError` for every other key and for values of a wrong type."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    keys.allow_only([*known, "kind"] if kind in _KINDS.values() else known)
    hints = get_type_hints(kind)
    wanted = [n for n, field in known.items() if n in keys or field.default is MISSING]
    return kind(**{name: _read(keys, name, hints[name]) for name in wanted})


def _read(keys: Keys, name: str, hint: Any) -> Any:
    if get_origin(hint) is UnionType or NoneType in get_args(hint):
        if NoneType in get_args(hint) and name in keys and keys.is_null(name):
            return None
        parts = [part for part in get_args(hint) if part is not NoneType]
        return _read(keys, name, parts[0]) if len(parts) == 1 else _read_one_of(keys, name)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return read_fields(_section(keys, name), hint)
    if get_origin(hint) is Literal:
        return keys.choice(name, of={option: option for option in get_args(hint)})
    if get_origin(hint) is tuple:
        return keys.numbers(name)
    if hint is bool:
        return keys.flag(name, default=False)
    return keys.size(name, minimum=0) if hint is int else keys.number(name)


def _read_one_of(keys: Keys, name: str) -> Any:
    section = _section(keys, name)
    return read_fields(section, section.choice("kind", of=_KINDS))


def _section(keys: Keys, name: str) -> Keys:
    section = keys.section(name)
    if section is None:
        raise ConfigError(
            f"{keys.where} lacks the section {name!r}", hint="give it as an object of its own"
        )
    return section
