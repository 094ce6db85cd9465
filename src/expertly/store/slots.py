"""Which expert lies in which slot of an arena: numbers alone, no memory and no files."""

from expertly.store.policies import Key


class Slots:
    """A slot is free, or taken by one key. What is being read into it is taken already."""

    def __init__(self, count: int) -> None:
        assert count > 0
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._slot_of: dict[Key, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def __contains__(self, key: Key) -> bool:
        return key in self._slot_of

    def __getitem__(self, key: Key) -> int:
        return self._slot_of[key]

    def __len__(self) -> int:
        return len(self._slot_of)

    def take(self, key: Key) -> int:
        """A free slot for a key that has none."""
        assert key not in self._slot_of, key
        slot = self._free.pop()
        self._slot_of[key] = slot
        return slot

    def release(self, key: Key) -> None:
        self._free.append(self._slot_of.pop(key))
