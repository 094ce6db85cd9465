"""`expertly plan --train`: what a training step on many ranks takes, as a page or JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from expertly.cli.plan import human
from expertly.config import ModelConfig
from expertly.errors import InputError
from expertly.planner.devices import Device, device
from expertly.planner.training import (
    MOMENTS,
    Memory,
    Mesh,
    StepTime,
    Traffic,
    memory,
    step_flops_per_token,
    step_time,
    traffic,
)

# of what a device has, what weights and activations can take: the rest is its libraries' and gaps
_USABLE = 0.92
LEFT_OUT = (
    "left out: imbalance between experts (a step lasts as long as its busiest rank), the "
    "optimiser's own time, data, checkpoints"
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    ranks: int
    expert_ranks: int
    is_sharded: bool
    machine: str
    batch_tokens: int
    sequence: int
    optimiser: str
    recompute: bool
    efficiency: float

    def mesh(self) -> Mesh:
        """Raises InputError for ranks that are no sets of expert ranks."""
        if self.ranks % self.expert_ranks:
            raise InputError(
                f"{self.ranks} ranks in sets of {self.expert_ranks} expert ranks",
                hint="make --ranks a multiple of --expert-ranks",
            )
        return Mesh(
            experts=self.expert_ranks,
            data=self.ranks // self.expert_ranks,
            is_sharded=self.is_sharded,
        )


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    options: TrainOptions
    device: Device
    memory: Memory
    traffic: Traffic
    time: StepTime
    flops_per_token: int

    @property
    def tokens_per_second(self) -> float:
        return self.options.batch_tokens / self.time.together

    @property
    def model_flops_utilisation(self) -> float:
        peak = self.device.flops * self.options.ranks
        return self.tokens_per_second * self.flops_per_token / peak

    @property
    def is_enough(self) -> bool:
        return self.memory.total <= _USABLE * self.device.memory_bytes

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["memory"]["total"] = self.memory.total
        found["time"].update(apart=self.time.apart, together=self.time.together)
        return {
            **found,
            "tokens_per_second": self.tokens_per_second,
            "model_flops_utilisation": self.model_flops_utilisation,
            "is_enough": self.is_enough,
        }


def plan_train(config: ModelConfig, options: TrainOptions) -> TrainPlan:
    """Raises InputError for what cannot be run."""
    mesh = options.mesh()
    mesh.check(config)
    if options.optimiser not in MOMENTS:
        raise InputError(
            f"--optimiser {options.optimiser}", hint=f"use one of {', '.join(MOMENTS)}"
        )
    if options.sequence > config.max_context:
        raise InputError(
            f"sequences of {options.sequence:,} tokens, the model's context is "
            f"{config.max_context:,}",
            hint=f"give --sequence 1 to {config.max_context}",
        )
    if options.batch_tokens % (options.ranks * options.sequence):
        raise InputError(
            f"{options.batch_tokens:,} tokens a step are no sequences of {options.sequence:,} for "
            f"each of {options.ranks} ranks",
            hint=f"give a multiple of {options.ranks * options.sequence:,}",
        )
    where, tokens = device(options.machine), options.batch_tokens // options.ranks
    return TrainPlan(
        options=options,
        device=where,
        memory=memory(config, mesh, tokens, options.optimiser, recompute=options.recompute),
        traffic=traffic(config, mesh, tokens),
        time=step_time(config, mesh, where, tokens, options.sequence, options.efficiency),
        flops_per_token=step_flops_per_token(config, options.sequence),
    )


def print_plan(found: TrainPlan, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    print("\n".join(lines(found)))


def lines(found: TrainPlan) -> list[str]:
    o, m, t, s = found.options, found.memory, found.time, found.traffic
    verdict = "fits in" if found.is_enough else "does not fit in"
    memory_bytes = found.device.memory_bytes
    text = [
        f"{o.ranks} ranks on {found.device.name}: experts over {o.expert_ranks}, "
        f"{o.ranks // o.expert_ranks} data ranks{', in shards' if o.is_sharded else ''}; "
        f"{o.batch_tokens:,} tokens a step in sequences of {o.sequence:,}",
        f"memory a rank: {human(m.weights)} weights + {human(m.gradients)} gradients + "
        f"{human(m.moments)} moments + {human(m.activations)} activations = {human(m.total)}: "
        f"{verdict} {human(memory_bytes)}, of which {_USABLE:.0%} are used",
        f"sent by a rank in a step: {human(s.rows)} rows, {human(s.gathers)} shards of weights, "
        f"{human(s.gradients)} gradients",
        f"a step: {t.compute:.3f} s computing ({o.efficiency:.0%} of the peak), {t.rows:.3f} s "
        f"rows, {t.exchanges:.3f} s to begin exchanges, {t.weights:.3f} s weights and gradients: "
        f"{t.together:.3f} s if those overlap, "
        f"{t.apart:.3f} s if nothing does",
        f"{found.tokens_per_second:,.0f} tokens/s, {found.model_flops_utilisation:.0%} of the peak",
        LEFT_OUT,
    ]
    if not found.is_enough:
        text.insert(2, "hint: --shard, more --expert-ranks, --recompute, or fewer --batch-tokens")
    return text
