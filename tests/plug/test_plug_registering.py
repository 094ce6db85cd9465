"""One call, and whole models of transformers run on our kernels."""

import subprocess
import sys

import pytest
import torch
import transformers
from oracle import build, ragged, randomise
from plug_modules import asked, made
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

import expertly
from expertly.errors import InputError
from expertly.plug import NAMES

# logits' error against their standard deviation; attention stays transformers' own, in float32
LOGITS = {"expertly_bf16": 0.01, "expertly_int8": 0.03, "expertly_int4": 0.35}
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss"]


@pytest.fixture(scope="module", autouse=True)
def names() -> tuple[str, ...]:
    return expertly.plug_into_transformers(threads=1)


def deepseek() -> torch.nn.Module:
    config = transformers.DeepseekV3Config(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=3,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        first_k_dense_replace=1,
    )
    model = transformers.DeepseekV3ForCausalLM(config).eval()
    randomise(model, seed=0)
    return model


def logits(model: torch.nn.Module, ids_BS: Tensor, mask_BS: Tensor, name: str) -> Tensor:
    model.set_experts_implementation(name)
    with torch.no_grad():
        found_BSV = model(ids_BS, attention_mask=mask_BS.long(), use_cache=False).logits
    return found_BSV[mask_BS]


def check(model: torch.nn.Module, name: str) -> None:
    ids_BS, mask_BS = ragged(90, seed=3)
    right_TV = logits(model, ids_BS, mask_BS, "eager")
    found_TV = logits(model, ids_BS, mask_BS, name)
    error = (found_TV - right_TV).square().mean().sqrt() / right_TV.std()
    print(type(model).__name__, name, f"{error:.4f}")
    # not the same numbers: it is our kernels that ran
    assert 0.0 < error < LOGITS[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_gives_the_logits_of_its_eager_experts(family: str, tmp_path) -> None:
    oracle = build(family, 0, tmp_path)
    for name in NAMES:
        check(oracle.model, name)


def test_a_deepseek_gives_the_logits_of_its_eager_experts() -> None:
    model = deepseek()
    for name in NAMES:
        check(model, name)


def test_a_model_is_loaded_with_our_experts_by_name(tmp_path) -> None:
    oracle = build("mixtral", 0, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="expertly_int8",
    )
    assert model.config._experts_implementation == "expertly_int8"
    ids_BS, mask_BS = ragged(90, seed=3)
    found_TV = logits(model, ids_BS, mask_BS, "expertly_int8")
    assert torch.equal(found_TV, logits(oracle.model, ids_BS, mask_BS, "expertly_int8"))


def test_generation_in_bfloat16_picks_the_tokens_of_the_eager_experts(tmp_path) -> None:
    model = build("mixtral", 0, tmp_path).model.bfloat16()
    ids_BS = torch.tensor([[5, 17, 3]])
    found = []
    for name in ("eager", "expertly_bf16"):
        model.set_experts_implementation(name)
        found.append(model.generate(ids_BS, max_new_tokens=8, do_sample=False, pad_token_id=0))
    assert found[0].shape[1] == 11
    assert torch.equal(*found)


def test_compiled_code_calls_our_experts_between_its_pieces() -> None:
    experts = made()
    experts.config._experts_implementation = "expertly_bf16"

    def doubled(x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
        return experts(x_TD + x_TD, ids_TK, weights_TK) * 2

    with torch.no_grad():
        compiled = torch.compile(doubled, backend="eager")
        assert torch.equal(compiled(*asked()), doubled(*asked()))


def test_training_a_model_with_our_experts_is_refused(tmp_path) -> None:
    model = build("mixtral", 0, tmp_path).model
    model.set_experts_implementation("expertly_bf16")
    with pytest.raises(InputError, match="MixtralExperts: these kernels compute no gradients"):
        model(torch.tensor([[5, 17, 3]]))


def test_the_names_are_returned_and_known_to_transformers(names) -> None:
    assert names == NAMES == ("expertly_bf16", "expertly_int8", "expertly_int4")
    assert set(names) <= set(ALL_EXPERTS_FUNCTIONS.valid_keys())


def test_options_that_this_machine_cannot_follow_are_refused() -> None:
    with pytest.raises(InputError, match="no kernels 'sse9'") as raised:
        expertly.plug_into_transformers(kernels="sse9")
    assert "generic" in raised.value.hint
    with pytest.raises(InputError, match="threads=0"):
        expertly.plug_into_transformers(threads=0)


def test_without_transformers_the_call_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.integrations.moe", None)
    with pytest.raises(InputError, match="no transformers") as raised:
        expertly.plug_into_transformers()
    assert "pip install" in raised.value.hint


def test_a_process_imports_transformers_when_it_plugs_in_and_ends_without_a_word(tmp_path) -> None:
    build("mixtral", 0, tmp_path)
    code = (
        "import sys, torch, expertly.plug\n"
        "print('transformers' in sys.modules)\n"
        "expertly.plug_into_transformers(threads=2)\n"
        "import transformers\n"
        "model = transformers.MixtralForCausalLM.from_pretrained(\n"
        "    sys.argv[1], experts_implementation='expertly_int4')\n"
        "with torch.no_grad():\n"
        "    print(model(torch.tensor([[1, 2]])).logits.shape[1])\n"
        "transformers.integrations.moe.ExpertsInterface.kept = model\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "2"]
    assert "nanobind" not in ran.stderr and "Error" not in ran.stderr
