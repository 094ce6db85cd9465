import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from saved_model import save_small

from expertly.checkpoint import load
from expertly.cli import main, show
from expertly.cli.prompting import DEFAULT_PROMPT
from expertly.engine import Engine, Sampling
from expertly.store.trace import read_trace

GREEDY = ["--temperature", "0", "--max-tokens", "12"]
SAMPLING = Sampling(temperature=0.0, max_tokens=12)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Standard input and output as terminals; the lines are typed one after another."""

    def put(*lines: str | type[BaseException]) -> Terminal:
        out, left = Terminal(), iter(lines)

        def type_line(prompt: str = "") -> str:
            out.write(prompt)
            line = next(left, EOFError)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("sys.stdin", Terminal())
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("builtins.input", type_line)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return out

    return put


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The small model in the place of the bundled one."""
    # the package's name `locate` is its function
    module = sys.modules["expertly.checkpoint.locating"]
    monkeypatch.setattr(module, "bundled", lambda: folder)


def written(folder: Path, prompt: object) -> str:
    with Engine(load(folder)) as engine:
        return engine.generate(prompt, SAMPLING).text


def test_a_prompt_is_continued(folder: Path, capsys, pace) -> None:
    assert main(["run", str(folder), "Hello", *GREEDY]) == 0
    said = capsys.readouterr()
    assert said.out == "Hello" + written(folder, "Hello") + "\n"
    assert pace.fullmatch(said.err.strip())


def test_a_single_text_is_a_prompt_for_the_bundled_model(folder, bundled, capsys) -> None:
    assert main(["run", "Hello", *GREEDY]) == 0
    assert capsys.readouterr().out == "Hello" + written(folder, "Hello") + "\n"


def test_without_arguments_and_terminal_the_bundled_model_writes(
    folder, bundled, no_input, capsys
) -> None:
    assert main(["run", *GREEDY]) == 0
    assert capsys.readouterr().out == DEFAULT_PROMPT + written(folder, DEFAULT_PROMPT) + "\n"


def test_make_run_shows_experts_without_a_terminal(folder, bundled, no_input, capsys) -> None:
    assert main(["run", "--show-experts", "--max-tokens", "60", "--seed", "1"]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out
    lines = said.out.split("\n")
    assert "2 mixture layers" in lines[0] and "layer 0" in lines[1]
    assert sum("%" in line for line in lines) >= 20
    assert DEFAULT_PROMPT in said.out and "strongest expert of most tokens" in said.out


def test_make_run_on_a_terminal_writes_as_well(folder, bundled, terminal, capsys) -> None:
    out = terminal()
    assert main(["run", "--show-experts", *GREEDY]) == 0
    assert DEFAULT_PROMPT in out.getvalue() and "\x1b[30;48;5;" in out.getvalue()


def test_no_color_is_heard(folder, terminal, monkeypatch) -> None:
    out = terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["run", str(folder), "Hi", "--show-experts", *GREEDY]) == 0
    assert "\x1b" not in out.getvalue() and "layer 1" in out.getvalue()


def test_piped_text_is_the_prompt(folder, monkeypatch, capsys) -> None:
    for words in ([], ["-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))
        assert main(["run", str(folder), *words, *GREEDY]) == 0
        assert capsys.readouterr().out == "Hello" + written(folder, "Hello") + "\n"


def test_an_open_pipe_that_says_nothing_is_not_waited_for(folder, monkeypatch, capsys) -> None:
    reader, writer = os.pipe()
    with open(reader) as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert main(["run", str(folder), *GREEDY]) == 2
        assert "error: there is no prompt" in capsys.readouterr().err
        os.write(writer, "é?".encode())
        os.close(writer)
        assert main(["run", str(folder), *GREEDY]) == 0
        assert capsys.readouterr().out.startswith("é?")


@pytest.mark.parametrize("stdin", [None, io.StringIO("")])
def test_a_model_without_a_prompt_says_so(folder, stdin, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["run", str(folder)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: there is no prompt" and "standard input" in second


def test_input_that_is_not_utf8_is_named(folder, monkeypatch, capsys) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    assert main(["run", str(folder), "-"]) == 2
    assert "not UTF-8 at byte 2" in capsys.readouterr().err


def test_json_is_one_object_a_token(folder, capsys) -> None:
    assert main(["run", str(folder), "Hello", "--json", *GREEDY]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(values) == 12
    assert "".join(value["text"] for value in values) == written(folder, "Hello")
    assert [value["finish_reason"] for value in values] == [None] * 11 + ["length"]
    assert all(value.keys() == {"text", "token_id", "finish_reason"} for value in values)


def test_json_with_experts_has_every_layer(folder, capsys) -> None:
    assert main(["run", str(folder), "Hello", "--json", "--show-experts", *GREEDY]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with Engine(load(folder), routings=True) as engine:
        pieces = list(engine.stream("Hello", SAMPLING))
    for value, piece in zip(values, pieces, strict=True):
        assert [layer["layer"] for layer in value["experts"]] == [0, 1]
        for layer, routing in zip(value["experts"], piece.routings, strict=True):
            counts = [layer["experts"].count(expert) for expert in range(5)]
            assert counts == routing.counts_E.tolist()
            assert sorted(layer["weights"], reverse=True) == layer["weights"]
            assert sum(layer["weights"]) == pytest.approx(1.0, abs=1e-5)


def test_lines_of_experts_and_the_text_agree(folder, capsys) -> None:
    assert main(["run", str(folder), "Hello", "--show-experts", *GREEDY]) == 0
    out = capsys.readouterr().out
    assert f"\n\nHello{show.safe(written(folder, 'Hello'))}\n\n" in out
    assert out.count("%") == 12 * 2


def test_a_dense_model_has_no_experts_to_show(tmp_path, capsys) -> None:
    dense = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    folder = tmp_path / "dense"
    mixture_keys = ("num_local_experts", "num_experts_per_tok")
    save_small(folder, drop=mixture_keys, **dense)
    assert main(["run", str(folder), "x", "--show-experts"]) == 2
    assert "a llama has no mixture layers" in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_named(folder, tmp_path, capsys) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert main(["run", str(tmp_path), "x"]) == 2
    assert "no tokenizer.json" in capsys.readouterr().err


def test_options_reach_the_engine(folder, capsys) -> None:
    def out(*options: str) -> str:
        assert main(["run", str(folder), "Hello", "--max-tokens", "20", *options]) == 0
        return capsys.readouterr().out

    assert out("--seed", "1") == out("--seed", "1") != out("--seed", "2")
    greedy = out("--temperature", "0")
    assert greedy == out("--top-k", "1") == out("--top-p", "0") == out("--min-p", "1")
    assert out("--temperature", "0", "--repetition-penalty", "5") != greedy
    cut = out("--temperature", "0", "--stop", greedy[8], "--stop", "never")
    assert cut == greedy[: greedy.index(greedy[8], 5)] + "\n"
    assert out("--temperature", "0", "--threads", "1") == greedy
    assert len(out("--temperature", "0", "--dtype", "bfloat16")) > 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--top-p", "nan"], "top_p is nan"),
        (["--stop", ""], "stop is ('',)"),
        (["--system", "x", "--raw"], "--system with --raw"),
        (["--chat"], "no chat template"),
        (["--threads", "0"], "--threads"),
        (["--dtype", "int3"], "--dtype"),
    ],
)
def test_options_that_make_no_sense_are_named(folder, options, words, capsys) -> None:
    assert main(["run", str(folder), "x", *options]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and words in first and second.startswith("hint: ")


def test_a_prompt_beyond_the_context_is_counted(folder, capsys) -> None:
    assert main(["run", str(folder), "x" * 65]) == 2
    assert "the prompt has 65 tokens, the model's context 64" in capsys.readouterr().err


def test_an_empty_prompt_is_refused(folder, capsys) -> None:
    assert main(["run", str(folder), ""]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_model_that_does_not_exist_is_named(capsys) -> None:
    assert main(["run", "./no/such/model"]) == 2
    assert "error: './no/such/model' does not exist" in capsys.readouterr().err


def test_a_chat_prompt_goes_through_the_template(chat_folder, capsys) -> None:
    expected = written(chat_folder, "s:Be brief|u:Hello|a:")
    for options in (["--system", "Be brief"], ["--system", "Be brief", "--chat"]):
        assert main(["run", str(chat_folder), "Hello", *options, *GREEDY]) == 0
        assert capsys.readouterr().out == expected + "\n"


def test_a_raw_prompt_of_a_chat_model_is_noted(chat_folder, capsys) -> None:
    assert main(["run", str(chat_folder), "Hello", *GREEDY]) == 0
    assert "--chat" in capsys.readouterr().err
    assert main(["run", str(chat_folder), "Hello", "--raw", *GREEDY]) == 0
    assert "--chat" not in capsys.readouterr().err


def test_a_conversation_remembers_and_forgets(chat_folder, terminal) -> None:
    out = terminal("Hi", "", "And?", "/reset", "Hi")
    assert main(["run", str(chat_folder), *GREEDY]) == 0
    first = written(chat_folder, "u:Hi|a:")
    second = written(chat_folder, f"u:Hi|a:{first}|u:And?|a:")
    shown = [show.safe(text) for text in (first, second, first)]
    assert out.getvalue() == "> {}\n> > {}\n> > {}\n> \n".format(*shown)


def test_without_a_template_each_line_is_continued(folder, terminal, capsys) -> None:
    out = terminal("Hello", "Hello")
    assert main(["run", str(folder), *GREEDY]) == 0
    text = show.safe("Hello" + written(folder, "Hello"))
    assert text.removeprefix("Hello") in out.getvalue()
    assert out.getvalue().count(text.removeprefix("Hello")) == 2
    assert "no chat" in capsys.readouterr().err


def test_an_interrupt_stops_the_answer_not_the_conversation(
    chat_folder, terminal, monkeypatch, capsys
) -> None:
    out = terminal("Hi", KeyboardInterrupt, "Hi")
    real, calls = Engine.stream, []

    def stream(self, prompt, sampling):
        calls.append(prompt)
        for number, piece in enumerate(real(self, prompt, sampling)):
            if len(calls) == 1 and number == 3:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Engine, "stream", stream)
    assert main(["run", str(chat_folder), *GREEDY]) == 0
    said = calls[1][1]["content"]
    assert [message["role"] for message in calls[1]] == ["user", "assistant", "user"]
    assert written(chat_folder, "u:Hi|a:").startswith(said) and said
    assert "stopped" in capsys.readouterr().err
    assert out.getvalue().count(">") >= 4


def test_a_prompt_too_long_for_the_chat_is_forgotten(chat_folder, terminal, capsys) -> None:
    out = terminal("x" * 80, "Hi")
    assert main(["run", str(chat_folder), *GREEDY]) == 0
    assert "the model's context 64" in capsys.readouterr().err
    assert show.safe(written(chat_folder, "u:Hi|a:")) in out.getvalue()


def test_text_on_a_terminal_cannot_steer_it(folder, terminal) -> None:
    out = terminal()
    assert main(["run", str(folder), "\x1b[2J", *GREEDY]) == 0
    assert out.getvalue().startswith("\\x1b[2J") and "\x1b" not in out.getvalue()


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> list[str]:
    """A command that writes tokens for longer than any test takes."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    save_small(folder, max_position_embeddings=10**6)
    options = ["--json", "--max-tokens", "1000000", "--temperature", "0"]
    return [sys.executable, "-m", "expertly", "run", str(folder), "x", *options]


def test_a_reader_that_goes_away_ends_a_run_quietly(endless, pace) -> None:
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert b"token_id" in run.stdout.readline()
        run.stdout.close()
        assert pace.fullmatch(run.stderr.read().decode().strip())
        assert run.wait() == 141


def test_an_interrupt_ends_a_run_with_its_pace_and_130(endless, pace) -> None:
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert b"token_id" in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        out, errors = run.communicate()
        assert run.returncode == 130
        assert all(json.loads(line) for line in out.splitlines())
        assert pace.fullmatch(errors.decode().strip())


def test_a_trace_does_not_take_the_place_of_a_file(tmp_path, capsys) -> None:
    there = tmp_path / "notes.txt"
    there.write_text("mine")
    assert main(["run", "", "Hello", "--max-tokens", "2", "--trace", str(there)]) == 2
    assert there.read_text() == "mine"
    shown = capsys.readouterr().err.splitlines()
    assert shown[-2:] == [
        f"error: {there} exists already",
        "hint: give another name or remove that file",
    ]


def test_an_error_leaves_no_trace(tmp_path) -> None:
    path = tmp_path / "new.parquet"
    assert main(["run", "", "", "--trace", str(path)]) == 2
    assert not path.exists()


def test_a_trace_is_there_after_a_run(tmp_path) -> None:
    path = tmp_path / "new.parquet"
    assert main(["run", "", "Hello", "--max-tokens", "2", "--trace", str(path)]) == 0
    assert read_trace(path).num_tokens > 0
