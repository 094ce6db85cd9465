"""Weights of every layout that transformers knows become the same native experts."""

import itertools

import pytest
import torch
from plug_modules import NUM_EXPERTS, SIZE, TOLERANCES, WIDTH, asked, error, made, ours
from torch import nn
from torch.nn import functional as F

from expertly.errors import InputError
from expertly.plug.packing import pack, stacks_of

TRAITS = ("has_bias", "is_transposed", "is_concatenated", "has_post_expert_norm")


@pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=4)))
def test_gated_experts_of_any_traits_agree_with_transformers(values) -> None:
    module = made(**dict(zip(TRAITS, values, strict=True)))
    with torch.no_grad():
        right_TD = module(*asked())
        for dtype, tolerance in TOLERANCES.items():
            assert error(ours(dtype)(module, *asked()), right_TD) < tolerance


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_experts_without_a_gate_agree_with_transformers(has_bias, is_transposed) -> None:
    module = made(
        has_gate=False,
        has_bias=has_bias,
        is_transposed=is_transposed,
        act=lambda x: F.relu(x).square(),
    )
    with torch.no_grad():
        assert error(ours()(module, *asked()), module(*asked())) < TOLERANCES["bf16"]


def test_the_parts_of_interleaved_transposed_weights_are_where_they_belong() -> None:
    module = made(is_concatenated=False, is_transposed=True, has_bias=True)
    stacks = stacks_of(module)
    assert stacks.gate_EFD.shape == stacks.up_EFD.shape == (NUM_EXPERTS, SIZE, WIDTH)
    assert stacks.down_EDF.shape == (NUM_EXPERTS, WIDTH, SIZE)
    # row 3 of gate is input column 6 of both, row 3 of up its column 7
    assert torch.equal(stacks.gate_EFD[1, 3], module.gate_up_proj[1, :, 6])
    assert torch.equal(stacks.up_EFD[1, 3], module.gate_up_proj[1, :, 7])
    assert stacks.b_gate_EF[2, 5] == module.gate_up_proj_bias[2, 10]
    assert stacks.b_up_EF[2, 5] == module.gate_up_proj_bias[2, 11]


def test_the_parts_are_views_and_copy_nothing() -> None:
    module = made(is_transposed=True)
    stacks = stacks_of(module)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    parts = (stacks.gate_EFD, stacks.up_EFD, stacks.down_EDF)
    assert {part.untyped_storage().data_ptr() for part in parts} == own


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_read_as_the_numbers_they_are(dtype: torch.dtype) -> None:
    module = made(has_bias=True).to(dtype)
    with torch.no_grad():
        found_TD = ours()(module, *asked())
        assert error(found_TD, module.float()(*asked())) < TOLERANCES["bf16"]


def test_a_trait_that_nobody_here_has_heard_of_is_refused_by_name() -> None:
    module = made()
    module.has_pre_expert_norm = True
    with pytest.raises(InputError, match="Experts: the kernels cannot read has_pre_expert_norm"):
        pack(module, "bf16", 1)


def test_a_trait_that_is_unknown_but_off_does_no_harm() -> None:
    module = made()
    module.has_pre_expert_norm = False
    pack(module, "bf16", 1)


def test_a_parameter_that_would_be_left_over_is_refused_by_name() -> None:
    module = made()
    module.gate_up_proj_scale = nn.Parameter(torch.ones(NUM_EXPERTS))
    with pytest.raises(InputError, match="cannot read gate_up_proj_scale"):
        pack(module, "bf16", 1)


def test_a_parameter_that_is_missing_is_refused_by_name() -> None:
    module = made()
    del module.down_proj
    with pytest.raises(InputError, match="cannot read no down_proj"):
        pack(module, "bf16", 1)


def test_weights_that_are_quantised_already_are_refused_by_their_type() -> None:
    module = made()
    module.down_proj = nn.Parameter(module.down_proj.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"down_proj of type torch\.int8"):
        pack(module, "int8", 1)


def test_a_layout_that_word_and_code_tell_differently_is_refused() -> None:
    module = made(is_concatenated=True)
    module.is_concatenated = False
    with pytest.raises(InputError, match="no rule for its activation"):
        pack(module, "bf16", 1)


def test_packing_on_more_threads_changes_nothing() -> None:
    module = made(has_bias=True)
    with torch.no_grad():
        found = [ours("int4", threads=n)(module, *asked()) for n in (1, 3)]
    assert torch.equal(*found)
