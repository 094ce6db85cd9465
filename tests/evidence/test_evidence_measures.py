"""What is read of a run, on rows made by hand."""

import math
from typing import Any

import pytest

from evidence.measures import (
    AGAINST,
    MEASURES,
    Outcome,
    flops_saved,
    outcome_of,
    tokens_saved,
    tokens_to,
)
from expertly.families import read_config
from expertly.planner.costs import active_params

DENSE = read_config(
    {
        "model_type": "qwen3",
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 32,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
)


def step(at: int) -> dict[str, Any]:
    return {"kind": "step", "step": at, "tokens": 100 * at, "seconds": 2.0 * at}


def evaluation(at: int, *bits: float) -> dict[str, Any]:
    values = {f"domain {i}": value for i, value in enumerate(bits)}
    return {"kind": "evaluation", "step": at, "bits_per_byte": values}


def router(at: int, layer: int, violation: float, dead: list[int]) -> dict[str, Any]:
    return {
        "kind": "router",
        "step": at,
        "layer": layer,
        "max_violation": violation,
        "dead": dead,
    }


def curve(*bits: float, flops: float = 1.0) -> Outcome:
    tokens = tuple(100 * (i + 1) for i in range(len(bits)))
    return Outcome(rows=(), tokens=tokens, bits=bits, flops_per_token=flops)


def test_an_evaluation_counts_as_the_mean_over_domains_at_the_tokens_of_its_step() -> None:
    rows = [step(1), evaluation(1, 4.0, 2.0), step(2), evaluation(2, 3.0, 2.0)]
    outcome = outcome_of(rows, DENSE)
    assert outcome.tokens == (100, 200)
    assert outcome.bits == (3.0, 2.5)
    assert MEASURES["bits_per_byte"](outcome) == 2.5
    assert MEASURES["tokens_per_second"](outcome) == 50.0


def test_a_step_costs_six_operations_a_weight_that_a_token_computes_with() -> None:
    outcome = outcome_of([step(1), evaluation(1, 1.0)], DENSE)
    assert outcome.flops_per_token == 6 * active_params(DENSE)


def test_routers_are_judged_by_the_last_third_alone() -> None:
    rows = [step(90), evaluation(90, 1.0)]
    rows += [router(30, 0, 9.0, [1, 2, 3]), router(60, 0, 9.0, [1, 2, 3])]
    rows += [router(90, 0, 1.0, [4]), router(90, 1, 3.0, [5, 6])]
    outcome = outcome_of(rows, DENSE)
    assert MEASURES["max_violation"](outcome) == 2.0
    assert MEASURES["dead_experts"](outcome) == 3.0


def test_a_model_without_routers_has_none_out_of_balance() -> None:
    outcome = outcome_of([step(1), evaluation(1, 1.0)], DENSE)
    assert MEASURES["max_violation"](outcome) == 0.0
    assert MEASURES["dead_experts"](outcome) == 0.0


def test_the_first_warning_counts_and_none_is_never() -> None:
    rows = [step(1), evaluation(1, 1.0)]
    assert MEASURES["warned_at"](outcome_of(rows, DENSE)) == math.inf
    rows += [{"kind": "warning", "step": at, "text": ""} for at in (40, 20)]
    assert MEASURES["warned_at"](outcome_of(rows, DENSE)) == 20


@pytest.mark.parametrize(
    ("bits", "tokens"),
    [(5.0, 100.0), (4.0, 100.0), (3.0, 150.0), (2.0, 200.0), (1.5, 250.0), (0.5, math.inf)],
)
def test_tokens_to_a_loss_lie_on_a_line_between_evaluations(bits: float, tokens: float) -> None:
    assert tokens_to(curve(4.0, 2.0, 1.0), bits) == tokens


def test_what_a_mixture_saves_is_measured_where_the_other_ended() -> None:
    mixture, dense = curve(4.0, 2.0, 1.0, flops=3.0), curve(5.0, 4.5, 3.0, flops=1.5)
    assert tokens_saved(mixture, dense) == 300 / 150
    assert flops_saved(mixture, dense) == 300 / 150 / 2


def test_a_curve_that_never_gets_there_saves_nothing() -> None:
    assert tokens_saved(curve(4.0, 3.5), curve(4.0, 3.0)) == 0.0


def test_a_run_against_itself_saves_a_factor_of_one() -> None:
    run = curve(4.0, 3.0, 2.0)
    assert {name: measure(run, run) for name, measure in AGAINST.items()} == dict.fromkeys(
        AGAINST, 1.0
    )
