"""Whole models with each rule: gradients, padding, causality, and what refuses them."""

import dataclasses

import pytest
import router_rules
import torch
from small_models import draw_ids

from expertly.config import Mixture, ModelConfig, Router
from expertly.errors import ConfigError
from expertly.families import parameters
from expertly.model import Decoder, NativeDecoder, initialise
from expertly.model.native_layers import check_native
from expertly.model.weights import NativeWeights

every_rule = pytest.mark.parametrize("name", router_rules.NAMES)
NATIVE = ["softmax", "switch", "next", "sparsemixer", "emo"]


def model_of(config: ModelConfig, seed: int = 0) -> Decoder:
    model = Decoder(config)
    initialise(model, seed, std=0.4)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if "b_steer" in name:
            buffer.normal_(0.0, 0.3, generator=generator)
    return model.eval()


@every_rule
def test_a_decoder_has_what_its_config_lists_buffers_too(name: str) -> None:
    config = router_rules.config_of(name)
    found = {key: tuple(tensor.shape) for key, tensor in Decoder(config).state_dict().items()}
    assert found == parameters(config)


@every_rule
def test_training_reaches_every_parameter(name: str) -> None:
    model = model_of(router_rules.config_of(name)).train()
    torch.manual_seed(0)
    # capacity, pools and samples leave some out of one batch
    for seed in range(4):
        ids_BS = draw_ids(model.config, 3, 9, seed=seed)
        model(ids_BS, routings=True).logits.square().mean().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@every_rule
def test_padding_changes_no_other_token(name: str) -> None:
    model = model_of(router_rules.config_of(name))
    ids_BS = draw_ids(model.config, 2, 8)
    mask_BS = torch.tensor([[False] * 3 + [True] * 5, [True] * 8])
    with torch.no_grad():
        first = model(ids_BS, mask_BS, routings=True)
        other = model(torch.where(mask_BS, ids_BS, 39 - ids_BS), mask_BS)
        # rows of padding move the others' places in a product, so not to the bit
        torch.testing.assert_close(
            first.logits[mask_BS], other.logits[mask_BS], rtol=1e-4, atol=1e-4
        )
        if name not in router_rules.NONCAUSAL:
            alone = model(ids_BS[:1, 3:])
            torch.testing.assert_close(first.logits[0, 3:], alone.logits[0], rtol=1e-4, atol=1e-4)


@every_rule
def test_a_model_is_causal_if_it_says_so_and_only_then(name: str) -> None:
    model = model_of(router_rules.config_of(name))
    ids_BS = draw_ids(model.config, 1, 9)
    changed_BS = ids_BS.clone()
    changed_BS[:, -2:] = 39 - changed_BS[:, -2:]
    with torch.no_grad():
        is_same = torch.allclose(
            model(ids_BS).logits[:, :-2], model(changed_BS).logits[:, :-2], rtol=1e-4, atol=1e-4
        )
    assert model.config.is_causal == is_same == (name not in router_rules.NONCAUSAL)


@every_rule
def test_outside_of_training_nothing_is_drawn(name: str) -> None:
    model = model_of(router_rules.config_of(name))
    ids_BS = draw_ids(model.config, 2, 8)
    before = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(model(ids_BS).logits, model(ids_BS).logits)
    assert torch.equal(torch.get_rng_state(), before)


@every_rule
def test_a_seed_decides_all_that_training_draws(name: str) -> None:
    model = model_of(router_rules.config_of(name)).train()
    ids_BS = draw_ids(model.config, 2, 8)
    found = []
    for _ in range(2):
        torch.manual_seed(11)
        found.append(model(ids_BS).logits)
    assert torch.equal(*found)


@every_rule
def test_native_kernels_take_what_they_compute_and_refuse_the_rest(name: str) -> None:
    config = router_rules.config_of(name)
    if name in NATIVE:
        check_native(config)
        return
    with pytest.raises(ConfigError, match="native kernels do not compute the mixture of layer 0"):
        check_native(config)
    with pytest.raises(ConfigError, match="native kernels"):
        NativeDecoder(config, NativeWeights(), 1)


def test_every_field_of_a_mixture_is_known_to_the_check_of_native_kernels() -> None:
    # those that the kernels compute, and those that only training heeds
    computed = {"rule", "norm_p", "jitter", "has_bias"}
    of_training = {"input_jitter", "min_pool", "capacity", "min_rows"}
    strange: dict[str, object] = {
        "score": "sigmoid",
        "scale": 2.0,
        "has_steering_bias": True,
        "groups": {"num": 3, "num_chosen": 2},
        "norm_eps": 1e-6,
        "has_expert_scale": True,
        "has_noise": True,
    }
    fields = {field.name for field in dataclasses.fields(Router)}
    assert fields == computed | of_training | strange.keys()
    for name, value in strange.items():
        hf = router_rules.spelled("softmax")
        hf["mixture"] = {**hf["mixture"], "router": {name: value}}
        with pytest.raises(ConfigError, match=f"its {name} is"):
            check_native(router_rules.read_config(hf))


def idle_config(family_chosen: int, norm_p: float | None) -> ModelConfig:
    config = router_rules.config_of("softmax")
    rule = config.layers[1].feed_forward
    assert isinstance(rule, Mixture)
    changed = dataclasses.replace(rule, num_chosen=family_chosen, router=Router(norm_p=norm_p))
    layers = (config.layers[0], dataclasses.replace(config.layers[1], feed_forward=changed))
    return dataclasses.replace(config, layers=layers)


@pytest.mark.parametrize("norm_p", [1.0, 2.0])
def test_one_expert_whose_weight_is_always_one_is_run_but_not_trained(norm_p: float) -> None:
    model = model_of(idle_config(1, norm_p))
    with torch.no_grad():
        assert model(draw_ids(model.config, 1, 4)).logits.isfinite().all()
    with pytest.raises(ConfigError, match=r"layer 1 chooses 1 expert.*no gradient"):
        model.train()
    assert not model.training


@pytest.mark.parametrize(("num_chosen", "norm_p"), [(1, None), (2, 1.0), (2, None)])
def test_other_routers_are_trained(num_chosen: int, norm_p: float | None) -> None:
    assert model_of(idle_config(num_chosen, norm_p)).train().training


def test_a_weight_divided_by_itself_has_indeed_no_gradient() -> None:
    model = model_of(idle_config(1, 1.0))
    model(draw_ids(model.config, 2, 6)).logits.square().mean().backward()
    assert model.layers[1].feed_forward.router.w_ED.grad.abs().max() < 1e-7
    assert model.layers[0].feed_forward.router.w_ED.grad.abs().max() > 1e-4


def test_steering_biases_start_at_zero_where_trainers_look_for_them() -> None:
    model = Decoder(router_rules.config_of("deepseek_v3"))
    initialise(model, 0)
    for layer in model.layers:
        assert layer.feed_forward.router.b_steer_E.dtype == torch.float32
        assert layer.feed_forward.router.b_steer_E.tolist() == [0.0] * 6


def test_tables_of_token_ids_follow_the_seed() -> None:
    config = router_rules.config_of("hash")
    tables = []
    for seed in (1, 1, 2):
        model = Decoder(config)
        initialise(model, seed)
        tables.append(model.layers[1].feed_forward.router.table_VK)
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_a_hash_goes_by_token_ids_whatever_stands_before_them() -> None:
    model = model_of(router_rules.config_of("hash"))
    ids_BS = torch.tensor([[5, 7, 5], [7, 5, 5]])
    with torch.no_grad():
        routing = model(ids_BS, routings=True).routings[1]
    table_VK = model.layers[1].feed_forward.router.table_VK
    for token, token_id in enumerate(ids_BS.flatten().tolist()):
        rows = routing.token_R == token
        experts = torch.arange(6).repeat_interleave(routing.counts_E)[rows]
        assert sorted(experts.tolist()) == sorted(table_VK[token_id].tolist())
