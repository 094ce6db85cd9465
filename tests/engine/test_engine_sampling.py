import dataclasses

import pytest

from expertly.engine import Sampling
from expertly.errors import InputError


def test_the_defaults_change_nothing() -> None:
    plain = Sampling()
    assert (plain.temperature, plain.top_k, plain.top_p, plain.min_p) == (1.0, 0, 1.0, 0.0)
    assert (plain.repetition_penalty, plain.stop, plain.seed) == (1.0, (), None)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().seed = 1


@pytest.mark.parametrize("stop", ["\n", ["\n"], ("\n",)])
def test_stop_may_be_one_string_or_several(stop: object) -> None:
    assert Sampling(stop=stop).stop == ("\n",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "warm"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("top_p", None),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("nan")),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", 2.0),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", "x"),
        ("stop", ""),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", 5),
        ("ignore_eos", 1),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(name: str, value: object) -> None:
    with pytest.raises(InputError) as info:
        Sampling(**{name: value})
    assert info.value.message == f"{name} is {value!r}"
    assert info.value.hint.startswith("give ")


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"top_p": 0},
        {"top_p": 1, "min_p": 1},
        {"max_tokens": None},
        {"max_tokens": 10**9},
        {"seed": 0},
        {"seed": 2**63 - 1},
    ],
)
def test_edges_are_allowed(values: dict) -> None:
    assert dataclasses.asdict(Sampling(**values)).items() >= values.items()


def test_keys_that_do_not_exist_are_refused() -> None:
    with pytest.raises(TypeError, match="topk"):
        Sampling(topk=3)
