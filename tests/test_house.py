"""The shape of the code: sizes, docstrings, and what must not appear in it."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "expertly"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "__import__",
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.unsafe_load",
    "os.system",
    "os.popen",
    "importlib.util.spec_from_file_location",
}
# beside our own tree: ways to leave, and what a chat template raises inside its sandbox
OTHER_RAISES = {"typer.Exit", "SystemExit", "KeyboardInterrupt", "TemplateError", "SecurityError"}
# what the language itself asks of __getattr__, __getitem__ and their like
PROTOCOL_RAISES = {"AttributeError", "KeyError", "IndexError", "TypeError"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def nodes(kind: type | tuple[type, ...]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind in the package, with where it stands."""
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, kind):
                line = getattr(node, "lineno", 0)
                yield f"{path.relative_to(ROOT)}:{line}", node


def dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute of an attribute of a name, else an empty string."""
    if isinstance(node, ast.Attribute):
        value = dotted(node.value)
        return f"{value}.{node.attr}" if value else ""
    return node.id if isinstance(node, ast.Name) else ""


def forbidden_calls(tree: ast.AST) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [dotted(call.func) for call in calls if dotted(call.func) in FORBIDDEN_CALLS]
    keywords = [key for call in calls for key in call.keywords]
    unpickling = [key.arg for key in keywords if key.arg == "allow_pickle"]
    shells = [key.arg for key in keywords if key.arg == "shell"]
    return [*named, *map(str, [*unpickling, *shells])]


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def our_errors() -> set[str]:
    classes = (n for n in tree_of(PACKAGE / "errors.py").body if isinstance(n, ast.ClassDef))
    return {node.name for node in classes}


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Every text file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_no_file_is_longer_than_500_lines() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {str(path): n for path, n in lines.items() if n > MAX_FILE_LINES}


def test_no_function_is_longer_than_60_lines() -> None:
    long = {}
    for where, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef)):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            long[where] = (node.name, length)
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    assert not [str(path) for path in MODULES if not ast.get_docstring(tree_of(path))]


def test_module_docstrings_keep_to_a_few_lines() -> None:
    # errors.py draws its tree there
    docs = {path: ast.get_docstring(tree_of(path)) or "" for path in MODULES}
    assert not [str(p) for p, doc in docs.items() if len(doc.splitlines()) > 12]


def test_nothing_unpickles_evaluates_or_starts_a_shell() -> None:
    found = {str(path): forbidden_calls(tree_of(path)) for path in MODULES}
    assert not {path: calls for path, calls in found.items() if calls}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.save(x, path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(file)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_check_for_forbidden_calls_sees_each_of_them(line: str) -> None:
    assert len(forbidden_calls(ast.parse(f"def f():\n    return {line}"))) == 1


def test_the_check_for_forbidden_calls_leaves_harmless_ones_alone() -> None:
    assert (
        forbidden_calls(ast.parse("model.eval(); np.load(path); safetensors.torch.load(x)")) == []
    )


def test_no_module_imports_an_unpickler_or_the_oracle() -> None:
    banned = {*UNPICKLERS, "transformers"}
    found = {str(path.relative_to(PACKAGE)): imported(tree_of(path)) & banned for path in MODULES}
    # the plug offers our experts to its models, when it is called
    assert found.pop("plug/theirs.py") == {"transformers"}
    assert not {path: names for path, names in found.items() if names}


def raised(function: ast.AST) -> Iterator[str]:
    """Names of the classes that a function raises."""
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            call = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = dotted(call)
            # a lower-case name is a caught error, or a function that makes one
            if name.rpartition(".")[2].lstrip("_")[:1].isupper():
                yield name


def test_errors_for_users_come_from_our_own_tree() -> None:
    allowed = our_errors() | OTHER_RAISES
    strange = []
    for where, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef)):
        is_protocol = getattr(node, "name", "").startswith("__")
        known = allowed | PROTOCOL_RAISES if is_protocol else allowed
        strange += [(where, name) for name in raised(node) if name not in known]
    assert strange == []


@pytest.mark.parametrize("line", ["raise ValueError('x')", "raise Exception", "raise a.B(1)"])
def test_the_check_for_strange_errors_sees_each_of_them(line: str) -> None:
    (name,) = raised(ast.parse(f"def f():\n    {line}"))
    assert name not in our_errors() | OTHER_RAISES


def test_no_function_rebinds_a_global() -> None:
    assert not [where for where, _ in nodes(ast.Global)]


def test_no_module_keeps_a_mutable_value_under_a_lower_case_name() -> None:
    kept = []
    for path in MODULES:
        for node in tree_of(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(getattr(node, "value", None), ast.List | ast.Dict | ast.Set):
                names = [t.id for t in targets if isinstance(t, ast.Name)]
                kept += [(str(path), n) for n in names if n != n.upper() and n != "__all__"]
    assert not kept


def test_no_environment_variable_is_read_below_the_command_line() -> None:
    found = [
        where
        for where, node in nodes((ast.Attribute, ast.Name))
        if dotted(node) in {"os.environ", "os.getenv", "environ", "getenv"}  # type: ignore[arg-type]
    ]
    assert [where for where in found if "/cli/" not in where] == []


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    # in pieces, so that this file passes too
    places = re.compile(r"(?<![\w.])/(?:" + "|".join(["wo" + "rk", "ro" + "ot"]) + r")(?:/|\b)")
    aside = re.compile(r"\.\./sha" + r"red|\.lib" + "rary/")
    found = [n for n, text in tracked_texts() if places.search(text) or aside.search(text)]
    assert not found


def test_no_file_leaves_a_note_to_do_something_later() -> None:
    note = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b")
    assert not [name for name, text in tracked_texts() if note.search(text)]


def test_every_test_is_named_by_a_sentence() -> None:
    short = []
    for path in TESTS:
        for node in ast.walk(tree_of(path)):
            is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            if is_test and len(node.name.split("_")) < 4:
                short.append(f"{path.name}: {node.name}")
    assert not short


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in TESTS]
    assert sorted(set(names)) == sorted(names)


def test_every_folder_and_module_has_its_tests() -> None:
    names = {p.name if p.is_dir() else p.stem for p in PACKAGE.iterdir()} - {"__init__", "py"}
    names = {name for name in names if not name.startswith((".", "__"))}
    have = {path.relative_to(ROOT / "tests").parts[0] for path in TESTS}
    alone = {name for name in names if (PACKAGE / f"{name}.py").exists()}
    without = {n for n in names - alone if n not in have and (PACKAGE / n / "__init__.py").exists()}
    without |= {n for n in alone if not any(part.startswith((n, f"test_{n}")) for part in have)}
    assert not without


def test_there_are_four_lines_of_tests_to_five_of_code() -> None:
    def lines(paths: list[Path]) -> int:
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)

    assert lines(sorted((ROOT / "tests").rglob("*.py"))) >= 0.8 * lines(MODULES)
