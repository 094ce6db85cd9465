"""The oracle would notice the loss of any single feature: each is dropped once, and must show."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch

from expertly.checkpoint import load
from expertly.config import (
    Attention,
    Dense,
    Glu,
    Layer,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
    YarnScaling,
)
from expertly.model import Decoder

# what a field becomes when its feature is dropped; a field that has this value has none to drop
_NEUTRAL: dict[type, dict[str, Any]] = {
    Norm: {"kind": "rms", "eps": 0.1, "has_bias": False},
    Rope: {"base": 77.0, "scaling": None},
    LinearScaling: {"factor": 1.0},
    Llama3Scaling: {"factor": 1.0, "low_freq_factor": 0.5, "high_freq_factor": 7.0},
    YarnScaling: {
        "factor": 1.0,
        "beta_fast": 0.3,
        "beta_slow": 0.1,
        "attention_factor": 1.0,
        "original_context": 200,
    },
    LongScaling: {"short_factors": (1.0, 1.0, 1.0), "short_scale": 1.0},
    Attention: {
        "window": None,
        "has_qkv_bias": False,
        "has_output_bias": False,
        "qk_norm": None,
        "clip": None,
        "has_sinks": False,
    },
    Glu: {"activation": "relu", "alpha": 1.0, "limit": None, "up_shift": 0.0},
    Dense: {"has_bias": False},
    Router: {"rule": "top_k", "norm_p": None, "jitter": 0.0, "has_bias": False},
    Mixture: {
        "num_chosen": 1,
        "has_expert_bias": False,
        "shared_size": 0,
        "has_shared_gate": False,
    },
    ModelConfig: {"is_tied": False, "has_head_bias": False},
}
_PARTS: dict[type, tuple[str, ...]] = {
    ModelConfig: ("norm",),
    Layer: ("attention", "feed_forward"),
    Attention: ("rope",),
    Rope: ("scaling",),
    Mixture: ("router", "glu"),
    Dense: ("glu",),
}
_LENGTH = 17
# features of routers that only our own family has; tests/mixture holds each to its formula
_NO_FAMILY_HAS = (
    "score",
    "scale",
    "has_steering_bias",
    "groups",
    "norm_eps",
    "has_expert_scale",
    "input_jitter",
    "has_noise",
    "min_pool",
    "capacity",
    "min_rows",
)
# what a test of this size cannot tell apart; each is held by a test of its own
_ELSEWHERE = {
    "LongScaling.long_factors",  # tests/model/test_derivation_longrope.py
    "LongScaling.long_scale",
    "LongScaling.original_context",
    "YarnScaling.is_truncated",  # tests/model/test_rope.py, for every rule of scaling
    "Llama3Scaling.original_context",
    *(f"Router.{name}" for name in _NO_FAMILY_HAS),  # tests/mixture
    *(f"Mixture.{name}" for name in ("num_zero", "zero", "scales_input")),
    "Mixture.has_output_bias",  # tests/model/test_attention_experts.py
    "Attention.experts",
}


def drops(value: Any) -> Iterator[tuple[str, Any]]:
    """Every version of a config value with one of its features dropped, and that one's name."""
    kind = type(value)
    for name, neutral in _NEUTRAL.get(kind, {}).items():
        if getattr(value, name) != neutral and not _is_idle(value, name):
            yield f"{kind.__name__}.{name}", replace(value, **_dropped(value, name, neutral))
    for part in _PARTS.get(kind, ()):
        for label, changed in drops(getattr(value, part)):
            yield label, replace(value, **{part: changed})
    if isinstance(value, ModelConfig):
        for index, layer in enumerate(value.layers):
            for label, changed in drops(layer):
                layers = (*value.layers[:index], changed, *value.layers[index + 1 :])
                yield f"{label}@{index}", replace(value, layers=layers)


def _is_idle(value: Any, name: str) -> bool:
    """A window that holds the whole text does nothing."""
    return name == "window" and value.window is not None and value.window >= _LENGTH


def _dropped(value: Any, name: str, neutral: Any) -> dict[str, Any]:
    if isinstance(value, Mixture) and name == "shared_size":
        return {"shared_size": 0, "has_shared_gate": False}
    if isinstance(value, LongScaling) and name == "short_factors":
        return {"short_factors": (1.0,) * len(value.short_factors)}
    if isinstance(value, Router) and name == "rule":
        return {"rule": "top_k", "jitter": 0.0}
    return {name: neutral}


def _refit(config: ModelConfig, full: Decoder) -> Decoder:
    """A decoder of the changed config with the weights that it shares with the full one."""
    decoder = Decoder(config).eval()
    weights = full.state_dict()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            # a head of its own, where the model's was tied, starts at another value
            parameter.copy_(weights[name] if name in weights else torch.ones_like(parameter))
    return decoder


@pytest.mark.parametrize(("family", "case"), oracle.names())
def test_dropping_any_one_feature_breaks_the_equality_with_transformers(
    family: str, case: int, tmp_path: Path
) -> None:
    theirs = oracle.build(family, case, tmp_path / "model")
    ours = load(tmp_path / "model")
    ids_BS, mask_BS = oracle.ragged(ours.config.vocab_size, seed=case, length=_LENGTH)
    expected = theirs.logits(ids_BS, mask_BS)[mask_BS]
    unseen = []
    for name, config in drops(ours.config):
        with torch.no_grad():
            logits = _refit(config, ours)(ids_BS, mask_BS).logits[mask_BS]
        # ten times the tolerance: no chance that rounding alone would fail the test
        if oracle.relative_error(logits, expected) <= 10 * oracle.TOLERANCE:
            unseen.append(name)
    assert not unseen


def test_every_feature_of_a_config_is_dropped_in_some_case(tmp_path: Path) -> None:
    seen = set()
    for family, case in oracle.names():
        oracle.build(family, case, tmp_path / f"{family}{case}")
        config = load(tmp_path / f"{family}{case}").config
        seen |= {name.partition("@")[0] for name, _ in drops(config)}
    sized = {"num_heads", "num_kv_heads", "head_size", "size", "num_experts", "expert_size"}
    wanted = {
        f"{kind.__name__}.{field.name}"
        for kind in _NEUTRAL
        if kind is not ModelConfig
        for field in fields(kind)
        if field.name not in sized | set(_PARTS.get(kind, ())) - {"scaling"}
    }
    assert wanted - seen == _ELSEWHERE
