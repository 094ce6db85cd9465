"""What importing the package brings in, and what it offers; each import in a Python of its own."""

import subprocess
import sys

import pytest

import expertly

PUBLIC = [
    "Duplication",
    "Engine",
    "ExpertlyError",
    "Piece",
    "Sampling",
    "Upcycling",
    "load",
    "merge",
    "plan",
    "plug_into_transformers",
    "save",
    "upcycle",
]
HEAVY = ["torch", "numpy", "transformers", "tokenizers", "huggingface_hub", "rich"]


def fresh_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def import_seconds() -> float:
    """What `import expertly` took by the interpreter's own account, all it imports included."""
    report = fresh_python("-X", "importtime", "-c", "import expertly").stderr
    line = next(line for line in report.splitlines() if line.endswith("| expertly"))
    return int(line.split("|")[1]) / 1e6


def test_the_public_names_are_these_and_no_others() -> None:
    assert sorted(expertly.__all__) == PUBLIC
    assert sorted(dir(expertly)) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there_when_asked_for(name: str) -> None:
    assert callable(getattr(expertly, name))


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'expertly' has no attribute 'lode'"):
        _ = expertly.lode


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = f"import sys, expertly; print([m for m in {HEAVY} if m in sys.modules])"
    assert fresh_python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["errors", "config", "families", "planner"])
def test_arithmetic_about_models_needs_no_torch(module: str) -> None:
    banned = ["torch", "numpy", "transformers"]
    code = f"import sys, expertly.{module}; print([m for m in {banned} if m in sys.modules])"
    assert fresh_python("-c", code).stdout.strip() == "[]"


def test_planning_by_the_public_name_needs_no_torch() -> None:
    code = "import sys, expertly; expertly.plan; print('torch' in sys.modules)"
    assert fresh_python("-c", code).stdout.strip() == "False"


def test_help_on_the_command_line_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from expertly.cli import main\n"
        "sys.argv = ['expertly', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    assert fresh_python("-c", code).stdout.splitlines()[-1] == "False"


def test_importing_the_package_takes_under_a_tenth_of_a_second() -> None:
    # the best of five: a busy machine slows some of them, never speeds one up
    assert min(import_seconds() for _ in range(5)) < 0.1
