import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from expertly.errors import ConfigError, InputError
from expertly.planner import Plan, known, parse_bytes, plan

SYSTEMS = known.SYSTEMS
MIXTRAL = SYSTEMS / "Mixtral-8x7B-v0.1.json"


def test_a_plan_of_a_file_and_of_its_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(MIXTRAL.read_bytes())
    expected = plan(MIXTRAL)
    assert plan(tmp_path) == plan(str(tmp_path)) == plan(str(MIXTRAL)) == expected
    assert expected.family == "mixtral"
    assert expected.num_layers == expected.num_mixture_layers == 32
    assert expected.total_params == 46_702_792_704
    assert expected.active_params == 12_879_925_248
    assert expected.max_context == 32768
    assert expected.fit is None


def test_a_plan_as_a_dict_goes_through_json_unchanged() -> None:
    found = plan(MIXTRAL, memory="24GB", bits=4, context=8192).to_dict()
    assert json.loads(json.dumps(found)) == found
    wanted = {"total_params", "active_params", "weight_bytes", "kv_bytes_per_token", "fit"}
    assert wanted <= set(found)
    assert found["weight_bytes"]["bfloat16"] == 2 * 46_702_792_704


def test_the_fit_adds_weights_and_cache_and_compares() -> None:
    fit = plan(MIXTRAL, memory="24GB", bits=4, context=8192).fit
    assert fit is not None
    assert fit.kv_bytes == 8192 * 131072
    assert fit.weight_bytes == plan(MIXTRAL).weight_bytes["int4"]
    assert fit.needed_bytes == fit.weight_bytes + fit.kv_bytes
    assert (fit.memory_bytes, fit.is_enough) == (24 * 10**9, False)
    assert plan(MIXTRAL, memory=fit.needed_bytes, bits=4, context=8192).fit.is_enough is True
    assert plan(MIXTRAL, memory=fit.needed_bytes - 1, bits=4, context=8192).fit.is_enough is False


def test_options_that_are_not_given_are_16_bits_and_the_longest_context() -> None:
    by_memory = plan(MIXTRAL, memory="1TB").fit
    assert (by_memory.bits, by_memory.context) == (16, 32768)
    by_bits = plan(MIXTRAL, bits=8).fit
    assert (by_bits.memory_bytes, by_bits.is_enough, by_bits.bits) == (None, None, 8)
    by_context = plan(MIXTRAL, context=1).fit
    assert by_context.kv_bytes == 131072


@pytest.mark.parametrize("bits", [0, 3, 64, -4])
def test_bits_that_no_format_has_are_refused(bits) -> None:
    with pytest.raises(InputError, match=f"{bits} bits a weight"):
        plan(MIXTRAL, bits=bits)


@pytest.mark.parametrize("context", [0, -1, 32769])
def test_a_context_beyond_the_models_is_refused(context) -> None:
    with pytest.raises(InputError, match="32768"):
        plan(MIXTRAL, context=context)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GB", 24 * 10**9),
        ("24gb", 24 * 10**9),
        (" 16 GiB ", 16 * 2**30),
        ("1.5M", 1_500_000),
        ("512MiB", 512 * 2**20),
        ("2TB", 2 * 10**12),
        ("3kB", 3000),
        ("3KiB", 3072),
        ("100", 100),
        ("100B", 100),
        (7, 7),
    ],
)
def test_amounts_of_memory_are_read_with_their_units(text, expected) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GB", "lots", "-1GB", "0GB", "24PB", "24iB", "1e9", "nan", "24 G B", 0, -5]
)
def test_other_amounts_are_refused(text) -> None:
    with pytest.raises(InputError, match="is not an amount of memory") as caught:
        parse_bytes(text)
    assert "24GB" in caught.value.hint


def test_a_quantized_checkpoint_can_be_counted(tmp_path: Path) -> None:
    hf = json.loads((SYSTEMS / "gpt-oss-20b.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**hf, "quantization_config": {"quant_method": "mxfp4"}}))
    assert plan(path).total_params == 20_914_757_184


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        plan(tmp_path)


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json") as caught:
        plan(tmp_path)
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such/file", "a/b/c", "../x/y", "a/b?"])
def test_a_path_that_does_not_exist_is_no_hub_id(name) -> None:
    with pytest.raises(InputError, match="neither a folder, a file nor a hub id"):
        plan(name)


def test_no_name_is_no_folder() -> None:
    with pytest.raises(InputError, match="no model is named"):
        plan("")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"1" * 5000])
def test_damaged_json_is_one_clear_error(content, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not valid JSON") as caught:
        plan(path)
    assert "\n" not in caught.value.message


def test_a_gguf_file_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(InputError, match="is a GGUF file, and a plan needs a config"):
        plan(path)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"mixtral"'])
def test_json_that_is_no_object_is_refused(content, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="holds no JSON object"):
        plan(path)


def test_a_config_is_read_from_a_pipe() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"[]")
    os.close(write_end)
    # all of it: without its first bytes it would be no JSON
    with pytest.raises(ConfigError, match="holds no JSON object"):
        plan(f"/dev/fd/{read_end}")
    os.close(read_end)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        plan(path)


class Hub:
    """Stands for huggingface_hub: gives a file or raises, and remembers what was asked."""

    def __init__(self, answer: Path | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, *names: str) -> str:
        self.asked.append(names)
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def test_of_a_hub_id_only_the_config_is_fetched(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hub = Hub(MIXTRAL)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    assert plan("mistralai/Mixtral-8x7B-v0.1") == plan(MIXTRAL)
    assert hub.asked == [("mistralai/Mixtral-8x7B-v0.1", "config.json")]


def _errors() -> list[tuple[Exception, str]]:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    response = SimpleNamespace(status_code=404, headers={}, request=None)
    return [
        (LocalEntryNotFoundError("no network"), "cannot be reached"),
        (OfflineModeIsEnabled("offline"), "cannot be reached"),
        (RemoteEntryNotFoundError("none", response=response), "has no config.json"),
        (RepositoryNotFoundError("none", response=response), "answers 404"),
        (HfHubHTTPError("teapot", response=response), "answers 404"),
        (HTTPError("name not known"), "name not known"),
        (OSError("disk full"), "disk full"),
        (RuntimeError(), "RuntimeError"),
    ]


@pytest.mark.parametrize(("error", "why"), _errors(), ids=lambda value: type(value).__name__)
def test_a_hub_that_fails_is_one_clear_error(error, why, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Hub(error))
    with pytest.raises(InputError) as caught:
        plan("owner/name")
    assert why in caught.value.message
    assert "'owner/name'" in caught.value.message
    assert "\n" not in caught.value.message


def test_the_package_offers_plan() -> None:
    import expertly

    assert isinstance(expertly.plan(MIXTRAL), Plan)
