"""Token ids to text, one at a time, never a part of a character.

A decoder is used as a black box: the ids since a safe point are decoded anew at each push, and what
later ids can still change is held back. So the pieces join to the text of all ids at once.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

# what a decoder writes for bytes that are no character, or not yet one
_BROKEN = "�"


@dataclass(kw_only=True)
class StreamDecoder:
    """`push` each id, then `flush`: joined, their answers are `decode` of all ids.

    `silent_ids` are those that decode leaves out; `byte_ids` those of a byte-fallback decoder,
    which judges a whole run of bytes at once.
    """

    decode: Callable[[Sequence[int]], str]
    silent_ids: Collection[int] = frozenset()
    byte_ids: Collection[int] = frozenset()
    _ids: list[int] = field(default_factory=list)
    _written: int = 0  # characters of the window's text that were returned

    def push(self, token_id: int) -> str:
        if token_id in self.silent_ids:
            return ""
        self._ids.append(token_id)
        if token_id in self.byte_ids:
            return ""
        text = self.decode(self._ids)
        safe_text = text.removesuffix(_BROKEN)
        piece = safe_text[self._written :]
        self._written = max(self._written, len(safe_text))
        if safe_text == text:
            self._shrink(token_id)
        return piece

    def flush(self) -> str:
        """What was held back; the decoder is then as new."""
        piece = self.decode(self._ids)[self._written :]
        self._ids.clear()
        self._written = 0
        return piece

    def _shrink(self, last_id: int) -> None:
        # one visible token is context enough: decoders treat only the first one's spaces apart
        alone = self.decode([last_id])
        if alone.strip():
            self._ids = [last_id]
            self._written = len(alone)
