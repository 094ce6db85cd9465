"""A cursor over the head of a file that trusts none of its counts and lengths.

Bytes are fetched as they are needed; a count is held against what remains before it is used.
"""

import struct
from collections.abc import Callable

from expertly.errors import CheckpointError

# fetch(offset, count): that many bytes of the file, fewer where it ends
Fetch = Callable[[int, int], bytes]

MAX_HEADER_BYTES = 128 << 20
MAX_STRING_BYTES = 4 << 20
MAX_NAME_BYTES = (1 << 16) - 1
# walking them takes most of a second; the largest vocabularies have 0.65 million with their merges
MAX_STRINGS = 3 << 19
_FIRST_BYTES = 64 << 10

U32 = struct.Struct("<I").unpack_from
U64 = struct.Struct("<Q").unpack_from


class Cursor:
    """`position` moves through `data`, the part of the file's `size` bytes that was fetched."""

    __slots__ = ("_fetch", "_strings_left", "data", "name", "position", "size")

    def __init__(self, name: str, size: int, fetch: Fetch) -> None:
        self.name = name
        self.size = size
        self.data = bytearray()
        self.position = 0
        self._fetch = fetch
        self._strings_left = MAX_STRINGS

    def error(self, what: str, at: int | None = None, hint: str = "") -> CheckpointError:
        """What is wrong, with the file and the offset (by default where the cursor stands)."""
        offset = self.position if at is None else at
        return CheckpointError(
            f"{self.name}: {what} (at byte {offset})",
            hint=hint or "the file is damaged or incomplete: download or copy it again",
        )

    def take(self, count: int) -> int:
        """Moves over `count` bytes, which are in `data` then; returns where they begin."""
        start = self.position
        end = start + count
        if end > len(self.data):
            self.reach(end, start)
        self.position = end
        return start

    def reach(self, end: int, start: int) -> None:
        """Fetches the file up to `end`, which a value at `start` asks for."""
        if end > self.size:
            raise self.error(
                f"{end - start} bytes are wanted where {self.size - start} remain", start
            )
        if end > MAX_HEADER_BYTES:
            raise self.error(f"the header is longer than {MAX_HEADER_BYTES} bytes", start)
        have = len(self.data)
        if end > have:
            aim = min(max(end, have + max(have // 2, _FIRST_BYTES)), self.size)
            self.data += self._fetch(have, aim - have)
        if end > len(self.data):
            raise self.error(f"the file ends where {self.size} bytes were promised", start)

    def u32(self) -> int:
        value: int = U32(self.data, self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = U64(self.data, self.take(8))[0]
        return value

    def check_room(self, what: str, count: int, least_bytes: int) -> None:
        """Raises unless `count` things of at least so many bytes each can follow."""
        left = self.size - self.position
        if count * least_bytes > left:
            raise self.error(f"{count} {what} are announced where {left} bytes remain")

    def identifier(self, what: str) -> str:
        """A name, with its length before it; neither empty nor longer than GGUF lets it be."""
        at = self.position
        length = self.u64()
        if not 0 < length <= MAX_NAME_BYTES:
            raise self.error(f"{what} is announced with {length} bytes", at)
        start = self.take(length)
        return self._decoded(start, start + length, what)

    def skip_strings(self, count: int, what: str) -> None:
        """Moves over an array of strings; each is UTF-8 when this returns."""
        self.check_room("strings", count, 8)
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.error(f"the file holds more than {MAX_STRINGS} strings")
        data, position = self.data, self.position
        for _ in range(count):
            start = position + 8
            if start > len(data):
                self.reach(start, position)
            length = U64(data, position)[0]
            end = start + length
            if end > len(data):
                if length > MAX_STRING_BYTES:
                    raise self.error(f"{what} is announced with {length} bytes", position)
                self.reach(end, position)
            try:
                data[start:end].decode()
            except UnicodeDecodeError:
                self._decoded(start, end, what)
            position = end
        self.position = position

    def _decoded(self, start: int, end: int, what: str) -> str:
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not valid UTF-8", start + error.start) from None
