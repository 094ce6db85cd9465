import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from expertly.engine import Sampling
from expertly.engine.sample import choose, draw, keep_min_p, keep_top_k, keep_top_p, penalise, warp
from expertly.errors import CheckpointError

NEVER = -math.inf
Floats = NDArray[np.float32]


def logits_of(seed: int, size: int) -> Floats:
    return (torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3).numpy()


def of(*values: float) -> Floats:
    return np.array(values, np.float32)


def theirs(processor: object, logits_V: Floats, ids: list[int] | None = None) -> Floats:
    ids_BS = torch.tensor([ids or [0]])
    return processor(ids_BS, torch.from_numpy(logits_V)[None].clone())[0].numpy()


def num_kept(logits_V: Floats) -> int:
    return int(np.isfinite(logits_V).sum())


SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 10_000)
WEIGHTS = st.floats(0.0, 1.0)


def test_a_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    logits_V = of(2.0, -2.0, 4.0, -4.0)
    assert penalise(logits_V, [0, 1, 0, 0], 2.0).tolist() == [1.0, -4.0, 4.0, -4.0]


def test_top_k_keeps_ties_with_the_last_one() -> None:
    logits_V = of(1.0, 3.0, 2.0, 2.0)
    assert keep_top_k(logits_V, 2).tolist() == [NEVER, 3.0, 2.0, 2.0]
    assert keep_top_k(logits_V, 99).tolist() == logits_V.tolist()


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits_V = np.log(of(0.5, 0.3, 0.15, 0.05))
    kept = [num_kept(keep_top_p(logits_V, p)) for p in (0.0, 0.45, 0.7, 0.9, 0.97)]
    assert kept == [1, 1, 2, 3, 4]


def test_min_p_is_relative_to_the_most_probable() -> None:
    logits_V = np.log(of(0.5, 0.3, 0.15, 0.05))
    kept = [num_kept(keep_min_p(logits_V, p)) for p in (0.05, 0.2, 0.5, 0.7, 1.0)]
    assert kept == [4, 3, 2, 1, 1]


@given(SEEDS, SIZES, st.lists(st.integers(0, 39), min_size=1), st.floats(0.2, 5.0))
@settings(max_examples=60, deadline=None)
def test_the_penalty_is_that_of_transformers(
    seed: int, size: int, seen: list[int], penalty: float
) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits_V, seen = logits_of(seed, size), [i % size for i in seen]
    expected = theirs(RepetitionPenaltyLogitsProcessor(penalty), logits_V, seen)
    assert np.array_equal(penalise(logits_V, seen, penalty), expected)


@given(SEEDS, SIZES, st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_top_k_is_that_of_transformers(seed: int, size: int, top_k: int) -> None:
    from transformers import TopKLogitsWarper

    logits_V = np.round(logits_of(seed, size))  # with ties
    assert np.array_equal(keep_top_k(logits_V, top_k), theirs(TopKLogitsWarper(top_k), logits_V))


@given(SEEDS, SIZES, WEIGHTS)
@settings(max_examples=60, deadline=None)
def test_top_p_is_that_of_transformers(seed: int, size: int, top_p: float) -> None:
    from transformers import TopPLogitsWarper

    logits_V = logits_of(seed, size)
    assert np.array_equal(keep_top_p(logits_V, top_p), theirs(TopPLogitsWarper(top_p), logits_V))


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.8, 0.95])
def test_top_p_of_a_large_vocabulary_is_that_of_a_sort_of_all(top_p: float) -> None:
    """A few tokens have nearly all of the probability, as in texts, and what they have is far more
    than what float32 rounds."""
    logits_V = logits_of(3, 20_000)
    logits_V[:60] = np.linspace(12.0, 18.0, 60)
    logits_V = np.random.default_rng(1).permutation(logits_V)
    order_V = np.argsort(-logits_V.astype(np.float64))
    powers_V = np.exp(logits_V[order_V].astype(np.float64))
    probs_V = powers_V / powers_V.sum()
    # those before which less than top_p lies
    expected = max(1, int((probs_V.cumsum() - probs_V < top_p).sum()))
    kept_N = np.flatnonzero(np.isfinite(keep_top_p(logits_V, top_p)))
    assert kept_N.tolist() == sorted(order_V[:expected].tolist())


def test_top_p_of_one_keeps_a_large_vocabulary() -> None:
    logits_V = logits_of(0, 20_000)
    assert np.array_equal(keep_top_p(logits_V, 1.0), logits_V)


def test_tokens_are_drawn_as_often_as_is_probable() -> None:
    probs_V = of(0.5, 0.0, 0.3, 0.2, 0.0)
    generator = torch.Generator().manual_seed(1)
    drawn = np.bincount([draw(probs_V, generator) for _ in range(20_000)], minlength=5)
    # a standard deviation is at most 71
    assert np.abs(drawn - 20_000 * probs_V).max() < 300


@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 0.1, 1.0]), min_size=1, max_size=9), SEEDS)
@settings(max_examples=100, deadline=None)
def test_what_has_no_probability_is_never_drawn(weights: list[float], seed: int) -> None:
    assume(sum(weights) > 0)
    generator = torch.Generator().manual_seed(seed)
    assert weights[draw(of(*weights), generator)] > 0


def test_the_least_and_the_largest_number_draw_the_first_and_the_last(monkeypatch) -> None:
    probs_V = of(0.0, 0.7, 0.0, 0.3, 0.0)
    found = []
    for number in (0, (1 << 52) - 1):
        monkeypatch.setattr(torch, "randint", lambda *_, n=number, **__: torch.tensor(n))
        found.append(draw(probs_V, torch.Generator()))
    assert found == [1, 3]


@given(SEEDS, SIZES, WEIGHTS)
@settings(max_examples=60, deadline=None)
def test_min_p_is_that_of_transformers(seed: int, size: int, min_p: float) -> None:
    from transformers import MinPLogitsWarper

    logits_V = logits_of(seed, size)
    assert np.array_equal(keep_min_p(logits_V, min_p), theirs(MinPLogitsWarper(min_p), logits_V))


@given(SEEDS, st.floats(0.05, 3.0), st.integers(1, 30), WEIGHTS, WEIGHTS, st.floats(0.5, 2.0))
@settings(max_examples=60, deadline=None)
def test_all_together_come_in_the_order_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    from transformers.generation import logits_process as theirs_all

    logits_V, seen = logits_of(seed, 30), [1, 2, 3]
    chain = theirs_all.LogitsProcessorList(
        [
            theirs_all.RepetitionPenaltyLogitsProcessor(penalty),
            theirs_all.TemperatureLogitsWarper(temperature),
            theirs_all.TopKLogitsWarper(top_k),
            theirs_all.TopPLogitsWarper(top_p),
            theirs_all.MinPLogitsWarper(min_p),
        ]
    )
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
    )
    assert np.array_equal(warp(logits_V, seen, sampling), theirs(chain, logits_V, seen))


def test_the_order_is_the_one_that_transformers_builds() -> None:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=30,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    generation = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=9, top_p=0.8, min_p=0.1, repetition_penalty=1.3
    )
    generation.bos_token_id = 1
    model = LlamaForCausalLM(config)
    processors = model._get_logits_processor(
        generation_config=generation, input_ids_seq_length=3, device="cpu"
    )
    sampling = Sampling(temperature=0.7, top_k=9, top_p=0.8, min_p=0.1, repetition_penalty=1.3)
    for seed in range(10):
        logits_V = logits_of(seed, 30)
        expected = theirs(processors, logits_V, [4, 5, 6])
        assert np.array_equal(warp(logits_V, [4, 5, 6], sampling), expected)


@given(SEEDS, SIZES, st.integers(0, 5), WEIGHTS, WEIGHTS)
@settings(max_examples=60, deadline=None)
def test_something_is_always_left(
    seed: int, size: int, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    assert num_kept(warp(logits_of(seed, size), [0], sampling)) > 0


def test_temperature_zero_is_the_largest_after_the_penalty() -> None:
    generator = torch.Generator()
    logits_V = of(1.0, 5.0, 4.0)
    assert choose(logits_V, [0], Sampling(temperature=0, top_k=1), generator) == 1
    penalised = Sampling(temperature=0, repetition_penalty=2.0)
    assert choose(logits_V, [1], penalised, generator) == 2


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-38, 1e-45, 5e-324])
@pytest.mark.parametrize("shift", [-50.0, -2.0, 0.0, 40.0])
def test_a_temperature_near_zero_is_the_largest(temperature: float, shift: float) -> None:
    logits_V = of(1.0, 2.0, -math.inf, 1.9) + np.float32(shift)
    for filters in ({}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}):
        sampling = Sampling(temperature=temperature, **filters)
        assert choose(logits_V, [0], sampling, torch.Generator()) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [choose(logits_of(i, 50), [0], Sampling(), generator) for i in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_V = np.log(of(0.6, 0.3, 0.1))
    drawn = [choose(logits_V, [0], Sampling(), generator) for _ in range(3000)]
    shares = [drawn.count(i) / 3000 for i in range(3)]
    # three standard deviations of a share of 3000 draws are at most 0.027
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.027)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(CheckpointError, match="logits reach"):
        choose(of(0.0, bad), [0], Sampling(), torch.Generator())
