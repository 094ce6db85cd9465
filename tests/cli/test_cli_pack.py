"""`expertly pack`: what it writes, what it says, and what it refuses in two lines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from saved_model import save_small

from expertly.checkpoint.packed_loading import load_packed
from expertly.cli import main
from expertly.formats.packed import MANIFEST, read

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `folder`, with rows of whole groups of 32."""
    return save_small(
        tmp_path_factory.mktemp("models") / "m", hidden_size=32, intermediate_size=160
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def packed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """The report of a command that must succeed."""
    assert main(["pack", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The two lines of a command that must fail."""
    assert main(["pack", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert out == "" and lines[-2].startswith("error: ") and lines[-1].startswith("hint: ")
    return "\n".join(lines[-2:])


def test_a_folder_is_packed_at_four_bits_and_loads(model, tmp_path, capsys) -> None:
    report = packed(capsys, model, tmp_path / "out")
    config, weights, tokenizer = load_packed(tmp_path / "out")
    assert config.family == "mixtral" and tokenizer is not None
    down = weights.matrix("layers.1.feed_forward.experts.w_down_EDF", 4)
    assert down.format == "i4"
    assert weights.matrix("head_VD").format == "q8_0"
    assert report["bytes"] == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    assert report["weights"]["i4"] == 2 * 5 * 32 * 160
    # gate and up have rows of 32
    assert report["fell_back"] == [{"asked": "i4", "used": "q4_1", "matrices": 2 * 5 * 2}]
    assert report["calibration_tokens"] == 0 and report["unreached"] == []


def test_bits_types_and_exceptions_choose_the_formats(model, tmp_path, capsys) -> None:
    packed(capsys, model, tmp_path / "a", "--bits", 8)
    packed(capsys, model, tmp_path / "b", "--type", "q5_1", "--keep", "layers.0.*=bf16")
    for name, layer, expected in (("a", 0, "q8_0"), ("b", 0, "bf16"), ("b", 1, "q5_1")):
        _, weights, _ = load_packed(tmp_path / name)
        assert weights.matrix(f"layers.{layer}.attention.w_q_HCD").format == expected


def test_an_average_is_kept_and_the_report_says_it(model, tmp_path, capsys) -> None:
    report = packed(capsys, model, tmp_path / "out", "--average", "6.5")
    assert 6.0 < report["bits_per_weight"] <= 6.5


def test_a_calibration_text_changes_the_weights_and_is_counted(
    model, text, tmp_path, capsys
) -> None:
    packed(capsys, model, tmp_path / "plain")
    report = packed(
        capsys, model, tmp_path / "out", "--calibrate", text, "--max-tokens", 128, "--threads", 1
    )
    assert 64 <= report["calibration_tokens"] <= 128
    checksums = [
        {key: blob.checksum for key, blob in read(tmp_path / name).blobs.items()}
        for name in ("plain", "out")
    ]
    differ = {key for key in checksums[0] if checksums[0][key] != checksums[1][key]}
    assert any(".experts." in key for key in differ) and "vectors" not in differ


def test_experts_that_the_text_never_reached_are_named(model, tmp_path, capsys) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a")
    assert main(["pack", str(model), str(tmp_path / "out"), "--calibrate", str(short)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'out'}: ") and "bits a weight" in out
    # one token and 2 of 5 experts a layer
    assert "did not reach 6 experts (layer.expert 0." in err
    assert "as their layer's average" in err
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert len(manifest["unreached"]) == 6


def test_the_table_says_what_is_in_which_format_and_why(model, tmp_path, capsys) -> None:
    assert main(["pack", str(model), str(tmp_path / "out"), "--bits", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["q8_0", "f32"]
    assert lines[-1].strip().startswith("30 x q8_0: q6_k")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "7"], "7 bits a weight are not known"),
        (["--type", "q9"], "the type 'q9' is not known"),
        (["--bits", "4", "--type", "i4"], "--bits and --type together"),
        (["--bits", "4", "--average", "6"], "--bits and --average together"),
        (["--type", "q8_0", "--average", "1"], "--type and --average together"),
        (["--average", "1"], "1 bits a weight on average are too few"),
        (["--keep", "nothing=q8_0"], "no quantised matrix is called 'nothing'"),
        (["--keep", "q8_0"], "'q8_0' keeps nothing"),
        (["--calibrate", "not/there.txt"], "not/there.txt cannot be read"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_wrong_options_are_refused_and_write_nothing(
    model, tmp_path, capsys, arguments, said
) -> None:
    assert said in refusal(capsys, model, tmp_path / "out", *arguments)
    assert [*tmp_path.iterdir()] == []


def test_a_text_that_is_no_text_is_refused(model, tmp_path, capsys) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text(" \n")
    for name, said in (("binary", "is not UTF-8"), ("empty", "is empty")):
        arguments = (model, tmp_path / "out", "--calibrate", tmp_path / name)
        assert said in refusal(capsys, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_what_exists_is_never_written_over(model, tmp_path, capsys, name) -> None:
    (tmp_path / name).write_text("mine")
    assert "exists already" in refusal(capsys, model, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [("out.GGUF", "ends in .GGUF"), ("none/out.gguf", "is not there, or no folder")],
)
def test_a_gguf_file_that_could_not_be_written_or_found_again_is_refused_first(
    tmp_path, capsys, name, said
) -> None:
    # before the model, which is not there either
    assert said in refusal(capsys, tmp_path / "no-model", tmp_path / name)


def test_a_packed_folder_is_not_packed_again(model, tmp_path, capsys) -> None:
    packed(capsys, model, tmp_path / "once")
    assert "is packed already" in refusal(capsys, tmp_path / "once", tmp_path / "twice")


def test_a_model_that_is_not_there_is_refused(tmp_path, capsys) -> None:
    assert "does not exist" in refusal(capsys, tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--type", "i4"], "GGUF files have no type i4"),
        (["--type", "q9"], "the type 'q9' is not known"),
        (["--bits", "7"], "7 bits a weight are not known"),
        (["--average", "5"], "one type for all experts"),
        (["--keep", "*=q8_0"], "one type for all experts"),
    ],
)
def test_what_gguf_files_cannot_hold_is_refused(model, tmp_path, capsys, arguments, said) -> None:
    assert said in refusal(capsys, model, tmp_path / "out.gguf", *arguments)
    assert [*tmp_path.iterdir()] == []


def test_a_model_without_a_tokenizer_cannot_be_calibrated(tmp_path, text, capsys) -> None:
    folder = save_small(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    said = refusal(capsys, folder, tmp_path / "out", "--calibrate", text)
    assert "has no tokenizer" in said and "without --calibrate" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "OUT is empty"),
        (".gguf", "an ending without a name"),
        ("link", "a link to what is not there"),
        ("link.gguf", "a link to what is not there"),
        ("taken", "taken exists already"),
    ],
)
def test_places_where_nothing_can_be_are_refused(
    model, tmp_path, capsys, monkeypatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for link in ("link", "link.gguf"):
        (tmp_path / link).symlink_to("nowhere")
    (tmp_path / "taken").symlink_to(tmp_path)
    assert main(["pack", str(model), name]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "hint:" in shown


def test_a_type_may_be_written_in_capitals(model, tmp_path, capsys) -> None:
    for number, kind in enumerate(("q8_0", "Q8_0")):
        out = tmp_path / f"{number}.gguf"
        assert main(["pack", str(model), str(out), "--type", kind]) == 0
    assert (tmp_path / "0.gguf").read_bytes() == (tmp_path / "1.gguf").read_bytes()


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_two_at_once_that_write_the_same_leave_one_that_is_whole(model, tmp_path, name) -> None:
    kinds, processes = ("q8_0", "q4_0"), []
    for kind in kinds:
        command = [sys.executable, "-m", "expertly", "pack", str(model), str(tmp_path / name)]
        processes.append(subprocess.Popen([*command, "--type", kind], stderr=subprocess.PIPE))
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    codes = [process.returncode for process in processes]
    assert 0 in codes and set(codes) <= {0, 2}
    assert all("exists already" in error for error, code in zip(errors, codes, strict=True) if code)
    alone = []
    for kind in kinds:
        (tmp_path / kind).mkdir()
        assert main(["pack", str(model), str(tmp_path / kind / name), "--type", kind]) == 0
        alone.append(contents_of(tmp_path / kind / name))
    assert contents_of(tmp_path / name) in alone


def contents_of(path: Path) -> list[bytes]:
    return [each.read_bytes() for each in (sorted(path.iterdir()) if path.is_dir() else [path])]


def test_an_interrupt_leaves_nothing_behind(tmp_path) -> None:
    folder = save_small(tmp_path / "m", hidden_size=512, intermediate_size=1024)
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "expertly", "pack", str(folder), str(here / "out")]
    process = subprocess.Popen(
        [*command, "--threads", "1"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    # its unfinished folder is there: it is at work
    while not os.listdir(here) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert os.listdir(here) == []
