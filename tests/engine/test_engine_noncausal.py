"""Models that are not causal write only when somebody asks for it."""

import pytest
import router_rules
import torch

from expertly.engine import Engine, Sampling
from expertly.errors import InputError
from expertly.model import Decoder, initialise

GREEDY = Sampling(temperature=0.0, max_tokens=5)


def model_of(name: str) -> Decoder:
    model = Decoder(router_rules.config_of(name))
    initialise(model, 1, std=0.4)
    return model.eval()


@pytest.mark.parametrize("name", router_rules.NONCAUSAL)
def test_a_model_that_is_not_causal_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InputError, match="not causal") as caught:
        Engine(model_of(name))
    assert "allow_noncausal=True" in caught.value.hint


@pytest.mark.parametrize("name", router_rules.NONCAUSAL)
def test_it_writes_when_that_is_allowed(name: str) -> None:
    with Engine(model_of(name), allow_noncausal=True) as engine:
        found = engine.generate([1, 2, 3], GREEDY)
    assert len(found.token_ids) == 5


def test_it_reads_a_prompt_in_one_piece() -> None:
    model = model_of("expert_choice")
    widths = []
    model.layers[0].register_forward_pre_hook(lambda m, inputs: widths.append(inputs[0].shape[1]))
    with Engine(model, allow_noncausal=True) as engine:
        engine.read([1] * 60)
    assert widths == [60]


@pytest.mark.parametrize("name", [n for n in router_rules.NAMES if n not in router_rules.NONCAUSAL])
def test_causal_models_write_what_one_pass_over_the_text_would_choose(name: str) -> None:
    model = model_of(name)
    prompt = [3, 1, 4, 1, 5]
    with Engine(model) as engine:
        written = list(engine.generate(prompt, GREEDY).token_ids)
    with torch.no_grad():
        logits_SV = model(torch.tensor([prompt + written])).logits[0]
    assert written == logits_SV[len(prompt) - 1 : -1].argmax(-1).tolist()


def test_pieces_carry_routings_of_as_many_experts_as_each_token_had() -> None:
    model = model_of("relu")
    with Engine(model, routings=True) as engine:
        pieces = engine.read([3, 1, 4, 1, 5])
    with torch.no_grad():
        whole = model(torch.tensor([[3, 1, 4, 1, 5]]), routings=True).routings[1]
    found = [len(piece.routings[1].token_R) for piece in pieces]
    assert found == whole.token_R.bincount(minlength=5).tolist()
