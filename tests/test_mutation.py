"""The tool that breaks the package on purpose: which changes it makes, and which it never makes."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "tools" / "mutation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutation = load_tool()


def changed(source: str) -> set[str]:
    """Every mutant of a source, in the plainest spelling."""
    return {ast.unparse(ast.parse(m.apply(source))) for m in mutation.mutants(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("a is not b", {"a is b"}),
        ("a in b", {"a not in b"}),
        ("a == b != c", {"a != b != c", "a == b == c"}),
        ("a + b", {"a - b"}),
        ("a // b", {"a * b"}),
        ("a and b", {"a or b"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("x = 7", {"x = 8", "x = 6"}),
        ("x = True", {"x = False"}),
        ("x = 1.5", {"x = 4.0"}),
        ("x = 'key'", {"x = 'key_'"}),
        ("x = a if b else c", {"x = a if not b else c"}),
        ("f(a, b)", {"f(b, a)", "pass"}),
        ("x += a", {"pass"}),
        ("a.b = c", {"pass"}),
        ("raise error", {"pass"}),
        ("if a:\n    b", {"if not a:\n    b"}),
        ("while a:\n    break", {"while not a:\n    break", "while a:\n    continue"}),
        ("[a for a in b if c]", {"[a for a in b if not c]"}),
        ("def f():\n    return a", {"def f():\n    return None"}),
    ],
)
def test_each_kind_of_change_is_made(source: str, expected: set[str]) -> None:
    assert changed(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A module."""',
        "import a.b",
        "from a import b",
        "def f(a: int | None) -> str | None:\n    pass",
        "x: tuple[int, 'A'] = y",
        "@dataclass(frozen=True)\nclass A:\n    pass",
        "assert a > 0, 'text'",
        "x = f'{a + 1} of 2'",
        "_require(a, 'text')",
        "Names = Literal['a', 'b']",
        "Pair = A | None",
        "__all__ = ['a']",
        "if TYPE_CHECKING:\n    x = 1",
        "def f():\n    return None",
        "max(a, b)",
        "f(*a, b)",
    ],
)
def test_what_only_people_and_type_checkers_read_is_left_alone(source: str) -> None:
    assert changed(source) - {"pass"} == set()


def test_only_the_words_of_an_error_are_left_alone_not_its_condition() -> None:
    assert "_require(a <= 0, 'text')" in changed("_require(a < 0, 'text')")
    assert "pass" in changed("raise InputError(f'{a} is 1', hint='use 2')")
    assert len(changed("raise InputError(f'{a} is 1', hint='use 2')")) == 1


def test_columns_are_counted_in_characters_beyond_ascii_too() -> None:
    assert "x = 'é' + (2)" in {m.apply("x = 'é' + 1") for m in mutation.mutants("x = 'é' + 1")}


def test_every_mutant_of_real_modules_parses_and_differs() -> None:
    for path in sorted((ROOT / "src" / "expertly" / "mixture").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        made = [m.apply(source) for m in mutation.mutants(source)]
        assert len(set(made)) == len(made)
        assert source not in made
        for text in made:
            ast.parse(text)
