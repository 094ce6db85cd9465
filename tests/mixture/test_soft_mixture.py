"""Soft mixtures against their formulas, a sequence and a slot at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expertly.config import SoftMixture
from expertly.mixture.soft import SoftMixtureLayer

WIDTH = 8
MIXTURE = SoftMixture(num_experts=3, num_slots=2, expert_size=5, has_expert_bias=True)


def layer_of(dtype: torch.dtype = torch.float32) -> SoftMixtureLayer:
    layer = SoftMixtureLayer(WIDTH, MIXTURE, dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.6, generator=generator)
        layer.router.scale_1.fill_(3.0)
    return layer


def some_sequences(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def slow(layer: SoftMixtureLayer, x_SD: Tensor) -> Tensor:
    """One sequence without padding, in float64 (arXiv 2308.00951, equations 1 to 3)."""
    x_SD = x_SD.double()
    experts = layer.experts
    slots = [layer.router.w_slots_EPD[e, p].double() for e in range(3) for p in range(2)]
    scale = float(layer.router.scale_1.detach())
    logits = torch.tensor(
        [[scale * float(x @ s / (x.norm() * s.norm())) for s in slots] for x in x_SD],
        dtype=torch.float64,
    )
    dispatch = logits.exp() / logits.exp().sum(0)
    combine = logits.exp() / logits.exp().sum(1, keepdim=True)
    outputs = []
    for index in range(len(slots)):
        e = index // 2
        slot_D = sum(dispatch[t, index] * x_SD[t] for t in range(len(x_SD)))
        gate = experts.w_gate_EFD[e].double() @ slot_D + experts.b_gate_EF[e].double()
        up = experts.w_up_EFD[e].double() @ slot_D + experts.b_up_EF[e].double()
        hidden = gate / (1 + (-gate).exp()) * up
        outputs.append(experts.w_down_EDF[e].double() @ hidden + experts.b_down_ED[e].double())
    return torch.stack(
        [sum(combine[t, i] * y for i, y in enumerate(outputs)) for t in range(len(x_SD))]
    )


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 1000))
def test_a_soft_mixture_is_its_formulas(batch, length, seed) -> None:
    layer, x_BSD = layer_of(), some_sequences(batch, length, seed)
    with torch.no_grad():
        found_BSD = layer(x_BSD, torch.ones(batch, length).bool())
        expected_BSD = torch.stack([slow(layer, x_SD) for x_SD in x_BSD])
    torch.testing.assert_close(found_BSD.double(), expected_BSD, rtol=1e-4, atol=1e-5)


def test_padding_is_in_no_slot_whatever_it_holds() -> None:
    layer, x_BSD = layer_of(), some_sequences(2, 5)
    mask_BS = torch.tensor([[False, True, True, True, False], [True] * 5])
    other_BSD = torch.where(mask_BS.unsqueeze(-1), x_BSD, 1e4)
    with torch.no_grad():
        found_BSD, again_BSD = layer(x_BSD, mask_BS), layer(other_BSD, mask_BS)
        alone_SD = layer(x_BSD[:1, 1:4], torch.ones(1, 3).bool())[0]
    assert torch.equal(found_BSD[mask_BS], again_BSD[mask_BS])
    torch.testing.assert_close(found_BSD[0, 1:4], alone_SD, rtol=1e-5, atol=1e-6)


def test_sequences_do_not_see_each_other() -> None:
    layer, x_BSD = layer_of(), some_sequences(2, 4)
    changed_BSD = torch.cat((x_BSD[:1], x_BSD[1:] + 1))
    mask_BS = torch.ones(2, 4).bool()
    with torch.no_grad():
        assert torch.equal(layer(x_BSD, mask_BS)[0], layer(changed_BSD, mask_BS)[0])


def test_tokens_see_later_ones_so_that_it_is_not_causal() -> None:
    layer, x_BSD = layer_of(), some_sequences(1, 4)
    changed_BSD = torch.cat((x_BSD[:, :3], x_BSD[:, 3:] + 1), 1)
    mask_BS = torch.ones(1, 4).bool()
    with torch.no_grad():
        assert not torch.allclose(layer(x_BSD, mask_BS)[0, 0], layer(changed_BSD, mask_BS)[0, 0])


def test_a_sequence_of_padding_alone_is_finite() -> None:
    layer, x_BSD = layer_of(), some_sequences(2, 3).requires_grad_()
    y_BSD = layer(x_BSD, torch.tensor([[False] * 3, [True] * 3]))
    y_BSD.sum().backward()
    assert y_BSD.isfinite().all()
    assert x_BSD.grad.isfinite().all()


def test_every_parameter_of_a_soft_mixture_gets_a_gradient() -> None:
    layer = layer_of()
    layer(some_sequences(2, 4), torch.ones(2, 4).bool()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_shares_are_float32_and_sum_to_one_in_half_precision() -> None:
    layer, x_BSD = layer_of(torch.bfloat16), some_sequences(2, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dispatch_BSX, combine_BSX = layer.router(x_BSD, torch.ones(2, 6).bool())
    assert dispatch_BSX.dtype == combine_BSX.dtype == torch.float32
    torch.testing.assert_close(dispatch_BSX.sum(1), torch.ones(2, 6))
    torch.testing.assert_close(combine_BSX.sum(2), torch.ones(2, 6))
    assert layer(x_BSD, torch.ones(2, 6).bool()).dtype == torch.bfloat16
