"""A plan: what a model needs, and whether it fits, before anything of it is downloaded."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expertly.config import ModelConfig
from expertly.errors import InputError
from expertly.families import read_config
from expertly.planner.costs import (
    FORMATS,
    active_params,
    check_bits,
    chosen_expert_bytes,
    decode_bytes_per_token,
    expert_bytes,
    kv_bytes_per_token,
    routed_expert_params,
    total_params,
    weight_bytes,
    weight_bytes_at,
)
from expertly.planner.source import open_config

_UNITS = {"B": 0, "KB": 1, "MB": 2, "GB": 3, "TB": 4}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Weights and a cache of `context` tokens, and whether they fit; activations are not in it."""

    bits: int
    context: int
    weight_bytes: int
    kv_bytes: int
    needed_bytes: int
    memory_bytes: int | None
    is_enough: bool | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of one model; bytes a format have a key for each of `FORMATS`."""

    family: str
    num_layers: int
    num_mixture_layers: int
    max_context: int
    total_params: int
    active_params: int
    routed_expert_params: int
    weight_bytes: dict[str, int]
    expert_bytes: dict[str, int]  # the largest expert
    chosen_expert_bytes: dict[str, int]  # the experts that one token reads
    decode_bytes_per_token: dict[str, int]
    kv_bytes_per_token: int  # at 2 bytes a value
    fit: Fit | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def plan(
    model: str | Path,
    *,
    memory: str | int | None = None,
    bits: int | None = None,
    context: int | None = None,
) -> Plan:
    """Count a model: a folder, a config.json or a hub id, of which only that file is fetched.

    With `memory` ("24GB", "16GiB" or bytes), `bits` a weight (32, 16, 8, 4) or `context` (tokens)
    the plan has a `fit`; those not given are 16 bits and the model's longest context.
    Raises InputError for an option, ConfigError for a config that is not understood.
    """
    hf = open_config(model)
    hf.pop("quantization_config", None)  # says how weights are stored, not how many there are
    return plan_config(read_config(hf), memory=memory, bits=bits, context=context)


def plan_config(
    config: ModelConfig,
    *,
    memory: str | int | None = None,
    bits: int | None = None,
    context: int | None = None,
) -> Plan:
    """The same for a config at hand."""
    layers = range(len(config.layers))
    is_asked = any(option is not None for option in (memory, bits, context))
    return Plan(
        family=config.family,
        num_layers=len(config.layers),
        num_mixture_layers=len(config.mixture_layers),
        max_context=config.max_context,
        total_params=total_params(config),
        active_params=active_params(config),
        routed_expert_params=routed_expert_params(config),
        weight_bytes=weight_bytes(config),
        expert_bytes={
            name: max(expert_bytes(config, layer, b) for layer in layers)
            for name, b in FORMATS.items()
        },
        chosen_expert_bytes={name: chosen_expert_bytes(config, b) for name, b in FORMATS.items()},
        decode_bytes_per_token={
            name: decode_bytes_per_token(config, b) for name, b in FORMATS.items()
        },
        kv_bytes_per_token=kv_bytes_per_token(config),
        fit=_fit(config, memory, bits, context) if is_asked else None,
    )


def _fit(
    config: ModelConfig, memory: str | int | None, bits: int | None, context: int | None
) -> Fit:
    tokens = config.max_context if context is None else context
    if not 0 < tokens <= config.max_context:
        raise InputError(
            f"a context of {tokens} tokens is not within the model's {config.max_context}",
            hint=f"use 1 to {config.max_context}",
        )
    width = check_bits(16 if bits is None else bits)
    weights, cache = weight_bytes_at(config, width), tokens * kv_bytes_per_token(config)
    available = None if memory is None else parse_bytes(memory)
    return Fit(
        bits=width,
        context=tokens,
        weight_bytes=weights,
        kv_bytes=cache,
        needed_bytes=weights + cache,
        memory_bytes=available,
        is_enough=None if available is None else weights + cache <= available,
    )


def parse_bytes(text: str | int) -> int:
    """Bytes of "24GB" (10^9 each), "24GiB" (2^30 each) or a plain number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE)
    if match is None or (match[3] and not match[2]) or float(match[1]) == 0:
        raise InputError(
            f"{text!r} is not an amount of memory", hint="write it as 24GB, 16GiB or in bytes"
        )
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _UNITS[match[2].upper() + "B"])
