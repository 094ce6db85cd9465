"""Arithmetic about models, without torch: what they hold, what they need, what a token costs."""

from expertly.planner.costs import (
    FORMATS,
    active_params,
    chosen_expert_bytes,
    decode_bytes_per_token,
    expert_bytes,
    kv_bytes_per_token,
    routed_expert_params,
    total_params,
    weight_bytes,
    weight_bytes_at,
)
from expertly.planner.report import Fit, Plan, parse_bytes, plan, plan_config
from expertly.planner.source import open_config

__all__ = [
    "FORMATS",
    "Fit",
    "Plan",
    "active_params",
    "chosen_expert_bytes",
    "decode_bytes_per_token",
    "expert_bytes",
    "kv_bytes_per_token",
    "open_config",
    "parse_bytes",
    "plan",
    "plan_config",
    "routed_expert_params",
    "total_params",
    "weight_bytes",
    "weight_bytes_at",
]
