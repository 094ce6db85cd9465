"""Stop strings: text is held back while it may still become one. Knows no tokens."""

from collections.abc import Sequence


class StopStrings:
    """`push` text as it comes; the answers joined never hold a stop string.

    A text stops where the first stop string is complete, whatever pieces it came in; of several
    that end at the same character the longest counts.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = sorted(stop, key=len, reverse=True)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """The text that can be shown; nothing once stopped."""
        if not self._stop:
            return text
        return "".join(self._push_one(character) for character in text)

    def flush(self) -> str:
        """What was held back, at the end of a text that did not stop."""
        text, self._held = self._held, ""
        return text

    def _push_one(self, character: str) -> str:
        if self.is_stopped:
            return ""
        text = self._held + character
        whole = next((stop for stop in self._stop if text.endswith(stop)), None)
        if whole is not None:
            self.is_stopped = True
            self._held = ""
            return text.removesuffix(whole)
        start = self._hold_from(text)
        self._held = text[start:]
        return text[:start]

    def _hold_from(self, text: str) -> int:
        for start in range(len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                return start
        return len(text)
