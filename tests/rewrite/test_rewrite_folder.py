"""The folder that is written: types, tokenizer, disk, memory, whole or not at all."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from dense_folders import LLAMA, parameters_of, save_dense
from zero_checkpoints import write_zeros

import expertly
from expertly.checkpoint.shards import find
from expertly.errors import CheckpointError, InputError, OutputError
from expertly.families import read_config, stored_tensors
from expertly.rewrite import Duplication, Upcycling, upcycle

HOW = Upcycling(num_experts=4)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder") / "dense"
    save_dense(folder)
    return folder


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_keep_the_type_that_they_are_stored_in(kind: torch.dtype, tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", dtype=kind)
    how = Upcycling(num_experts=8, method="virtual-groups", granularity=4)
    upcycle(tmp_path / "dense", tmp_path / "out", how)
    assert {entry.dtype for entry in find(tmp_path / "out").values()} == {kind}
    spelled = json.loads((tmp_path / "out" / "config.json").read_text())["dtype"]
    assert spelled == str(kind).removeprefix("torch.")
    # scales of four are powers of two: not a digit is lost
    before, after = parameters_of(tmp_path / "dense"), parameters_of(tmp_path / "out")
    here = "layers.2.feed_forward"
    assert torch.equal(
        after[f"{here}.experts.w_up_EFD"][:4].flatten(0, 1), before[f"{here}.w_up_FD"] * 2
    )


def test_tensors_that_stay_are_the_same_to_the_bit(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "out", HOW)
    before, after = parameters_of(dense), parameters_of(tmp_path / "out")
    stay = [name for name in before if ".feed_forward." not in name]
    assert len(stay) == 3 + 3 * 6
    assert all(torch.equal(before[name], after[name]) for name in stay)


def test_the_tokenizer_travels_and_encodes_as_before(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "out", HOW)
    text = "as before"
    tokenizers = [expertly.load(folder).tokenizer for folder in (dense, tmp_path / "out")]
    assert tokenizers[0].encode(text) == tokenizers[1].encode(text)
    assert (tmp_path / "out" / "generation_config.json").exists()


def test_the_report_says_what_was_written(dense: Path, tmp_path: Path) -> None:
    how = Upcycling(num_experts=6, num_chosen=3, method="fine-grained", granularity=3)
    report = upcycle(dense, tmp_path / "out", how).to_dict()
    # norms 2 and attention 16 (8 + 8 + 8 + 8 wide, two heads and one) a layer, six experts of 4
    attention, expert = 16 * 16 + 2 * 8 * 16 + 16 * 16, 3 * 4 * 16
    layer = attention + 2 * 16 + 6 * 16
    assert report["total_params"] == 2 * 257 * 16 + 16 + 3 * (layer + 6 * expert)
    assert report["active_params"] < report["total_params"]
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    del report["total_params"], report["active_params"], report["bytes"]
    assert report == {
        "out": str(tmp_path / "out"),
        "family": "mixtral",
        "mixture_layers": 3,
        "num_experts": 6,
        "num_chosen": 3,
        "expert_size": 4,
        "shared_size": 0,
        "is_exact": False,
    }


def test_a_mixture_is_refused_for_upcycling_with_a_hint_to_copy_its_experts(
    dense: Path, tmp_path: Path
) -> None:
    upcycle(dense, tmp_path / "mixture", HOW)
    with pytest.raises(InputError, match="is a mixture already") as caught:
        upcycle(tmp_path / "mixture", tmp_path / "out", HOW)
    assert "--duplicate" in caught.value.hint


def test_a_width_that_does_not_divide_is_refused(dense: Path, tmp_path: Path) -> None:
    how = Upcycling(num_experts=5, method="fine-grained", granularity=5)
    with pytest.raises(InputError, match="width 12 cannot be cut into 5 parts"):
        upcycle(dense, tmp_path / "out", how)


def test_more_layers_between_mixtures_than_there_are_is_refused(
    dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="every 4 layers, and the model has 3"):
        upcycle(dense, tmp_path / "out", Upcycling(num_experts=4, every=4))


def test_a_folder_that_is_there_is_left_alone(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")
    with pytest.raises(OutputError, match="out exists already"):
        upcycle(dense, tmp_path / "out", HOW)
    assert (tmp_path / "out" / "kept").read_text() == "mine"


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr("expertly.rewrite.folder.disk_usage", lambda path: usage)
    written: list[object] = []
    monkeypatch.setattr("expertly.rewrite.folder.write_shards", lambda *a, **k: written.append(a))
    with pytest.raises(OutputError, match="and its disk has 1,000 free"):
        upcycle(dense, tmp_path / "out", HOW)
    assert not written
    assert list(tmp_path.iterdir()) == []


def test_damage_found_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense")
    done: list[int] = []

    def cut(count: int, total: int) -> None:
        done.append(count)
        if len(done) == 10:
            os.truncate(tmp_path / "dense" / "model.safetensors", 20_000)

    with pytest.raises(CheckpointError, match="changed while it was read"):
        upcycle(tmp_path / "dense", tmp_path / "out", HOW, progress=cut)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense"]


def test_an_interrupt_half_way_leaves_nothing_behind(dense: Path, tmp_path: Path) -> None:
    def interrupt(count: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upcycle(dense, tmp_path / "out", HOW, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_packed_folder_is_refused(tmp_path: Path) -> None:
    from expertly.checkpoint.packed_saving import open_folder, save_packed
    from expertly.checkpoint.recipe import recipe_of_bits

    save_dense(tmp_path / "dense")
    with open_folder(tmp_path / "dense") as source:
        save_packed(source, tmp_path / "packed", recipe_of_bits(8, []))
    with pytest.raises(InputError, match="packed is packed"):
        upcycle(tmp_path / "packed", tmp_path / "out", HOW)


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.gguf is a GGUF file"):
        upcycle(tmp_path / "model.gguf", tmp_path / "out", HOW)


# 96 MB of bfloat16 that become 480 MB; a layer's feed-forward is 19 MB, the embedding 12 MB
LARGE = {
    **LLAMA,
    "vocab_size": 12_000,
    "hidden_size": 512,
    "intermediate_size": 6144,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
}
MEASURE = """
import re, sys
from pathlib import Path
import torch
from expertly.rewrite import Duplication, Upcycling, upcycle

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search("VmHWM:\\\\s+(\\\\d+) kB", status)[1]) * 1024

torch.set_num_threads(1)
torch.zeros(1000).bfloat16().float().sum()
before = peak_bytes()
how = Upcycling(num_experts=6) if sys.argv[3] == "dense" else Duplication(copies=2)
written = upcycle(sys.argv[1], sys.argv[2], how)
print(peak_bytes() - before, written.num_bytes)
"""
# large tensors in mappings of their own: in malloc's heap what is freed stays with the process, how
# much of it differs from run to run
GIVES_BACK = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def test_memory_is_a_layers_feed_forward_and_a_tensor_whatever_the_size(tmp_path: Path) -> None:
    write_zeros(tmp_path / "dense", LARGE)
    for source, out, kind in (("dense", "mixture", "dense"), ("mixture", "larger", "mixture")):
        command = [sys.executable, "-c", MEASURE, tmp_path / source, tmp_path / out, kind]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=300, env=GIVES_BACK
        )
        peak, num_bytes = map(int, done.stdout.split())
        assert num_bytes > 400_000_000
        assert peak < 60_000_000, (kind, peak)


def test_copies_of_experts_report_that_they_are_exact(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "mixture", HOW)
    exact = upcycle(tmp_path / "mixture", tmp_path / "four", Duplication(copies=2))
    cheap = upcycle(tmp_path / "mixture", tmp_path / "two", Duplication(copies=2, num_chosen=2))
    assert (exact.is_exact, exact.mixture.num_chosen) == (True, 4)
    assert (cheap.is_exact, cheap.mixture.num_chosen) == (False, 2)


def test_every_written_tensor_is_one_that_the_config_asks_for(dense: Path, tmp_path: Path) -> None:
    written = upcycle(dense, tmp_path / "out", HOW)
    hf = json.loads((tmp_path / "out" / "config.json").read_text())
    assert read_config(hf) == written.config
    wanted = {tensor.name for tensor in stored_tensors(written.config)}
    assert wanted == set(find(tmp_path / "out"))
