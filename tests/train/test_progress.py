import io

from rich.console import Console

from expertly.train.progress import Display, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def display(
    num_steps: int = 100, *, is_terminal: bool = False
) -> tuple[Display, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120)
    return Display(num_steps, 0, console=console, clock=clock), clock, out


def test_without_a_terminal_there_is_a_line_every_ten_seconds() -> None:
    shown, clock, out = display()
    for step in range(1, 26):
        clock.now += 1.0
        shown.step(step, 3.25, tokens=500)
    lines = out.getvalue().splitlines()
    assert lines == [
        "step 1/100  loss 3.250  500 tokens/s  0:01:39 left",
        "step 11/100  loss 3.250  500 tokens/s  0:01:29 left",
        "step 21/100  loss 3.250  500 tokens/s  0:01:19 left",
    ]


def test_the_last_step_is_always_shown() -> None:
    shown, clock, out = display(num_steps=3)
    for step in (1, 2, 3):
        clock.now += 0.5
        shown.step(step, 1.0, tokens=10)
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1/3", "3/3"]


def test_a_pause_is_not_counted_as_a_slow_step() -> None:
    shown, clock, out = display(num_steps=2)
    clock.now += 1
    shown.step(1, 1.0, tokens=100)
    clock.now += 1000
    shown.pause()
    clock.now += 1
    shown.step(2, 1.0, tokens=100)
    assert out.getvalue().splitlines()[-1] == "step 2/2  loss 1.000  100 tokens/s  0:00:00 left"


def test_warnings_say_so_without_colour_and_markup_is_left_alone() -> None:
    shown, _, out = display()
    shown.warn("layer 3 [bold]")
    shown.note("x" * 300)
    assert out.getvalue() == "WARNING: layer 3 [bold]\n" + "x" * 300 + "\n"


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    shown, clock, out = display(is_terminal=True)
    clock.now += 2
    shown.step(1, 3.25, tokens=500)
    shown.close()
    text = out.getvalue()
    assert "1/100" in text
    assert "loss 3.250  250 tokens/s  0:03:18 left" in text


def test_durations_have_hours_minutes_and_seconds() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]
