"""Metadata of a GGUF file: its value types, and a mapping that decodes what it is asked for.

All values are checked when the file is read. Strings and arrays stay bytes until somebody asks,
so that a header never costs a multiple of itself.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from expertly.formats.gguf_cursor import U32, U64, Cursor

Scalar = int | float | bool | str
Value = Scalar | list["Value"]

STRING = 8
ARRAY = 9
BOOL = 7
# id of a value type, its name, its struct code
_NUMBERS = {
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    BOOL: ("bool", "?"),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}
STRUCTS: Mapping[int, struct.Struct] = {
    kind: struct.Struct("<" + code) for kind, (_, code) in _NUMBERS.items()
}
TYPE_IDS: Mapping[str, int] = {name: kind for kind, (name, _) in _NUMBERS.items()} | {"str": STRING}

MAX_DEPTH = 4
MAX_ARRAYS = 1 << 16


@dataclass(frozen=True, slots=True)
class Span:
    """A string or an array that is still bytes."""

    kind: int
    start: int  # of the length before a string, of the element type before an array


class Metadata(Mapping[str, Value]):
    """Keys in the file's order. A string or a list is made when it is first asked for."""

    def __init__(self, data: bytes, values: dict[str, Value | Span]) -> None:
        self._data = data
        self._values = values

    def __getitem__(self, key: str) -> Value:
        value = self._values[key]
        if isinstance(value, Span):
            value, _ = _decode(self._data, value.kind, value.start)
            self._values[key] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metadata({list(self)})"


def _decode(data: bytes, kind: int, at: int) -> tuple[Value, int]:
    """A value that was checked before, and where it ends."""
    if kind == STRING:
        end = at + 8 + U64(data, at)[0]
        return data[at + 8 : end].decode(), end
    if kind != ARRAY:
        form = STRUCTS[kind]
        return form.unpack_from(data, at)[0], at + form.size
    element, count = U32(data, at)[0], U64(data, at + 4)[0]
    return _decode_array(data, element, count, at + 12)


def _decode_array(data: bytes, element: int, count: int, at: int) -> tuple[Value, int]:
    if element in STRUCTS:
        form = STRUCTS[element]
        numbers: list[Value] = np.frombuffer(data, form.format, count, at).tolist()
        return numbers, at + count * form.size
    values: list[Value] = []
    for _ in range(count):
        value, at = _decode(data, element, at)
        values.append(value)
    return values, at


class Walk:
    """Moves a cursor over values, checking them."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._arrays_left = MAX_ARRAYS

    def value(self, kind: int, key: str) -> Value | Span:
        """The value of a key; CheckpointError for anything that the specification forbids."""
        cursor = self._cursor
        if kind in STRUCTS:
            at = cursor.take(STRUCTS[kind].size)
            if kind == BOOL:
                self._check_bools(at, 1, key)
            number: Value = STRUCTS[kind].unpack_from(cursor.data, at)[0]
            return number
        start = cursor.position
        self._skip(kind, key, 0)
        return Span(kind, start)

    def _skip(self, kind: int, key: str, depth: int) -> None:
        if kind == STRING:
            self._cursor.skip_strings(1, f"the value of {key!r}")
        elif kind == ARRAY:
            self._skip_array(key, depth)
        else:
            raise self._cursor.error(f"{key!r} is of unknown value type {kind}")

    def _skip_array(self, key: str, depth: int) -> None:
        cursor = self._cursor
        self._arrays_left -= 1
        if depth == MAX_DEPTH:
            raise cursor.error(f"the arrays of {key!r} are nested deeper than {MAX_DEPTH}")
        if self._arrays_left < 0:
            raise cursor.error(f"the file holds more than {MAX_ARRAYS} arrays")
        element, count = cursor.u32(), cursor.u64()
        if element in STRUCTS:
            self._skip_numbers(element, count, key)
        elif element == STRING:
            cursor.skip_strings(count, f"an element of {key!r}")
        elif element == ARRAY:
            cursor.check_room("arrays", count, 12)
            for _ in range(count):
                self._skip_array(key, depth + 1)
        else:
            raise cursor.error(f"{key!r} is an array of unknown value type {element}")

    def _skip_numbers(self, element: int, count: int, key: str) -> None:
        size = STRUCTS[element].size
        self._cursor.check_room(f"elements of {key!r}", count, size)
        at = self._cursor.take(count * size)
        if element == BOOL:
            self._check_bools(at, count, key)

    def _check_bools(self, at: int, count: int, key: str) -> None:
        if self._cursor.data[at : at + count].strip(b"\0\1"):
            raise self._cursor.error(f"{key!r} holds a bool that is neither 0 nor 1", at)
