"""`expertly plan`: what a model holds and needs, from its config.json alone."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from expertly.cli.only import Only, beside
from expertly.planner import FORMATS, Plan, plan

if TYPE_CHECKING:
    from rich.table import Table


Train = Annotated[bool, typer.Option("--train", help="Plan a training step on many ranks instead.")]
RankCount = Annotated[int, typer.Option(min=1, help="With --train: devices.")]
ExpertRanks = Annotated[
    int, typer.Option(min=1, help="With --train: ranks that share each layer's experts.")
]
Sharded = Annotated[
    bool, typer.Option("--shard", help="With --train: weights in shards over data ranks.")
]
Machine = Annotated[str, typer.Option(help="With --train: a100-hdr, h100-ndr or h200-ndr.")]
BatchTokens = Annotated[
    int, typer.Option(min=1, help="With --train: tokens of a step, all ranks together.")
]
Sequence = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --train: tokens a sequence.",
        show_default="4096, or the model's context",
    ),
]
Optimiser = Annotated[str, typer.Option(help="With --train: adamw or muon.")]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="With --train: keep each layer's input alone.")
]
Efficiency = Annotated[
    float, typer.Option(min=0.01, max=1.0, help="With --train: share of the peak reached.")
]

CONDITIONS = (
    beside(
        "--train",
        *("ranks", "expert_ranks", "shard", "machine", "batch_tokens", "sequence"),
        *("optimiser", "recompute", "efficiency"),
        hint="add --train, or leave it out",
    ),
    Only(
        frozenset({"memory", "bits", "context"}),
        lambda given: not given["train"],
        "with --train",
        "leave one of them out: a training step has --sequence and --machine",
    ),
)


def command(
    model: Annotated[str, typer.Argument(help="A folder, a config.json or a hub id.")],
    memory: Annotated[
        str | None, typer.Option(help="Memory that it should fit, as 24GB or 16GiB.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits a weight: 32, 16, 8 or 4.", show_default="16")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens that the cache holds.", show_default="the model's longest"),
    ] = None,
    train: Train = False,
    ranks: RankCount = 8,
    expert_ranks: ExpertRanks = 1,
    shard: Sharded = False,
    machine: Machine = "h100-ndr",
    batch_tokens: BatchTokens = 1 << 20,
    sequence: Sequence = None,
    optimiser: Optimiser = "adamw",
    recompute: Recompute = False,
    efficiency: Efficiency = 0.4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count a model before downloading it: parameters, bytes, a step of training it."""
    if train:
        from expertly.cli.plan_train import TrainOptions, plan_train, print_plan
        from expertly.families import read_config
        from expertly.planner import open_config

        config = read_config(open_config(model))
        options = TrainOptions(
            ranks=ranks,
            expert_ranks=expert_ranks,
            is_sharded=shard,
            machine=machine,
            batch_tokens=batch_tokens,
            sequence=min(4096, config.max_context) if sequence is None else sequence,
            optimiser=optimiser,
            recompute=recompute,
            efficiency=efficiency,
        )
        print_plan(plan_train(config, options), as_json)
        return
    result = plan(model, memory=memory, bits=bits, context=context)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for table in (_counts(model, result), _bytes(result)):
        console.print(table)
    for line in _notes(result):
        console.print(line, markup=False)


def _counts(model: str, result: Plan) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{model} ({result.family})"), title_justify="left")
    table.add_column("parameters")
    table.add_column("count", justify="right")
    share = result.active_params / result.total_params
    table.add_row("total", f"{result.total_params:,}")
    table.add_row(f"active, one token ({share:.0%})", f"{result.active_params:,}")
    table.add_row("in routed experts", f"{result.routed_expert_params:,}")
    return table


def _bytes(result: Plan) -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("bytes")
    rows = {
        "weights": result.weight_bytes,
        "one expert": result.expert_bytes,
        "experts of one token": result.chosen_expert_bytes,
        "read for one token": result.decode_bytes_per_token,
    }
    for name in FORMATS:
        table.add_column(name, justify="right")
    for title, values in rows.items():
        table.add_row(title, *(human(values[name]) for name in FORMATS))
    return table


def _notes(result: Plan) -> list[str]:
    mixtures = f"{result.num_mixture_layers} of {result.num_layers} layers are mixtures"
    lines = [
        f"{mixtures}; context up to {result.max_context:,} tokens",
        f"keys and values: {human(result.kv_bytes_per_token)} a token at 2 bytes a value",
    ]
    if fit := result.fit:
        lines.append(
            f"at {fit.bits} bits with {fit.context:,} tokens: {human(fit.weight_bytes)} of weights "
            f"+ {human(fit.kv_bytes)} of cache = {human(fit.needed_bytes)}"
        )
        if fit.memory_bytes is not None:
            verdict = "fits in" if fit.is_enough else "does not fit in"
            lines.append(f"{verdict} {human(fit.memory_bytes)} (activations are not counted)")
    return lines


def human(count: int) -> str:
    """Bytes with a decimal unit: 46.7 GB is 46.7 * 10^9 bytes."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
