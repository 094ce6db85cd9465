"""What descriptions of routers refuse, with the values in the message."""

import dataclasses
import re

import pytest

from expertly.config import Capacity, Groups, Mixture, Router, SoftMixture
from expertly.errors import ConfigError

MIXTURE = Mixture(num_experts=12, num_chosen=2, expert_size=4, router=Router())


def refused(message: str):
    return pytest.raises(ConfigError, match=re.escape(message))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.0}, "expert weights times 0.0"),
        ({"input_jitter": 1.0}, "an input jitter of 1.0"),
        ({"jitter": -0.1}, "a jitter of -0.1 is negative"),
        ({"rule": "relu", "score": "sigmoid"}, "rule relu has no other score than softmax"),
        ({"rule": "sparsemixer", "score": "sigmoid"}, "no other score than softmax, not sigmoid"),
        ({"score": "uniform"}, "uniform scores are those of a hash"),
        ({"rule": "hash", "score": "uniform", "has_bias": True}, "a hash without a bias"),
        ({"rule": "hash", "has_steering_bias": True}, "has_steering_bias belongs to"),
        ({"rule": "relu", "groups": Groups(num=2, num_chosen=1)}, "groups belongs to"),
        ({"rule": "sparsemixer", "has_noise": True}, "has_noise belongs to"),
        ({"rule": "expert_choice", "min_pool": 3}, "min_pool belongs to routers of rule top_k"),
        ({"rule": "hash", "capacity": Capacity(factor=1.0)}, "capacity belongs to"),
        ({"rule": "relu", "norm_p": 1.0}, "rule relu does not make its weights sum to 1"),
        ({"score": "sigmoid", "min_pool": 3}, "a pool (min_pool) is chosen by softmax"),
    ],
)
def test_a_router_refuses_what_does_not_belong_together(changes, message: str) -> None:
    with refused(message):
        Router(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_chosen": 13}, "13 experts chosen out of 12"),
        ({"num_zero": -1}, "-1 zero experts"),
        ({"num_zero": 1, "scales_input": True}, "zero experts have no input to scale"),
        (
            {"router": Router(groups=Groups(num=5, num_chosen=2))},
            "12 experts cannot be shared out among 5 groups",
        ),
        (
            {"router": Router(groups=Groups(num=12, num_chosen=6, score="top_two"))},
            "groups of 1 expert have no two largest scores",
        ),
        (
            {"router": Router(groups=Groups(num=6, num_chosen=1)), "num_chosen": 3},
            "3 experts chosen out of 1 groups of 2",
        ),
        ({"router": Router(min_pool=1)}, "pools of 1 experts or more, where 2 of 12"),
        ({"router": Router(min_pool=13)}, "pools of 13 experts or more"),
    ],
)
def test_a_mixture_refuses_routers_that_do_not_fit_it(changes, message: str) -> None:
    with refused(message):
        dataclasses.replace(MIXTURE, **changes)


def test_groups_and_capacities_refuse_what_leaves_nothing() -> None:
    with refused("3 groups of experts chosen out of 2"):
        Groups(num=2, num_chosen=3)
    with refused("0 groups of experts chosen out of 2"):
        Groups(num=2, num_chosen=0)
    with refused("a capacity factor of 0 leaves no row to an expert"):
        Capacity(factor=0)
    with refused("0 soft experts of width 3 with 2 slots"):
        SoftMixture(num_experts=0, num_slots=2, expert_size=3)


def test_zero_experts_are_choices_beside_the_experts() -> None:
    assert MIXTURE.num_choices == 12
    assert dataclasses.replace(MIXTURE, num_zero=4).num_choices == 16


@pytest.mark.parametrize(
    ("num_chosen", "router", "is_idle"),
    [
        (1, Router(norm_p=1.0), True),
        (1, Router(norm_p=2.0, score="sigmoid"), True),
        (1, Router(), False),
        (2, Router(norm_p=1.0), False),
        (1, Router(rule="hash", score="uniform", norm_p=1.0), False),
    ],
)
def test_a_single_weight_divided_by_itself_makes_a_router_idle(num_chosen, router, is_idle) -> None:
    assert dataclasses.replace(MIXTURE, num_chosen=num_chosen, router=router).has_idle_router == (
        is_idle
    )
