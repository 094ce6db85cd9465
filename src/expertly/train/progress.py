"""What a run shows on stderr: a bar where there is a terminal, else a line now and then."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS = 10.0
_RATE_SHARE = 0.05  # weight of the newest step in the moving rate


class Display:
    """Steps done, loss, tokens a second and time left. `close` it in the end."""

    def __init__(
        self,
        num_steps: int,
        step: int,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True)
        self._num_steps = num_steps
        self._clock = clock
        self._last_step_at = clock()
        self._last_line_at: float | None = None
        self._seconds_a_step: float | None = None
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=num_steps, completed=step)
            self._bar.start()

    def step(self, step: int, loss: float, tokens: int) -> None:
        """After a step on `tokens` tokens."""
        now = self._clock()
        taken, self._last_step_at = now - self._last_step_at, now
        before = taken if self._seconds_a_step is None else self._seconds_a_step
        self._seconds_a_step = before + _RATE_SHARE * (taken - before)
        rate = tokens / max(self._seconds_a_step, 1e-9)
        left = (self._num_steps - step) * self._seconds_a_step
        text = f"loss {loss:.3f}  {rate:,.0f} tokens/s  {duration(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif self._is_due(now) or step == self._num_steps:
            self._last_line_at = now
            self._print(f"step {step}/{self._num_steps}  {text}")

    def pause(self) -> None:
        """What took time since the last step was no step."""
        self._last_step_at = self._clock()

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"WARNING: {text}", style="bold red")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _is_due(self, now: float) -> bool:
        return self._last_line_at is None or now - self._last_line_at >= _PLAIN_SECONDS

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """3725 seconds are 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
