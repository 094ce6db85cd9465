import importlib.util
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "write_cli_docs.py"


def test_the_page_of_the_command_line_is_its_help(monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("write_cli_docs", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    # neither colour nor the terminal's width may change what is written
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert tool.PATH.read_text(encoding="utf-8") == tool.cli_docs(), (
        "docs/cli.md is old: run python tools/write_cli_docs.py"
    )
