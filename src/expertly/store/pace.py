"""How long some work takes, learned as it is done."""

# of an error, so much is taken over at once; more of the first few
_LEAST_GAIN = 0.2
# a pause of the machine is no measurement
_MOST_RATIO = 4.0
# at first: what one more row takes of what its expert takes
_ROW_SHARE = 1.0 / 16.0
# turns after which what was measured may not be so any more
_STALE_TURNS = 256


class Pace:
    """Seconds of work on experts: a share for each expert (its weights are read) and one for each
    row. Both are scaled to each measurement by their part in it, so neither ever gets negative."""

    def __init__(self) -> None:
        self._expert = self._row = 0.0
        self._idle = self._count = 0

    @property
    def is_known(self) -> bool:
        return self._expert > 0.0

    @property
    def is_stale(self) -> bool:
        """Worth a try, as nothing was measured for long."""
        return not self.is_known or self._idle >= _STALE_TURNS

    def seconds(self, experts: int, rows: int) -> float:
        """0 before the first measurement."""
        return self._expert * experts + self._row * rows

    def took(self, seconds: float, experts: int, rows: int) -> None:
        """So many experts, with so many rows together, took so long."""
        self._idle = 0
        if experts <= 0 or seconds <= 0.0:
            return
        expected, self._count = self.seconds(experts, rows), self._count + 1
        if expected <= 0.0:
            self._expert = seconds / (experts + _ROW_SHARE * rows)
            self._row = _ROW_SHARE * self._expert
            return
        error = min(max(seconds / expected, 1.0 / _MOST_RATIO), _MOST_RATIO) - 1.0
        share = self._expert * experts / expected
        gain = max(_LEAST_GAIN, 1.0 / self._count)
        self._expert *= 1.0 + gain * share * error
        self._row *= 1.0 + gain * (1.0 - share) * error

    def rest(self) -> None:
        """A turn has passed."""
        self._idle += 1
