"""How many experts of a layer to come are read before they are asked for: as many as the disk has
time for that it would not use otherwise, as long as enough of them are then used."""

# weight of what was before in running means
_KEEP = 0.9
# below this share of reads that were used nothing is read ahead, but for a try now and then
_LEAST_PRECISION = 0.3
_TRY_EVERY = 64
# more than any layer chooses
_MOST = 1024
# one long pause says nothing of the layers to come
_MOST_GROWTH = 4.0


class Lookahead:
    """Told what the disk does, in seconds of one clock; knows no tensors and no files.

    A visit lasts from one layer's question to the question of a later one in the same step. Time in
    which nothing was read, and time that reading ahead took, is what may be spent on reading ahead.
    """

    def __init__(self) -> None:
        self.spare_seconds = 0.0  # a visit
        self.read_seconds = 0.0  # an expert
        self.precision = 1.0  # of experts read ahead, those that were used
        self._visit = 0.0
        self._layer = -1
        self._busy = 0.0
        self._busy_since: float | None = None
        self._demanded = self._ahead = 0
        self._visits = 0

    def allowed(self) -> int:
        """Experts that may be read ahead now."""
        if self.read_seconds <= 0.0:
            return 0
        if self.precision < _LEAST_PRECISION:
            return int(self._visits % _TRY_EVERY == 0)
        return round(min(_MOST, self.spare_seconds / self.read_seconds))

    def visit(self, now: float, layer: int) -> None:
        """A layer asks."""
        # between steps nobody knows what will be asked for: that time cannot be spent
        if 0 <= self._layer < layer:
            self._learn(now - self._visit, self._busy_until(now))
        self._visit, self._layer, self._busy = now, layer, 0.0
        if self._busy_since is not None:
            self._busy_since = now
        self._demanded = self._ahead = 0
        self._visits += 1

    def begin(self, now: float, *, is_ahead: bool) -> None:
        """An expert's read begins."""
        if self._busy_since is None:
            self._busy_since = now
        self._demanded += not is_ahead
        self._ahead += is_ahead

    def take_back(self) -> None:
        """A read ahead that had begun is not made after all."""
        self._ahead -= 1

    def end(self, at: float) -> None:
        """All reads that had begun are done."""
        if self._busy_since is not None:
            self._busy += max(0.0, at - self._busy_since)
            self._busy_since = None

    def used(self) -> None:
        self.precision = _KEEP * self.precision + (1 - _KEEP)

    def wasted(self) -> None:
        self.precision *= _KEEP

    def _busy_until(self, now: float) -> float:
        return self._busy + (now - self._busy_since if self._busy_since is not None else 0.0)

    def _learn(self, seconds: float, busy: float) -> None:
        count = self._demanded + self._ahead
        if count:
            self.read_seconds = self._mean(self.read_seconds, busy / count)
        spare = max(0.0, seconds - busy) + self._ahead * self.read_seconds
        most = _MOST_GROWTH * self.spare_seconds + self.read_seconds
        self.spare_seconds = self._mean(self.spare_seconds, min(spare, most))

    @staticmethod
    def _mean(before: float, now: float) -> float:
        return now if before <= 0.0 else _KEEP * before + (1 - _KEEP) * now
