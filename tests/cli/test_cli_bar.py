import pytest

from expertly.cli.bar import bar


def test_without_a_terminal_a_bar_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("packing") as progress:
        progress(1, 2)
        progress(2, 2)
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out == ""
