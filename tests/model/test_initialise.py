"""Random weights to train from: what is drawn, how wide, and that a seed fixes it."""

import dataclasses

import pytest
import torch
from small_models import EVERYTHING, MIXTURE, PLAIN, build, config_of, draw_ids

from expertly.config import Layer, ModelConfig
from expertly.model import Decoder, initialise

WIDE = config_of(
    *[
        Layer(
            attention=PLAIN,
            feed_forward=dataclasses.replace(MIXTURE, expert_size=48, shared_size=32),
        )
    ]
    * 2,
    hidden_size=96,
    vocab_size=500,
)


def initialised(config: ModelConfig, seed: int, **settings) -> Decoder:
    model = Decoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    initialise(model, seed, **settings)
    return model


def test_every_parameter_is_set() -> None:
    model = initialised(EVERYTHING, 0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_one_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = initialised(EVERYTHING, 5).state_dict()
    torch.rand(7)
    again, other = initialised(EVERYTHING, 5).state_dict(), initialised(EVERYTHING, 6).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["embed_VD"], other["embed_VD"])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    initialised(EVERYTHING, 5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_norms_are_one_and_biases_and_sinks_zero() -> None:
    values = {}
    for name, parameter in initialised(EVERYTHING, 0).named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf.startswith(("b_", "bias", "sinks")):
            values[name] = 0.0
        elif "norm" in name:
            values[name] = 1.0
        if name in values:
            assert parameter.unique().tolist() == [values[name]], name
    ones = [name for name, value in values.items() if value]
    # three layers with two norms each, the last norm, and the norms of queries and keys
    assert len(ones) == 3 * 2 + 1 + 2 + 2


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_matrices_are_as_wide_as_asked_and_those_that_end_a_branch_narrower(std: float) -> None:
    for name, parameter in initialised(WIDE, 0, std=std).named_parameters():
        if parameter.dim() < 2:
            continue
        ends_branch = "w_o_" in name or "w_down_" in name
        # two layers, so four branches: the square root of four
        expected = std / 2 if ends_branch else std
        found = parameter.std().item()
        assert found == pytest.approx(expected, rel=0.2 if parameter.numel() < 500 else 0.08), name
        assert abs(parameter.mean().item()) < 0.3 * std, name


def test_no_two_experts_start_alike() -> None:
    experts = initialised(WIDE, 0).layers[0].feed_forward.experts
    for stack in experts.parameters():
        assert len({expert.sum().item() for expert in stack}) == 4


def test_a_new_model_expects_every_token_alike() -> None:
    model = initialised(WIDE, 0)
    ids_BS = draw_ids(WIDE, 2, 20)
    with torch.no_grad():
        logits = model(ids_BS[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids_BS[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.tensor(500.0).log().item(), abs=0.15)


def test_weights_that_were_there_are_overwritten() -> None:
    model = build(WIDE, seed=9)
    initialise(model, 5)
    fresh = initialised(WIDE, 5).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())
