"""What a decoder is asked, what it answers, and what it refuses."""

import dataclasses
import re

import pytest
import torch
from small_models import EVERYTHING, MIXTURE, PLAIN, build, config_of, draw_ids, relative_error

from expertly.config import Dense, Layer
from expertly.errors import InputError
from expertly.families import parameters
from expertly.mixture import balance
from expertly.mixture.routers import choose
from expertly.model import Cache, Decoder

# root mean square, in standard deviations of the logits
BFLOAT16_BOUND = 0.05


@pytest.fixture(scope="module")
def model() -> Decoder:
    return build(EVERYTHING)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 41, 2]], "token id 41 is outside the vocabulary of 41"),
        ([[1, 2], [-1, 3]], "token id -1 is outside the vocabulary of 41"),
        ([[-7, 400]], "token id -7 is outside the vocabulary of 41"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(model, ids, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        model(torch.tensor(ids))
    assert "tokenizer" in caught.value.hint


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (0,), (4,), (1, 2, 3)], ids=str)
def test_ids_of_another_shape_are_refused(model, shape) -> None:
    with pytest.raises(InputError, match=re.escape(f"shape {shape}")):
        model(torch.zeros(shape, dtype=torch.int64))


def test_the_first_and_last_id_of_the_vocabulary_are_taken(model) -> None:
    with torch.no_grad():
        assert model(torch.tensor([[0, 40]])).logits.shape == (1, 2, 41)


def test_more_tokens_than_the_context_are_refused_with_both_numbers() -> None:
    small = build(config_of(max_context=6))
    with torch.no_grad():
        assert small(draw_ids(small.config, 1, 6)).logits.shape == (1, 6, 41)
    with pytest.raises(InputError, match="7 tokens do not fit the context of 6"):
        small(draw_ids(small.config, 1, 7))


def test_cached_tokens_count_towards_the_context_and_a_refusal_adds_none() -> None:
    small = build(config_of(max_context=6))
    ids_BS = draw_ids(small.config, 1, 6)
    cache = Cache(small.config)
    with torch.no_grad():
        small(ids_BS[:, :4], cache=cache)
        with pytest.raises(InputError, match="7 tokens do not fit the context of 6"):
            small(ids_BS[:, :3], cache=cache)
        assert cache.length == 4
        last = small(ids_BS[:, 4:], cache=cache).logits[:, -1]
        assert relative_error(last, small(ids_BS).logits[:, -1]) < 1e-5


@pytest.mark.parametrize("is_padded", [False, True])
def test_the_last_logits_are_the_last_of_all(model, is_padded) -> None:
    ids_BS = draw_ids(model.config, 3, 7)
    mask_BS = torch.arange(7).expand(3, -1) >= torch.tensor([[0], [2], [6]]) if is_padded else None
    with torch.no_grad():
        every = model(ids_BS, mask_BS).logits
        last = model(ids_BS, mask_BS, logits="last").logits
    assert every.shape == (3, 7, 41) and last.shape == (3, 41)
    assert relative_error(last, every[:, -1]) < 1e-5


def test_nothing_is_routed_unless_it_is_asked_for(model) -> None:
    with torch.no_grad():
        assert model(draw_ids(model.config, 1, 3)).routings is None


def test_routings_come_one_a_mixture_layer_in_order(model) -> None:
    ids_BS = draw_ids(model.config, 2, 5)
    mask_BS = torch.tensor([[False, False, True, True, True], [True] * 5])
    with torch.no_grad():
        routings = model(ids_BS, mask_BS, routings=True).routings
    assert model.config.mixture_layers == (1, 2)
    assert [routing.probs_TE.shape for routing in routings] == [(10, 3), (10, 5)]
    for routing in routings:
        assert routing.mask_T.tolist() == mask_BS.flatten().tolist()
        assert routing.sequence_T.tolist() == [0] * 5 + [1] * 5
        assert routing.token_R.shape == (20,)
        assert routing.counts_E.sum() == 20
        assert routing.logits_TE.dtype == torch.float32


def test_routings_name_the_layers_whose_router_made_them() -> None:
    # with no attention to speak of, the first mixture's logits follow from the embedding
    layers = [
        Layer(attention=PLAIN, feed_forward=dataclasses.replace(MIXTURE, num_experts=num))
        for num in (4, 6)
    ]
    model = build(config_of(layers[0], Layer(attention=PLAIN, feed_forward=Dense(size=8)), *layers))
    seen = []
    hooks = [
        model.layers[i].feed_forward.router.register_forward_hook(
            lambda module, inputs, choice: seen.append((inputs[0], choice))
        )
        for i in (0, 2, 3)
    ]
    with torch.no_grad():
        routings = model(draw_ids(model.config, 1, 6), routings=True).routings
    for hook in hooks:
        hook.remove()
    for routing, (x_TD, choice), layer in zip(routings, seen, (0, 2, 3), strict=True):
        router = model.layers[layer].feed_forward.router
        again = choose(x_TD @ router.w_ED.T, router.num_chosen, router.rule)
        torch.testing.assert_close(routing.logits_TE, again.logits_TE)
        assert torch.equal(routing.logits_TE, choice.logits_TE)


def test_a_cached_step_routes_only_its_new_columns(model) -> None:
    ids_BS = draw_ids(model.config, 2, 6)
    cache = Cache(model.config, batch_size=2)
    with torch.no_grad():
        model(ids_BS[:, :4], cache=cache)
        step = model(ids_BS[:, 4:], cache=cache, routings=True).routings
        whole = model(ids_BS, routings=True).routings
    for new, full in zip(step, whole, strict=True):
        assert new.sequence_T.tolist() == [0, 0, 1, 1]
        expected = full.logits_TE.view(2, 6, -1)[:, 4:].flatten(0, 1)
        torch.testing.assert_close(new.logits_TE, expected, rtol=1e-4, atol=1e-4)


def test_every_parameter_gets_a_gradient_in_a_training_step(model) -> None:
    ids_BS = draw_ids(model.config, 6, 30)
    output = model(ids_BS[:, :-1], routings=True)
    loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), ids_BS[:, 1:].flatten())
    for routing in output.routings:
        loss = loss + 0.01 * balance.load_balance(routing) + 0.001 * balance.router_z(routing)
    model.zero_grad()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-7, name
        # each expert of a stack its own
        if ".experts." in name:
            assert (parameter.grad.flatten(1).abs().max(1).values > 0).all(), name
    model.zero_grad()


def test_the_model_learns_a_text_by_heart() -> None:
    config = config_of(*EVERYTHING.layers[1:], hidden_size=24)
    model = build(config, seed=3).train()
    ids_BS = draw_ids(config, 2, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        logits = model(ids_BS[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids_BS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3.0
    assert losses[-1] < 0.1


def test_a_gradient_is_the_slope_that_finite_differences_find() -> None:
    config = config_of(*EVERYTHING.layers, norm=EVERYTHING.norm)
    model = build(config, dtype=torch.float64)
    ids_BS = draw_ids(config, 1, 7)

    def loss() -> torch.Tensor:
        return model(ids_BS).logits.square().mean()

    model.zero_grad()
    loss().backward()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-2)
            high = loss()
            parameter.sub_(direction, alpha=2e-2)
            low = loss()
            parameter.add_(direction, alpha=1e-2)
        slope = ((high - low) / 2e-2).item()
        expected = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx(expected, rel=1e-3, abs=1e-3), name


def test_a_decoder_has_the_parameters_that_its_config_lists(model) -> None:
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert found == parameters(EVERYTHING)
    assert list(found) == list(model.state_dict())


def test_a_tied_decoder_reads_its_logits_from_the_embedding() -> None:
    tied = build(config_of(is_tied=True))
    free = build(config_of())
    assert "head_VD" not in dict(tied.named_parameters())
    state = {**tied.state_dict(), "head_VD": tied.embed_VD.detach()}
    free.load_state_dict(state)
    ids_BS = draw_ids(tied.config, 1, 5)
    with torch.no_grad():
        assert torch.equal(tied(ids_BS).logits, free(ids_BS).logits)


def test_the_heads_bias_is_added_to_the_logits(model) -> None:
    ids_BS = draw_ids(model.config, 1, 5)
    with torch.no_grad():
        before = model(ids_BS).logits
        model.b_head_V.add_(3.0)
        after = model(ids_BS).logits
        model.b_head_V.sub_(3.0)
    torch.testing.assert_close(after, before + 3.0, rtol=1e-5, atol=1e-4)


def test_a_bfloat16_decoder_stays_near_the_float32_one() -> None:
    half = build(EVERYTHING, seed=2).bfloat16()
    whole = build(EVERYTHING).float()
    whole.load_state_dict(half.state_dict())
    ids_BS = draw_ids(EVERYTHING, 4, 20)
    with torch.no_grad():
        found, exact = half(ids_BS, routings=True), whole(ids_BS, routings=True)
    assert found.logits.dtype == torch.float32
    # tokens that both route alike: another expert is another function
    is_same_T = torch.ones(80, dtype=torch.bool)
    for ours, theirs in zip(found.routings, exact.routings, strict=True):
        num = ours.token_R.shape[0] // 80
        chosen = [r.scores_TE.topk(num).indices.sort(-1).values for r in (ours, theirs)]
        is_same_T &= (chosen[0] == chosen[1]).all(-1)
    assert is_same_T.float().mean() > 0.8
    difference = (found.logits - exact.logits).flatten(0, 1)[is_same_T]
    assert difference.square().mean().sqrt() / exact.logits.std() < BFLOAT16_BOUND
