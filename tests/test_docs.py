"""The documents say what is so: letters, floors, dependencies, files."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "expertly"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# the log tells what was: files that are gone may be named there
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "log.md"})
TOP = {"src", "docs", "tests", "tools", "recipes", "benchmarks", "evidence", ".ci"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first_cells(page: str, column: int = 1) -> list[str]:
    """What stands between backticks in one column of a page's tables, row by row."""
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")]
    cells = [row[column].strip() for row in rows if len(row) > column]
    return [cell.strip("`") for cell in cells if cell.startswith("`")]


def suffixes() -> dict[str, str]:
    """Shape suffixes of the names in the package, each with a name that has it."""
    names = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"\b[a-z]\w*_[A-Z][A-Z0-9]*\b", path.read_text(encoding="utf-8"))
    }
    return {name.rpartition("_")[2]: name for name in names}


def test_every_letter_of_a_shape_is_in_the_legend() -> None:
    legend = set(first_cells(read("docs/shapes.md")))
    assert len(suffixes()) > 20
    assert {name for suffix, name in suffixes().items() if set(suffix) - legend} == set()


def test_every_letter_of_the_legend_is_used_and_explained_once() -> None:
    legend = first_cells(read("docs/shapes.md"))
    used = set("".join(suffixes()))
    assert len(legend) == len(set(legend))
    # layers are counted, never a dimension yet
    assert set(legend) - used <= {"L"}


def test_the_floors_of_the_document_are_those_that_are_checked() -> None:
    contract = next(
        c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["name"] == "floors"
    )
    checked = [set(map(str.strip, layer.split("|"))) for layer in contract["layers"]]
    folders = first_cells(read("docs/floors.md"), column=2)
    rows = [line.split("|") for line in read("docs/floors.md").splitlines()]
    numbers = [int(row[1]) for row in rows if len(row) > 2 and row[1].strip().isdigit()]
    told = [
        {folder for number, folder in zip(numbers, folders, strict=True) if number == floor}
        for floor in sorted(set(numbers), reverse=True)
    ]
    assert told == checked


def test_every_folder_of_the_package_has_a_floor() -> None:
    built = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    built |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert built == set(first_cells(read("docs/floors.md"), column=2))


def test_every_dependency_has_its_reason() -> None:
    project = PROJECT["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = [re.split(r"[<>=\[ ]", item)[0] for item in named]
    assert sorted(first_cells(read("docs/dependencies.md"))) == sorted(wanted)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_documents_speak_only_of_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    quoted = re.findall(r"`([\w./-]+)`", text)
    paths = [item for item in quoted if item.split("/")[0] in TOP and "/" in item]
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [item for item in paths if not (ROOT / item).exists()]
    missing += [item for item in linked if not (page.parent / item).exists()]
    assert missing == []


def test_the_licence_is_the_one_that_the_project_declares() -> None:
    text = read("LICENSE")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert all((ROOT / name).is_file() for name in PROJECT["project"]["license-files"])


def test_the_version_is_written_the_same_in_both_places() -> None:
    assert f'__version__ = "{PROJECT["project"]["version"]}"' in read("src/expertly/__init__.py")
