"""The page about transformers is what the installed one says, and one command prints its table."""

import importlib.util
import sys
from pathlib import Path

from expertly.plug import __main__, theirs

TOOL = Path(__file__).parents[2] / "tools" / "write_transformers_docs.py"


def test_the_page_about_transformers_is_current() -> None:
    spec = importlib.util.spec_from_file_location("write_transformers_docs", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PATH.read_text(encoding="utf-8") == tool.transformers_docs(), (
        "docs/transformers.md is old: run python tools/write_transformers_docs.py"
    )


def test_the_command_prints_the_table_and_ends_well(capsys, monkeypatch) -> None:
    mixtral = theirs.Declared("mixtral", "MixtralExperts")
    monkeypatch.setattr(theirs, "declared", lambda: [mixtral])
    assert __main__.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "| family | experts | activation | runs |",
        "| --- | --- | --- | --- |",
        "| `mixtral` | `MixtralExperts` | silu | yes |",
    ]


def test_without_transformers_the_command_says_what_to_install(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.integrations.moe", None)
    assert __main__.main() == 2
    told = capsys.readouterr()
    assert told.out == "" and "error: no transformers" in told.err and "hint: pip" in told.err


def test_classes_are_found_by_their_decorator_without_importing_them(tmp_path, monkeypatch) -> None:
    package = tmp_path / "transformers"
    for family, source in {
        "plain": "@use_experts_implementation\nclass A: ...\nclass B: ...\n",
        "called": "@other\n@use_experts_implementation(has_bias=True)\nclass C: ...\n",
        "none": "class D: ...\n# use_experts_implementation\n",
        "unparsed": "no Python at all\n",
    }.items():
        (package / "models" / family).mkdir(parents=True)
        (package / "models" / family / f"modeling_{family}.py").write_text(source)
    library = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("transformers", None, origin="made")
    )
    library.__file__ = str(package / "__init__.py")
    monkeypatch.setattr(theirs, "_library", lambda: library)
    assert [(d.family, d.experts) for d in theirs.declared()] == [("called", "C"), ("plain", "A")]
