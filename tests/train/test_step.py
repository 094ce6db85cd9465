from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from balance_tables import balanced_by
from torch import Tensor

from expertly.mixture import balance
from expertly.train.begin import make_model
from expertly.train.recipe import Recipe
from expertly.train.state import State, fingerprint, make_optimisers
from expertly.train.step import take_step
from expertly.train.texts import open_domains
from expertly.train.vocabulary import make_tokenizer

MakeState = Callable[[Recipe], State]


@pytest.fixture
def make_state(tmp_path: Path) -> MakeState:
    def make(recipe: Recipe) -> State:
        tokenizer = make_tokenizer(recipe, open_domains(("poem.txt",), (), 0.1, tmp_path), tmp_path)
        model = make_model(recipe, tokenizer)
        return State(model=model, optimisers=make_optimisers(model, recipe.optimiser))

    return make


def batches(recipe: Recipe, step: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    shape = (recipe.run.accumulation, recipe.run.batch, recipe.data.sequence + 1)
    return list(torch.randint(280, shape, generator=generator))


def parameters(state: State) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.model.parameters()]


def test_a_step_is_adamw_on_the_mean_of_all_losses(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    recipe = make_recipe(balanced_by(weight=0.5, z=0.25))
    state, other = make_state(recipe), make_state(recipe)
    report = take_step(state, recipe, batches(recipe), torch.float32, read=False)
    # the same by hand: one batch of all sequences, the plain definitions, torch's clipping
    ids_BS = torch.cat(batches(recipe))
    loss = 0.0
    for half_BS in ids_BS.split(2):
        out = other.model(half_BS[:, :-1], routings=True)
        nats = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), half_BS[:, 1:].flatten())
        balances = torch.stack([balance.load_balance(r) for r in out.routings])
        zs = torch.stack([balance.router_z(r) for r in out.routings])
        loss = loss + (nats + 0.5 * balances.mean() + 0.25 * zs.mean()) / 2
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(other.model.parameters(), 1.0)
    for group in other.optimisers[0].param_groups:
        group["lr"] = 0.01 / 3  # the first of three steps of warm-up
    other.optimisers[0].step()
    total = report.loss + 0.5 * report.balance + 0.25 * report.z
    assert total == pytest.approx(loss.item(), rel=1e-5)
    assert report.grad_norm == pytest.approx(float(norm), rel=1e-4)
    for ours, theirs in zip(state.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
    assert (state.step, state.tokens, state.skipped) == (1, 2 * 2 * 16, 0)


def test_weights_decay_and_norms_and_biases_do_not(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    state = make_state(make_recipe())
    decayed, kept = state.optimisers[0].param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    decayed_ids = {id(parameter) for parameter in decayed["params"]}
    for name, parameter in state.model.named_parameters():
        leaf = name.rpartition(".")[2]
        is_matrix = "norm" not in name and leaf.startswith(("w_", "embed_")) and parameter.dim() > 1
        assert (id(parameter) in decayed_ids) == is_matrix, name
    num = len(decayed["params"]) + len(kept["params"])
    assert num == len(list(state.model.parameters()))


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    recipe = make_recipe()
    state = make_state(recipe)
    take_step(state, recipe, batches(recipe), torch.float32, read=False)
    before = fingerprint(state)
    weights = parameters(state)
    hook = state.model.embed_VD.register_hook(lambda grad: grad * float("inf"))
    for _ in range(2):
        report = take_step(state, recipe, batches(recipe), torch.float32, read=False)
        assert report.is_skipped
    assert all(map(torch.equal, weights, parameters(state)))
    assert (state.step, state.skipped, state.skipped_in_a_row) == (3, 2, 2)
    assert fingerprint(state) != before  # the counters are part of the state
    hook.remove()
    assert not take_step(state, recipe, batches(recipe), torch.float32, read=False).is_skipped
    assert (state.skipped, state.skipped_in_a_row) == (2, 0)
    assert all(torch.isfinite(parameter).all() for parameter in state.model.parameters())


def test_a_loss_that_is_not_finite_is_skipped_too(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    recipe = make_recipe()
    state = make_state(recipe)
    with torch.no_grad():
        state.model.embed_VD[0, 0] = float("nan")
    state.model.eval()
    weights = parameters(state)
    assert take_step(state, recipe, batches(recipe), torch.float32, read=False).is_skipped
    for old, new in zip(weights, parameters(state), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, equal_nan=True)


def test_readings_are_of_all_batches_of_the_step(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    recipe = make_recipe()
    state = make_state(recipe)
    seen = torch.zeros(2, 4, dtype=torch.int64)
    with torch.no_grad():
        for ids_BS in batches(recipe):
            routings = state.model(ids_BS[:, :-1], routings=True).routings
            seen += torch.stack([routing.counts_E for routing in routings])
    report = take_step(state, recipe, batches(recipe), torch.float32, read=True)
    assert [reading.layer for reading in report.readings] == [0, 1]
    for reading, counts_E in zip(report.readings, seen, strict=True):
        mean = counts_E.double().mean()
        assert reading.max_violation == pytest.approx(float((counts_E.max() - mean) / mean))
        assert reading.busiest[0] == int(counts_E.argmax())
        assert reading.step == 1 and reading.num_experts == 4
        assert 0 < reading.token_entropy <= 1.3863
    assert take_step(state, recipe, batches(recipe), torch.float32, read=False).readings == []


def test_a_dense_model_has_no_readings_and_no_router_losses(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    recipe = make_recipe()
    kept = {key: value for key, value in recipe.model.items() if "expert" not in key}
    dense = {key: value for key, value in kept.items() if not key.startswith(("moe", "norm_topk"))}
    recipe = replace(recipe, model={**dense, "model_type": "qwen2"})
    report = take_step(make_state(recipe), recipe, batches(recipe), torch.float32, read=True)
    assert (report.balance, report.z, report.readings) == (0.0, 0.0, [])


def test_bfloat16_multiplies_in_bfloat16_and_keeps_float32_weights(
    make_recipe: Callable[..., Recipe], make_state: MakeState
) -> None:
    recipe = make_recipe()
    state, other = make_state(recipe), make_state(recipe)
    rounded = take_step(state, recipe, batches(recipe), torch.bfloat16, read=False)
    exact = take_step(other, recipe, batches(recipe), torch.float32, read=False)
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=1e-2)
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}
