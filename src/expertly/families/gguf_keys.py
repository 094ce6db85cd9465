"""Reads a GGUF file's metadata key by key and remembers which keys had a say."""

import math
from collections.abc import Mapping
from typing import Any

from expertly.errors import ConfigError

# said of a model, but nothing that its logits depend on, or said again by its tensors
_WITHOUT_MEANING = (
    "vocab_size",
    "rope.scaling.finetuned",
    "tensor_data_layout",
)


class GgufKeys:
    """The keys of an architecture, each read once by its name without the prefix."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.arch: str = metadata.get("general.architecture", "")
        self._metadata = metadata
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._metadata.get(f"{self.arch}.{name}")

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number, 0 or more; an array that says it for each layer must say one thing."""
        found = self.get(name)
        if isinstance(found, list) and found and all(item == found[0] for item in found):
            found = found[0]
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 40:
            raise self.error(name, found, "a whole number")
        return found

    def number(self, name: str, default: float | None = None) -> float:
        found = self.get(name)
        if found is None and default is not None:
            return default
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if not is_number or not math.isfinite(found):
            raise self.error(name, found, "a number")
        return float(found)

    def must_be(self, name: str, *allowed: Any) -> None:
        found = self.get(name)
        if found not in allowed:
            raise self.error(name, found, " or ".join(repr(value) for value in allowed))

    def error(self, name: str, found: object, wanted: str) -> ConfigError:
        said = "is missing" if found is None else f"is {str(found)[:60]!r}"
        return ConfigError(
            f"{self.arch}.{name} {said}; wanted is {wanted}",
            hint="convert the model again with a current tool",
        )

    def finish(self) -> None:
        """Raises ConfigError for keys of the architecture that were not read."""
        prefix = f"{self.arch}."
        known = self._read.union(_WITHOUT_MEANING)
        left = sorted(
            key
            for key in self._metadata
            if key.startswith(prefix) and key[len(prefix) :] not in known
        )
        if left:
            raise ConfigError(
                f"the keys {', '.join(left[:5])} are not known for {self.arch}",
                hint="a newer kind of this architecture; this version cannot run it",
            )
