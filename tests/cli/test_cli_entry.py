import errno
import importlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer

import expertly
from expertly.cli import main, output, verbs
from expertly.errors import InputError

PYTHON = [sys.executable, "-m", "expertly"]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Puts a function in the place of `expertly plan`."""

    def put(function) -> None:
        module = type(sys)("expertly.cli.plan")
        module.command = function
        monkeypatch.setitem(sys.modules, "expertly.cli.plan", module)

    return put


def raising(error: BaseException):
    def command() -> None:
        """Raise."""
        raise error

    return command


def test_help_lists_every_verb_with_what_it_does(capsys) -> None:
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, what in verbs.VERBS.items():
        assert f" {name} {what}" in shown
    assert "completion" not in shown


@pytest.mark.parametrize("name", verbs.VERBS)
def test_the_line_of_a_verb_is_the_first_of_its_own_help(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"expertly {name} [OPTIONS]" in shown
    module = importlib.import_module(f"expertly.cli.{name}")
    assert module.command.__doc__.strip().partition("\n")[0] == verbs.VERBS[name]


# as numpy is imported there: an exception that comes amid it is lost
FAKE_TORCH = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))
except KeyboardInterrupt:
    pass
print("went on")
"""


@pytest.mark.parametrize("verb", ["run", "pack", "observe"])
def test_an_interrupt_amid_the_import_of_torch_ends_the_program(tmp_path, verb: str) -> None:
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*PYTHON, verb, "", str(tmp_path / "out")], env=environment, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--threads", "0"], "--threads 0: input should be greater than or equal to 1"),
        (["run", "--threads=two"], "--threads two: input should be a valid integer"),
        (["pack", "a", "b", "--max-tokens", "nan"], "--max-tokens nan: input should be a valid"),
        (["bench", "a", "--peer", "vllm"], "--peer vllm: 'vllm' is not one of 'llama.cpp'."),
        (["run", "--trace"], "hint: see `expertly run --help`"),
        (["run", "--nosuch"], "No such option: --nosuch"),
    ],
)
def test_an_option_that_is_wrong_is_told_with_its_value(arguments, said: str, capsys) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_command_line_runs_on_any_thread_and_leaves_interrupts_as_they_were(capsys) -> None:
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["--version"]).result() == 0
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_version_is_printed_alone(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"expertly {expertly.__version__}\n"


@pytest.mark.parametrize("name", ["--help", "--version", "run --help", "plan --help", "-h"])
def test_help_imports_no_torch(name: str) -> None:
    program = (
        "import sys; from expertly.cli import main\n"
        f"code = main({name.split()!r})\n"
        "assert code == 0 and 'torch' not in sys.modules, sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_help_imports_no_verb() -> None:
    program = (
        "import sys; from expertly.cli import main; main(['--help'])\n"
        f"assert not any('expertly.cli.' + v in sys.modules for v in {list(verbs.VERBS)!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_an_error_for_the_user_is_two_lines_and_code_2(verb, capsys) -> None:
    verb(raising(InputError("the thing is\n3", hint="make it 4")))
    assert main(["plan"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: the thing is 3\nhint: make it 4\n")


def test_a_fault_of_ours_is_code_1_and_asks_for_a_report(verb, capsys) -> None:
    verb(raising(KeyError("x")))
    assert main(["plan"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "internal error: KeyError: 'x'"
    assert "report" in second and "--traceback" in second


def test_a_traceback_is_shown_when_asked_for(verb, capsys) -> None:
    verb(raising(KeyError("x")))
    assert main(["--traceback", "plan"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), "/out/x: No space", "free"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), "f: Permission denied", "who"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), "reset by peer", "try again"),
        (MemoryError(), "not enough memory", "expertly plan MODEL"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 TB"), "8 TB", "bfloat16"),
    ],
)
def test_trouble_of_the_machine_is_the_users_to_mend(
    verb, capsys, error: Exception, words: str, hint: str
) -> None:
    verb(raising(error))
    assert main(["plan"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert words in first and hint in second


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_is_quiet(verb, capsys, error: BaseException) -> None:
    verb(raising(error))
    assert main(["plan"]) == 130
    assert capsys.readouterr().err == ""


def test_a_verb_may_choose_its_exit_code(verb) -> None:
    verb(raising(typer.Exit(7)))
    assert main(["plan"]) == 7


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["pln"], "Did you mean 'plan'?", "`expertly --help`"),
        (["--no-such"], "No such option: --no-such", "`expertly --help`"),
        ([], "Missing command", "`expertly --help`"),
        (["run", "--max-tokens", "many"], "--max-tokens many: ", "`expertly run --help`"),
        (["run", "--temprature", "1"], "--temperature", "`expertly run --help`"),
        (["run", "a", "b", "c"], "unexpected extra argument", "`expertly run --help`"),
    ],
)
def test_wrong_usage_has_the_same_form(arguments, words: str, hint: str, capsys) -> None:
    assert main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and words in first
    assert second.startswith("hint: ") and hint in second


def test_an_unexpected_word_cannot_steer_the_terminal(verb, capsys) -> None:
    verb(raising(InputError("bad \x1b[2J\x07 name", hint="x\r\ny")))
    assert main(["plan"]) == 2
    assert capsys.readouterr().err == "error: bad \\x1b[2J\\x07 name\nhint: x y\n"


def test_commands_cannot_be_added_from_outside() -> None:
    commands = verbs.group().commands
    assert list(commands) == list(verbs.VERBS) and len(commands) == len(verbs.VERBS)
    with pytest.raises(TypeError):
        commands["x"] = None
    with pytest.raises(TypeError):
        del commands["plan"]
    assert commands.get("x") is None


class Terminal:
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.has_colour(Terminal())
    with open(os.devnull) as stream:
        assert not output.has_colour(stream)
    monkeypatch.setenv("TERM", "dumb")
    assert not output.has_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.has_colour(Terminal())


def test_text_of_a_model_is_spelled_out_where_it_would_steer() -> None:
    assert output.safe("a\tb\n\x1b[31mé🙂\x9b") == "a\tb\n\\x1b[31mé🙂\\x9b"


def test_errors_are_red_on_a_terminal_only(monkeypatch, capsys) -> None:
    monkeypatch.setattr(output, "has_colour", lambda stream: True)
    assert output.print_error("error", "m", "h") == 2
    assert capsys.readouterr().err == "\x1b[1;31merror\x1b[0m: m\nhint: h\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path) -> None:
    program = (
        "import sys, types; from expertly.cli import main\n"
        "def command():\n"
        "    '''Print.'''\n"
        "    for i in range(10**6): print(i)\n"
        "sys.modules['expertly.cli.plan'] = types.SimpleNamespace(command=command)\n"
        "sys.exit(main(['plan']))\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"0\n"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == 141


def with_closed(stream: str) -> subprocess.CompletedProcess[str]:
    shell = f"exec {' '.join(PYTHON)} --version {stream}"
    return subprocess.run(["sh", "-c", shell], capture_output=True, text=True)


def test_a_closed_output_is_named() -> None:
    done = with_closed(">&-")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the standard output is closed",
        "hint: send it to a file, a pipe or /dev/null",
    ]


@pytest.mark.parametrize("stream", ["2>&-", "<&-"])
def test_other_closed_streams_are_only_silent(stream: str) -> None:
    done = with_closed(stream)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"expertly {expertly.__version__}\n"


def test_an_interrupt_while_the_program_is_read_is_quiet() -> None:
    program = (
        "import sys, builtins\n"
        "from expertly.cli import main\n"
        "read = builtins.__import__\n"
        "def interrupted(name, *more):\n"
        "    if name == 'expertly.cli.verbs': raise KeyboardInterrupt\n"
        "    return read(name, *more)\n"
        "builtins.__import__ = interrupted\n"
        "sys.exit(main(['plan']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_module_is_the_command() -> None:
    done = subprocess.run([*PYTHON, "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such command 'nonsense'")


def test_plan_imports_no_torch(folder) -> None:
    program = (
        "import sys; from expertly.cli import main\n"
        f"code = main(['plan', {str(folder)!r}, '--json'])\n"
        "assert code == 0 and not {'torch', 'numpy', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"total_params"' in done.stdout
