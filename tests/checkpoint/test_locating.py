import errno
import fnmatch
import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st

from expertly.checkpoint import locate as public
from expertly.checkpoint.locating import _UNWANTED, _WANTED, is_hub_id, locate
from expertly.errors import CheckpointError


def folder_of(root: Path, *names: str) -> Path:
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).write_text("{}")
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """Makes the hub answer with a folder or an error; the calls it got are returned."""

    def answer(what: Path | BaseException) -> list[tuple[str, dict]]:
        calls = []

        def download(hub_id: str, **options: object) -> str:
            calls.append((hub_id, options))
            if isinstance(what, BaseException):
                raise what
            return str(what)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return calls

    return answer


def http_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "401 Client Error\nlong\nstory")
    return error


def test_a_folder_with_a_config_is_itself(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "config.json", "model.safetensors")
    assert locate(folder) == locate(str(folder)) == folder
    assert public is locate


def test_a_folder_goes_before_a_hub_id(tmp_path: Path, monkeypatch, hub) -> None:
    calls = hub(RuntimeError("asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    folder_of(tmp_path / "owner" / "name", "config.json")
    assert locate("owner/name") == Path("owner/name")
    assert calls == []


def test_a_hub_id_is_fetched_without_code_or_pickles(tmp_path: Path, hub) -> None:
    folder = folder_of(tmp_path / "snapshot", "config.json", "model.safetensors")
    calls = hub(folder)
    assert locate("mistralai/Mixtral-8x7B-v0.1") == folder
    [(hub_id, options)] = calls
    assert hub_id == "mistralai/Mixtral-8x7B-v0.1"
    assert options == {"allow_patterns": [*_WANTED], "ignore_patterns": [*_UNWANTED]}


@pytest.mark.parametrize(
    ("name", "is_fetched"),
    [
        ("config.json", True),
        ("tokenizer.json", True),
        ("chat_template.jinja", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("modeling_custom.py", False),
        ("pytorch_model.bin", False),
        ("consolidated.safetensors", False),
        ("original/model.safetensors", False),
        ("training_args.bin", False),
        ("model.gguf", False),
        ("weights.pth", False),
    ],
)
def test_files_that_are_fetched(name: str, is_fetched: bool) -> None:
    wanted = any(fnmatch.fnmatch(name, pattern) for pattern in _WANTED)
    unwanted = any(fnmatch.fnmatch(name, pattern) for pattern in _UNWANTED)
    assert (wanted and not unwanted) == is_fetched


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (http_error(errors.GatedRepoError), "agree to their terms", "huggingface.co/a/b"),
        (http_error(errors.RepositoryNotFoundError), "no such model", "spelling"),
        (errors.LocalEntryNotFoundError("x"), "cannot be reached", "HF_HUB_OFFLINE"),
        (errors.HFValidationError("bad\nname"), "HFValidationError: bad$", "local folder"),
        (ConnectionResetError(104, "reset"), "reset", "try again"),
    ],
)
def test_trouble_with_the_hub_is_one_line(hub, error: Exception, words: str, hint: str) -> None:
    hub(error)
    with pytest.raises(CheckpointError) as info:
        locate("a/b")
    assert re.search(words, info.value.message) and "'a/b'" in info.value.message
    assert "\n" not in info.value.message
    assert hint in info.value.hint


def test_a_full_disk_is_not_taken_for_the_hub(hub) -> None:
    hub(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        locate("a/b")


def test_offline_and_not_in_the_cache_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="its cache has no copy"):
        locate("owner/never-fetched")


@pytest.mark.parametrize(
    "name", ["nowhere", "./a/b", "/no/such/folder", "a/b/c", "a b", "~x/y", "a\0b", "x" * 5000]
)
def test_what_is_neither_folder_nor_id_does_not_exist(hub, name: str) -> None:
    calls = hub(RuntimeError("asked"))
    with pytest.raises(CheckpointError, match="does not exist") as info:
        locate(name)
    assert repr(name) in info.value.message and calls == []


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m holds no config\.json"):
        locate(folder_of(tmp_path / "m", "model.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_for_a_file_of_a_model_its_folder_is_asked(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "m", name)
    with pytest.raises(CheckpointError, match="is a file") as info:
        locate(folder / name)
    assert info.value.hint == f"give its folder, {folder}"


def test_of_a_gguf_file_it_is_said_what_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="a GGUF file, which run and bench alone read"):
        locate(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "m", "model.onnx")
    with pytest.raises(CheckpointError, match="not read") as info:
        locate(tmp_path / "m" / "model.onnx")
    assert "folder or a hub id" in info.value.hint


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "m", "config.json", name)
    for given_ in (folder, folder / name):
        with pytest.raises(CheckpointError, match=f"{name}, a pickle") as info:
            locate(given_)
        assert f"from_pretrained('{folder}'" in info.value.hint


def test_a_pickle_beside_safetensors_is_ignored(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "config.json", "model.safetensors", "training_args.bin")
    assert locate(folder) == folder


def test_the_converting_command_converts(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, num_hidden_layers=1, **sizes))
    model.config.architectures = ["LlamaForCausalLM"]
    folder = tmp_path / "m"
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    inner = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(folder)
    with pytest.raises(CheckpointError) as info:
        locate(folder)
    exec(info.value.hint.partition('python -c "')[2].rstrip('"'))
    made = Path(f"{folder}-safe")
    assert locate(made) == made
    assert {"model.safetensors", "tokenizer.json"} <= {path.name for path in made.iterdir()}


def test_without_a_name_it_is_the_bundled_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="no bundled model"):
        locate(None)
    folder = folder_of(tmp_path / "bundled", "config.json")
    assert locate(None) == locate("") == folder


@given(st.text(st.sampled_from("aZ0._-/~ \n\0é"), max_size=12))
def test_an_id_has_one_slash_and_plain_names(text: str) -> None:
    if is_hub_id(text):
        owner, name = text.split("/")
        assert owner[0].isalnum() and name[0].isalnum()
        assert set(text) <= set("aZ0._-/")
