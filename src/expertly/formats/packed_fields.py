"""JSON documents of the packed folder, taken field by field: what is missing, left over, of another
type or out of bounds is a CheckpointError that names the place."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from expertly.errors import CheckpointError

AGAIN = "copy the folder again, or pack the model again"


def error(where: str, what: str, hint: str = AGAIN) -> CheckpointError:
    return CheckpointError(f"{where}: {what}", hint=hint)


def parse(where: str, text: bytes | str) -> object:
    """What a document holds; a name that comes twice in an object, and numbers that are none, are
    refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise error(where, f"the name {short(name)} comes twice")
            found[name] = value
        return found

    def refused(text: str) -> NoReturn:
        raise error(where, f"{text} is no number")

    try:
        plain = text if isinstance(text, str) else text.decode()
        return json.loads(plain, object_pairs_hook=unique, parse_constant=refused)
    except CheckpointError:
        raise
    # text that is not UTF-8, a number of too many digits, arrays nested without end
    except (ValueError, RecursionError) as problem:
        raise error(where, f"this is not valid JSON: {short(str(problem))}") from None


def short(value: object) -> str:
    """A value as messages show it, however long it is."""
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


class Fields:
    """An object that has these names and no others."""

    def __init__(self, where: str, value: object, *names: str) -> None:
        if not isinstance(value, dict):
            raise error(where, f"a JSON object belongs here, not {short(value)}")
        if missing := [name for name in names if name not in value]:
            raise error(where, f"{', '.join(missing)} is missing")
        if strange := [name for name in value if name not in names]:
            raise error(where, f"the name {short(strange[0])} is not known")
        self.where = where
        self._values: Mapping[str, object] = value

    def value(self, name: str) -> object:
        return self._values[name]

    def whole(self, name: str, least: int, most: int) -> int:
        return whole(f"{self.where}, {name}", self._values[name], least, most)

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self._values[name]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise error(f"{self.where}, {name}", f"{short(value)} does not belong here")
        return value

    def items(self, name: str) -> list[object]:
        return items(f"{self.where}, {name}", self._values[name])


def whole(where: str, value: object, least: int, most: int) -> int:
    # True is an int to Python
    if type(value) is not int or not least <= value <= most:
        raise error(where, f"{short(value)} is no whole number from {least} to {most}")
    return value


def items(where: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise error(where, f"a list belongs here, not {short(value)}")
    return value
