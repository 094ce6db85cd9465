"""`expertly run --device`: what is refused, and what is said at the end."""

import pytest
import torch

from expertly.cli import main

GREEDY = ["--temperature", "0", "--max-tokens", "6", "--raw", "--threads", "1"]


def run(*options: str) -> int:
    return main(["run", "", "Once upon a time", *GREEDY, *options])


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is torch's CPU."""
    monkeypatch.setattr("expertly.checkpoint.loading.device_of", lambda name: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so_and_one_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--device", "cuda") != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 2 and "no GPU" in error[0] and error[1].startswith("hint: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "tpu"], "device 'tpu' is not known"),
        (["--device-memory", "1GB"], "no device"),
        (
            [
                "--device",
                "cuda",
                "--memory",
                "4GB",
                "--lower",
                "x.gguf",
                "--approximate",
                "lower:1",
            ],
            "a lower copy of experts",
        ),
        (["--device", "cuda", "--dtype", "float32"], "--device with --dtype float32"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options) != 0
    assert said in capsys.readouterr().err


def test_the_note_at_the_end_says_who_computed_what_was_chosen(
    pretended: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--device", "cuda", "--device-memory", "3MB") == 0
    told = capsys.readouterr().err
    assert "device 3 MB for 40 of 128 experts" in told
    assert "40 experts in its memory" in told and "computed there" in told
    assert "on the processor" in told and "MB copied" in told


def test_without_the_option_nothing_is_said_of_a_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 0
    assert "device" not in capsys.readouterr().err
