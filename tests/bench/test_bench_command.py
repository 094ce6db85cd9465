import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import FakeModel

from expertly import _native
from expertly.bench import limits
from expertly.bench.limits import LIMITS
from expertly.cli import main

SMALL = ["--prefill", "4,2", "--decode", "0,3", "--batch", "1,2", "--pairs", "2"]
Loads = list[tuple[object, ...]]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Loading gives a fake model on a real runtime; the arguments of each load."""
    seen: Loads = []

    def load(
        model: object,
        dtype: str,
        *,
        threads: int,
        kernels: str,
        memory: str | None,
        context: int,
        read_ahead: bool,
        lower: str | None,
    ) -> FakeModel:
        assert memory is None and lower is None and context is None
        assert kernels in ("", "generic") and read_ahead
        seen.append((model, dtype, threads))
        fake: Any = FakeModel()
        fake.runtime = _native.Runtime(threads)
        return fake  # type: ignore[no-any-return]

    monkeypatch.setattr("expertly.cli.bench_run.load", load)
    monkeypatch.setattr(limits, "_SECONDS", 0.0)
    monkeypatch.setattr(limits, "_BUFFER_BYTES", 1 << 20)
    return seen


Output = Callable[[], str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    return lambda: capsys.readouterr().out


def test_a_bench_prints_a_table_and_ends_with_a_line_of_json(loads: Loads, output: Output) -> None:
    assert main(["bench", "a/model.gguf", *SMALL, "--threads", "1"]) == 0
    *table, last = output().splitlines()
    found = json.loads(last)
    assert loads == [("a/model.gguf", "native", 1)]
    assert found["model"] == "model.gguf" and found["machine"]["threads"] == 1
    assert set(found["limits"]) == set(LIMITS) and all(found["limits"].values())
    rows = [(row["phase"], row.get("tokens"), row.get("context"), row["batch"])
            for row in found["rows"]]  # fmt: skip
    assert rows == [
        ("prefill", 2, None, 1),
        ("prefill", 4, None, 1),
        ("decode", None, 0, 1),
        ("decode", None, 3, 1),
        ("decode", None, 0, 2),
    ]
    # two lines about the machine, the columns, a line a row
    assert len(table) == 3 + len(rows) and "decode at 0, 2 streams" in table[-1]


def test_with_json_there_is_nothing_but_the_line(loads: Loads, output: Output) -> None:
    command = ["bench", "m", "--decode", "", "--prefill", "2", "--pairs", "1", "--json"]
    assert main([*command, "--dtype", "int4"]) == 0
    (only,) = output().splitlines()
    assert len(json.loads(only)["rows"]) == 1 and loads[0][1] == "int4"


def test_lengths_that_are_not_given_end_where_the_context_does(
    loads: Loads, output: Output
) -> None:
    # the fake's context is 4096
    assert main(["bench", "m", "--batch", "1", "--pairs", "1", "--json"]) == 0
    rows = json.loads(output())["rows"]
    assert [row.get("tokens") for row in rows[:3]] == [128, 512, 2048]
    assert [row.get("context") for row in rows[3:]] == [0, 2048]


def test_threads_are_the_cores_that_may_be_used_unless_given(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expertly.machine.cores.usable_cores", lambda: 3)
    assert main(["bench", "m", "--decode", "", "--prefill", "2", "--pairs", "1", "--json"]) == 0
    assert loads[0][2] == 3


def test_a_peer_stands_beside_ours_in_every_row(
    loads: Loads, output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        'import json, sys\nprint(\'{"version": "7"}\', flush=True)\n'
        "for line in sys.stdin: print('{\"seconds\": 2.0}', flush=True)\n"
    )
    monkeypatch.setattr("expertly.bench.peer._CHILD", child)
    assert main(["bench", "m.gguf", *SMALL, "--threads", "1", "--peer", "llama.cpp"]) == 0
    found = json.loads(output().splitlines()[-1])
    assert found["peer"] == {"name": "llama.cpp", "version": "7"}
    assert [row["engine"] for row in found["rows"]] == ["expertly", "llama.cpp"] * 5
    # four tokens in two seconds
    assert found["rows"][3]["tokens_per_second"] == 2.0 and found["rows"][2]["ratio"] > 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prefill", "4;2"], "--prefill"),
        (["--batch", "1,,2"], "--batch"),
        (["--decode", "-1"], "--decode"),
        (["--decode", "9999999999"], "--decode"),
        (["--prefill", "99999"], "99999 tokens"),
        (["--peer-python", "python"], "--peer-python"),
        (["--peer", "llama.cpp"], ".gguf"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    loads: Loads, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["bench", "folder", *arguments]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and named in error and hint.startswith("hint: ")
