"""Every mixture of transformers that lets others run its experts, held against its own code."""

import functools

import pytest
import torch
import transformers
from plug_modules import TOLERANCES, asked, error, ours, randomised

from expertly.errors import InputError
from expertly.plug import Family, supported_families, theirs
from expertly.plug.families import table, tiny_experts
from expertly.plug.packing import checked_rule

REFUSED = {"Inkling2Experts"}
DECLARED = theirs.declared()
RUN = [which for which in DECLARED if which.experts not in REFUSED]


@functools.cache
def implementations() -> dict[str, object]:
    return {dtype: ours(dtype) for dtype in TOLERANCES}


@functools.cache
def families() -> list[Family]:
    return supported_families()


@pytest.mark.parametrize("which", RUN, ids=lambda which: f"{which.family}-{which.experts}")
def test_experts_of_a_family_agree_with_its_own_eager_code(which: theirs.Declared) -> None:
    module = randomised(tiny_experts(which))
    with torch.no_grad():
        right_TD = module(*asked())
        found = {name: plug(module, *asked()) for name, plug in implementations().items()}
    errors = {name: error(y_TD, right_TD) for name, y_TD in found.items()}
    print(which.family, which.experts, {name: f"{value:.4f}" for name, value in errors.items()})
    assert all(errors[name] < tolerance for name, tolerance in TOLERANCES.items())


@pytest.mark.parametrize("which", [w for w in DECLARED if w.experts in REFUSED])
def test_experts_that_the_kernels_do_not_compute_are_refused(which: theirs.Declared) -> None:
    with pytest.raises(InputError, match=f"{which.experts}: the kernels have no rule"):
        checked_rule(tiny_experts(which))


def test_the_list_names_every_family_that_declares_it_and_what_it_runs() -> None:
    told = table(families())
    print(told)
    assert [(f.name, f.experts) for f in families()] == [(w.family, w.experts) for w in DECLARED]
    assert {f.experts for f in families() if not f.is_supported} == REFUSED
    assert told.count("| yes |") == len(RUN)
    assert len({f.name for f in families()}) > 50


def test_the_list_has_the_mixtures_that_we_load_ourselves() -> None:
    names = {which.family for which in RUN}
    assert {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss"} <= names


def test_a_class_counts_when_transformers_itself_would_let_it_be_set() -> None:
    # its own test of a model class, over models whose experts are and are not declared
    assert transformers.MixtralForCausalLM._can_set_experts_implementation()
    assert not transformers.DbrxForCausalLM._can_set_experts_implementation()
    assert "dbrx" not in {which.family for which in DECLARED}


@pytest.mark.parametrize(
    ("experts", "activation"),
    [
        ("MixtralExperts", "silu"),
        ("GptOssExperts", "silu(1.702 gate), up + 1, limit 7"),
        ("DeepseekV4Experts", "silu, limit 10"),
        ("Gemma4TextExperts", "gelu_tanh"),
        ("NemotronHExperts", "relu(up) * up, no gate"),
        ("MuseSparkExperts", "silu, a norm after each expert"),
    ],
)
def test_the_list_tells_the_activation_that_was_measured(experts: str, activation: str) -> None:
    family = next(f for f in families() if f.experts == experts)
    assert family.activation == activation


def test_experts_that_no_default_config_describes_are_told_so(monkeypatch) -> None:
    monkeypatch.setattr(theirs, "default_configs", lambda family: iter([transformers.BertConfig()]))
    mixtral = theirs.Declared("mixtral", "MixtralExperts")
    monkeypatch.setattr(theirs, "declared", lambda: [mixtral])
    with pytest.raises(InputError, match="no default config of mixtral describes its MixtralExp"):
        tiny_experts(mixtral)
    (family,) = supported_families()
    assert not family.is_supported and "no default config of mixtral" in table([family])
