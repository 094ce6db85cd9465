"""`expertly observe` on a small saved model: a page, a JSON object, and bad input."""

import json
from pathlib import Path

import pytest
import typer
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from typer.testing import CliRunner, Result

from expertly.checkpoint import save
from expertly.cli import observe as verb
from expertly.errors import CheckpointError, InputError, OutputError
from expertly.families import read_config
from expertly.model import Decoder, initialise
from expertly.text import Tokenizer

CONFIG = {
    "model_type": "olmoe",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose tokens are bytes."""
    home = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    (home / "tokenizer").mkdir()
    inner.save(str(home / "tokenizer" / "tokenizer.json"))
    model = Decoder(read_config(CONFIG))
    initialise(model, seed=0, std=0.3)
    model.tokenizer = Tokenizer.open(home / "tokenizer")
    save(model, home / "saved")
    return home / "saved"


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "verse.txt").write_text("to be or not to be " * 12)
    (tmp_path / "sums.txt").write_text("1 + 1 = 2; 2 + 2 = 4; " * 10)
    return str(tmp_path / "verse.txt"), str(tmp_path / "sums.txt")


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(verb.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failure(*arguments: str | Path) -> BaseException:
    error = run(*arguments).exception
    assert error is not None
    return error


def test_the_page_shows_every_layer_and_every_domain(folder: Path, texts: tuple[str, str]) -> None:
    result = run(folder, "--text", texts[0], "--text", texts[1])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("448 tokens: verse 228, sums 220\n")
    assert [line.split()[0] for line in result.stdout.splitlines() if line.endswith("|")] == [
        "0",
        "1",
    ]
    assert "consulted with" in result.stdout
    assert len([line for line in result.stdout.splitlines() if line.startswith("verse ")]) == 5


def test_several_files_may_follow_one_option(folder: Path, texts: tuple[str, str]) -> None:
    several = run(folder, "--text", texts[0], texts[1])
    assert several.stdout == run(folder, "--text", texts[0], "--text", texts[1]).stdout


def test_json_is_one_object_with_the_full_matrices(folder: Path, texts: tuple[str, str]) -> None:
    result = run(folder, "--text", texts[0], "--domains", f"numbers={texts[1]}", "--json")
    document = json.loads(result.stdout)
    assert document["tokens_by_domain"] == {"verse": 228, "numbers": 220}
    assert [layer["layer"] for layer in document["layers"]] == [0, 1]
    for layer in document["layers"]:
        assert [len(row) for row in layer["coactivation"]] == [6] * 6
        assert [len(row) for row in layer["domain_row_share"]] == [6, 6]
        assert sum(layer["load"]) == pytest.approx(1.0)
    assert {"id", "text", "count"} == set(document["vocabulary"][0])


def test_fewer_lines_and_tokens_when_asked_for(folder: Path, texts: tuple[str, str]) -> None:
    result = run(folder, "--text", texts[0], "--top", "1", "--max-tokens", "40")
    assert result.stdout.startswith("40 tokens: verse 40\n")
    assert len([line for line in result.stdout.splitlines() if line.startswith("verse ")]) == 1


def test_the_bundled_model_is_observed_on_its_held_out_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "bundled", lambda: folder)
    result = run("--max-tokens", "50")
    names = "drama 50, encyclopedia 50, maths 50, python 50, swahili 50"
    assert result.stdout.startswith(f"250 tokens: {names}\n")


def test_another_model_without_a_text_is_told_to_bring_one(folder: Path) -> None:
    error = failure(folder)
    assert isinstance(error, InputError)
    assert "--text FILE" in error.hint


def test_a_missing_model_is_named_before_a_missing_text(tmp_path: Path) -> None:
    error = failure(tmp_path / "nosuch")
    assert isinstance(error, CheckpointError)
    assert "nosuch' does not exist" in error.message


def test_bad_texts_are_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    error = failure(tmp_path / "no-model", "--text", tmp_path / "latin.txt")
    assert isinstance(error, InputError)
    assert "latin.txt is not UTF-8: byte 2 is 0xef" in error.message


def test_a_missing_model_is_named(tmp_path: Path, texts: tuple[str, str]) -> None:
    error = failure(tmp_path / "no-model", "--text", texts[0])
    assert isinstance(error, CheckpointError)
    assert "no-model" in error.message


@pytest.mark.parametrize("option", ["--top", "--max-tokens"])
def test_counts_below_one_are_refused_by_the_command_line(option: str, folder: Path) -> None:
    assert run(folder, option, "0").exit_code == 2


def test_a_page_is_written_beside_what_is_printed(
    folder: Path, texts: tuple[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    result = run(folder, "--text", *texts, "--html", page)
    assert result.stdout == run(folder, "--text", *texts).stdout
    assert "open it in a browser" in result.stderr
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>") and html.rstrip().endswith("</html>")
    assert "verse" in html and "<sub>" in html
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "verse.txt", "sums.txt"}


def test_the_numbers_of_the_page_are_those_of_json(
    folder: Path, texts: tuple[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    document = json.loads(run(folder, "--text", *texts, "--html", page, "--json").stdout)
    html = page.read_text(encoding="utf-8")
    for layer in document["layers"]:
        assert "".join(f"<td>{share:.4f}</td>" for share in layer["load"]) in html


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    for place in (tmp_path, tmp_path / "missing" / "page.html", there):
        error = failure("missing-model", "--text", "missing.txt", "--html", place)
        assert isinstance(error, OutputError)
        assert str(place) in str(error)
        assert ("is a folder" in error.message) == (place == tmp_path)


def test_a_trace_has_no_page(tmp_path: Path) -> None:
    error = failure("trace", "some.parquet", "--html", tmp_path / "page.html")
    assert isinstance(error, InputError)


def test_a_model_without_experts_is_refused_in_one_line_and_leaves_no_page(
    folder: Path, texts: tuple[str, str], tmp_path: Path
) -> None:
    dense = {name: value for name, value in CONFIG.items() if "experts" not in name}
    model = Decoder(read_config({**dense, "model_type": "llama", "rms_norm_eps": 1e-5}))
    initialise(model, seed=0, std=0.3)
    model.tokenizer = Tokenizer.open(folder)
    save(model, tmp_path / "dense")
    error = failure(tmp_path / "dense", "--text", *texts, "--html", tmp_path / "page.html")
    assert isinstance(error, InputError)
    assert "no mixture layer" in str(error) and error.hint
    assert not (tmp_path / "page.html").exists()
