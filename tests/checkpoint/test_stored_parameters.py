"""Parameters read by our names from whatever a family's files call and keep them as."""

from pathlib import Path

import pytest
import torch
from tiny_checkpoints import GPT_OSS, MIXTRAL, TIED, write_tiny

from expertly.checkpoint.stored_parameters import stored_parameters
from expertly.families import read_config

DBRX = {
    "model_type": "dbrx",
    "vocab_size": 37,
    "d_model": 24,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 2.0},
    "ffn_config": {"hidden_size": 24, "ffn_hidden_size": 14, "moe_num_experts": 3, "moe_top_k": 2},
}


@pytest.mark.parametrize("hf", [MIXTRAL, TIED, GPT_OSS, DBRX], ids=lambda hf: hf["model_type"])
def test_each_parameter_and_each_expert_reads_as_it_loads(hf: dict, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", hf)
    with stored_parameters(read_config(hf), tmp_path / "model") as source:
        for name, parameter in model.named_parameters():
            assert name in source
            assert torch.equal(source.read(name), parameter)
            if ".experts." in name:
                for expert in range(len(parameter)):
                    assert torch.equal(source.read(name, expert), parameter[expert])


def test_the_type_is_the_one_that_is_stored(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model", MIXTRAL, dtype=torch.bfloat16)
    with stored_parameters(read_config(MIXTRAL), tmp_path / "model") as source:
        name = "layers.0.feed_forward.experts.w_up_EFD"
        assert source.dtype(name) == source.read(name, 1).dtype == torch.bfloat16
        assert source.dtype("embed_VD") == torch.bfloat16


def test_what_was_read_is_the_readers_to_change(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model", DBRX)
    with stored_parameters(read_config(DBRX), tmp_path / "model") as source:
        name = "layers.1.feed_forward.experts.w_gate_EFD"
        kept = source.read(name, 2).clone()
        source.read(name, 2).zero_()
        assert torch.equal(source.read(name, 2), kept)
