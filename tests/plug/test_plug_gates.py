"""A gate is measured from its values: the rule that is found is the rule that it follows."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from expertly.config import Glu
from expertly.errors import InputError
from expertly.kernels import reference
from expertly.plug.gates import measured, measured_alone, rule_of

RULES = st.builds(
    Glu,
    activation=st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]),
    limit=st.none() | st.floats(1.5, 90.0).map(lambda x: round(x, 3)),
    up_shift=st.floats(-2.0, 2.0).map(lambda x: round(x, 3)),
)


@given(RULES, st.integers(1, 70))
def test_the_rule_of_a_gate_that_follows_one_is_found(rule: Glu, width: int) -> None:
    assert measured(lambda g, u: reference.glu(g, u, rule), width) == rule


@given(st.floats(0.1, 4.0).map(lambda x: round(x, 3)))
def test_the_slope_inside_a_sigmoid_is_found(alpha: float) -> None:
    assert measured(lambda g, u: g * torch.sigmoid(alpha * g) * u) == Glu(alpha=alpha)


def test_the_gate_of_gpt_oss_is_read_from_its_code() -> None:
    def gate(gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)

    assert measured(gate, 5) == Glu(alpha=1.702, limit=7.0, up_shift=1.0)


def test_a_gate_that_computes_in_float32_is_measured_as_well() -> None:
    def gate(gate: Tensor, up: Tensor) -> Tensor:
        return (F.silu(gate.float()) * up.float()).to(gate.dtype)

    assert measured(gate, 3) == Glu()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("silu", Glu()),
        ("gelu", Glu(activation="gelu")),
        ("gelu_new", Glu(activation="gelu_tanh")),
        ("gelu_pytorch_tanh", Glu(activation="gelu_tanh")),
        ("quick_gelu", Glu(alpha=1.702)),
        ("relu", Glu(activation="relu")),
    ],
)
def test_activations_by_name_become_the_rule_that_they_are(name: str, rule: Glu) -> None:
    assert measured(lambda g, u: ACT2FN[name](g) * u, 8) == rule


OTHERS = {
    "leaky": lambda g, u: F.leaky_relu(g) * u,
    "clipped gelu": lambda g, u: F.gelu(g).clamp(-10, 10) * u,
    "relu6": lambda g, u: F.relu6(g) * u,
    "mish": lambda g, u: F.mish(g) * u,
    "squared relu": lambda g, u: F.relu(g).square() * u,
    "only up is clamped": lambda g, u: F.silu(g) * u.clamp(-7, 7),
    "only gate is clamped": lambda g, u: F.silu(g.clamp(max=7)) * u,
    "clamped from below too": lambda g, u: F.silu(g.clamp(-7, 7)) * u.clamp(-7, 7),
    "clamped unevenly": lambda g, u: F.silu(g.clamp(max=7)) * u.clamp(-6, 7),
    "softly capped": lambda g, u: F.silu(g) * 30 * torch.tanh(u / 30),
    "the two swapped": lambda g, u: F.silu(u) * g,
    "added": lambda g, u: F.silu(g) + u,
    "scaled": lambda g, u: 2 * F.gelu(g) * u,
    "not a number": lambda g, u: F.silu(g) * u * math.nan,
    "nothing": lambda g, u: 0 * g * u,
    "a column of its own": lambda g, u: F.silu(g) * u * (1 + (torch.arange(8) == 5)),
    "normed over columns": lambda g, u: F.layer_norm(F.silu(g) * u, (8,)),
    "half the columns": lambda g, u: (F.silu(g) * u)[..., :4],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_gate_that_is_none_of_ours_is_not_taken_for_one(name: str) -> None:
    assert measured(OTHERS[name], 8) is None


def test_a_squared_relu_without_a_gate_is_relu_gated_by_itself() -> None:
    assert measured_alone(lambda x: F.relu(x).square()) == Glu(activation="relu")


@pytest.mark.parametrize("act", [F.relu, F.silu, F.gelu, torch.square, F.relu6])
def test_other_activations_without_a_gate_are_not_taken(act) -> None:
    assert measured_alone(act) is None


def test_what_is_not_taken_is_named_with_what_to_do() -> None:
    module = SimpleNamespace(
        has_gate=True, is_concatenated=True, act_fn=nn.Mish(), _apply_gate=lambda x: x[..., :4]
    )
    with pytest.raises(InputError, match=r"no rule for its activation \(Mish\)") as raised:
        rule_of(module, 4)
    assert 'experts_implementation="grouped_mm"' in raised.value.hint
