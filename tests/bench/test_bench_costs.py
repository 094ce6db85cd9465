import dataclasses

import pytest
from bench_fakes import CONFIG
from small_models import MIXTURE, PLAIN

from expertly.bench.costs import bits_a_weight, cache_bytes, decode_bytes, prefill_ops
from expertly.bench.work import DECODE_STEPS, plan
from expertly.config import Dense, Layer, ModelConfig
from expertly.planner import costs


def with_layers(*layers: Layer) -> ModelConfig:
    return dataclasses.replace(CONFIG, layers=layers)


def test_a_prefilled_token_multiplies_projections_and_chosen_experts() -> None:
    # q and o: 16 x 24, k and v: 16 x 12; two experts of three matrices of 16 x 10
    a_layer = 2 * 16 * 24 + 2 * 16 * 12 + 2 * 3 * 16 * 10
    assert prefill_ops(CONFIG) == 2 * 2 * a_layer


def test_biases_and_norms_are_no_products() -> None:
    attention = dataclasses.replace(PLAIN, has_qkv_bias=True, has_output_bias=True, qk_norm="head")
    mixture = dataclasses.replace(MIXTURE, has_expert_bias=True)
    layer = Layer(attention=attention, feed_forward=mixture)
    assert prefill_ops(with_layers(layer, layer)) == prefill_ops(CONFIG)


def test_dense_layers_and_shared_experts_count_whole() -> None:
    dense = with_layers(Layer(attention=PLAIN, feed_forward=Dense(size=14)))
    assert prefill_ops(dense) == 2 * (2 * 16 * 24 + 2 * 16 * 12 + 3 * 16 * 14)
    shared = dataclasses.replace(MIXTURE, shared_size=6)
    both = with_layers(Layer(attention=PLAIN, feed_forward=shared))
    assert prefill_ops(both) == prefill_ops(CONFIG) // 2 + 2 * 3 * 16 * 6


def test_a_token_reads_keys_and_values_of_all_it_sees() -> None:
    # two layers, keys and values of 2 heads of 6, 2 bytes each
    assert cache_bytes(CONFIG, 10) == 2 * 2 * 2 * 6 * 2 * 10
    windowed = dataclasses.replace(PLAIN, window=4)
    config = with_layers(Layer(attention=windowed, feed_forward=MIXTURE))
    assert cache_bytes(config, 10) == cache_bytes(config, 4) == 2 * 2 * 6 * 2 * 4
    assert cache_bytes(config, 3) == 2 * 2 * 6 * 2 * 3


def test_decoding_reads_dense_weights_once_a_call_and_each_expert_once() -> None:
    (work,) = plan([], [7], [3], vocab_size=50, max_context=100)
    found = decode_bytes(
        CONFIG, work, dense_bytes=1000, expert_bytes=[10, 100], touched=[70, 80], bytes_per_value=4
    )
    # a stream's new tokens see 8, 9, ... 39 tokens
    seen = sum(range(8, 8 + DECODE_STEPS))
    assert found == 1000 * DECODE_STEPS + 700 + 8000 + 3 * seen * (2 * 2 * 2 * 6 * 4)


def test_alone_at_one_token_a_step_costs_what_the_planner_says() -> None:
    (work,) = plan([], [0], [1], vocab_size=50, max_context=100)
    layers = [costs.expert_bytes(CONFIG, layer) for layer in range(2)]
    context = range(1, DECODE_STEPS + 1)
    expected = sum(costs.decode_bytes_per_token(CONFIG, 16, length) for length in context)
    row = 2 * CONFIG.hidden_size
    dense = costs.decode_bytes_per_token(CONFIG) - costs.chosen_expert_bytes(CONFIG) - row
    touched = [2 * DECODE_STEPS] * 2
    found = decode_bytes(CONFIG, work, dense_bytes=dense, expert_bytes=layers, touched=touched)
    assert found == expected - DECODE_STEPS * row


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_bits_are_those_of_the_weights_that_are_multiplied(bits: int) -> None:
    table = CONFIG.vocab_size * CONFIG.hidden_size
    experts = [costs.expert_params(MIXTURE, 16) * bits // 8] * 2
    routed = costs.routed_expert_params(CONFIG)
    dense = (costs.total_params(CONFIG) - routed - table) * bits // 8
    assert bits_a_weight(CONFIG, dense, experts) == pytest.approx(bits)
    tied = dataclasses.replace(CONFIG, is_tied=True)
    assert bits_a_weight(tied, dense, experts) == pytest.approx(bits)
