"""Muon against the singular value decomposition and a transcription of its step."""

import pytest
import torch
from small_models import EVERYTHING

from expertly.model import Decoder, initialise
from expertly.train.muon import Muon, as_matrices, orthogonalise
from expertly.train.recipe import OptimiserRecipe
from expertly.train.state import make_optimisers


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5), (3, 4, 7), (1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = orthogonalise(x)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    inside = left.mT @ y @ right.mT  # diagonal when y shares x's singular vectors
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.6 and values.max() < 1.3
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-3


def test_scaling_a_gradient_does_not_change_the_step() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(orthogonalise(x), orthogonalise(1000 * x), atol=1e-4)


def test_each_expert_of_a_stack_is_turned_by_itself() -> None:
    x = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(2))
    alone = torch.stack([orthogonalise(matrix) for matrix in x])
    assert torch.allclose(orthogonalise(x), alone, atol=1e-5)


def test_two_steps_equal_the_rule_written_out() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(6, 3, generator=generator))
    muon = Muon([("w_up_FD", weight)], lr=0.1, weight_decay=0.5, momentum=0.9)
    expected, velocity = weight.detach().clone(), torch.zeros(6, 3)
    for _ in range(2):
        grad = torch.randn(6, 3, generator=generator)
        weight.grad = grad.clone()
        muon.step()
        velocity = 0.9 * velocity + 0.1 * grad
        ahead = 0.1 * grad + 0.9 * velocity
        # decay by lr * 0.5, then sqrt(6 / 3) times the turned momentum
        expected = expected * (1 - 0.05) - 0.1 * 2**0.5 * orthogonalise(ahead)
    assert torch.allclose(weight.detach(), expected, atol=1e-6)


def test_heads_are_joined_and_experts_kept_apart() -> None:
    assert as_matrices("layers.0.attention.w_q_HCD", torch.zeros(2, 3, 5)).shape == (6, 5)
    assert as_matrices("layers.0.attention.w_o_DHC", torch.zeros(5, 2, 3)).shape == (5, 6)
    assert as_matrices("layers.0.feed_forward.w_up_FD", torch.zeros(4, 5)).shape == (4, 5)
    assert as_matrices("layers.0.experts.w_up_EFD", torch.zeros(7, 4, 5)).shape == (7, 4, 5)


def test_muon_gets_the_layers_matrices_and_adamw_all_else() -> None:
    model = Decoder(EVERYTHING)
    initialise(model, 0)
    recipe = OptimiserRecipe(peak_lr=0.001, matrix_lr=0.02)
    adamw, muon = make_optimisers(model, recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moved = [
        {names[id(p)] for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (adamw, muon)
    ]
    assert moved[0] | moved[1] == set(names.values()) and not moved[0] & moved[1]
    leaves = {name.rpartition(".")[2] for name in moved[1]}
    assert all(leaf.startswith("w_") for leaf in leaves) and "w_ED" not in leaves
    assert {"embed_VD", "norm.weight_D"} <= moved[0]
    assert muon.param_groups[0]["scale"] == pytest.approx(20)
    assert all(group["scale"] == 1 for group in adamw.param_groups)


def test_without_a_rate_for_matrices_adamw_has_everything() -> None:
    model = Decoder(EVERYTHING)
    (adamw,) = make_optimisers(model, OptimiserRecipe(peak_lr=0.001))
    count = sum(len(group["params"]) for group in adamw.param_groups)
    assert count == len(list(model.parameters()))
