"""The tool that holds our greedy text against llama.cpp's, with a peer that is made up."""

import json
import sys
from pathlib import Path

import compare_llama
import pytest
import torch

from expertly.checkpoint import load
from expertly.checkpoint.gguf_loading import open_gguf
from expertly.checkpoint.locating import bundled
from expertly.config import Mixture
from expertly.errors import ConfigError

PROMPT = "The city of "


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compared") / "model.gguf"
    compare_llama.export(bundled(), path, "f16")
    return path


def test_the_model_is_exported_as_llama_cpp_weighs_its_experts(path: Path) -> None:
    rules = [layer.feed_forward for layer in open_gguf(path)[1].layers]
    assert all(isinstance(rule, Mixture) and rule.router.norm_p is None for rule in rules)
    assert json.loads((bundled() / "config.json").read_text())["norm_topk_prob"] is False


def test_a_family_that_files_do_not_have_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "norm_topk_prob": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="gemma3"):
        compare_llama.export(tmp_path, tmp_path / "model.gguf", "f16")


def test_greedy_tokens_are_those_of_computing_everything_anew(path: Path) -> None:
    model = load(path, "native", threads=1)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(PROMPT)
    logits_SV, new, rows_SV = compare_llama.ours(model, ids, 5)
    whole_SV = model(torch.tensor([ids + new])).logits[0]
    assert torch.equal(logits_SV, whole_SV[: len(ids)])
    assert torch.equal(rows_SV, whole_SV[len(ids) - 1 :])
    assert new == whole_SV[len(ids) - 1 : -1].argmax(-1).tolist()


def test_a_peer_that_agrees_is_the_same_all_along(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(path, "native", threads=1)

    def theirs(python: str, path: Path, ids: list[int], num_new: int):
        return compare_llama.ours(model, ids, num_new)[:2]

    monkeypatch.setattr(compare_llama, "theirs", theirs)
    (row,) = compare_llama.compare("python", path, [PROMPT], 6)
    assert (row.same_tokens, row.num_tokens, row.lead, row.logit_error) == (6, 6, 0.0, 0.0)


def test_the_first_token_that_differs_is_told_with_our_lead(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(path, "native", threads=1)
    wanted: list[float] = []

    def theirs(python: str, path: Path, ids: list[int], num_new: int):
        logits_SV, new, rows_SV = compare_llama.ours(model, ids, num_new)
        best = rows_SV[3].topk(2)
        new[3] = int(best.indices[1])
        wanted.append(float((best.values[0] - best.values[1]) / logits_SV.std()))
        changed_SV = logits_SV.clone()
        changed_SV[1, 2] += 0.25 * logits_SV.std()
        return changed_SV, new

    monkeypatch.setattr(compare_llama, "theirs", theirs)
    (row,) = compare_llama.compare("python", path, [PROMPT], 6)
    assert row.same_tokens == 3
    assert row.lead == pytest.approx(wanted[0]) and row.lead > 0
    assert row.logit_error == pytest.approx(0.25, rel=1e-4)


def test_a_peer_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module of that name' >&2\nexit 3\n")
    python.chmod(0o700)
    with pytest.raises(RuntimeError, match="no module of that name"):
        compare_llama.theirs(str(python), tmp_path / "m.gguf", [1, 2])


def test_the_tool_prints_one_json_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def theirs(python: str, path: Path, ids: list[int], num_new: int):
        assert python == "peer"
        return compare_llama.ours(load(path, "native", threads=1), ids, num_new)[:2]

    monkeypatch.setattr(compare_llama, "theirs", theirs)
    arguments = ["--tokens", "3", "--prompt", PROMPT, "--peer-python", "peer"]
    monkeypatch.setattr(sys, "argv", ["compare_llama.py", *arguments])
    compare_llama.main()
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert row["prompt"] == PROMPT and row["same_tokens"] == 3
    assert "3 of 3 tokens the same" in said.err
