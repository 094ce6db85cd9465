"""Which mixtures of the installed transformers our experts run, found out by asking each."""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

from expertly.config import Glu
from expertly.errors import InputError
from expertly.plug import theirs
from expertly.plug.packing import checked_rule

# what their configs call the four sizes that a tiny stack of experts is made of
_SIZES = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "hidden_size": 48,
    "moe_hidden_size": 48,
    "moe_latent_size": 48,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
}


@dataclass(frozen=True)
class Family:
    """One class of experts of a family; `why_not` is empty where we run it."""

    name: str
    experts: str
    activation: str
    why_not: str = ""

    @property
    def is_supported(self) -> bool:
        return not self.why_not


def supported_families() -> list[Family]:
    """Every mixture of the installed transformers that lets others run its experts, by name.

    Each class is imported and built tiny, with its family's own defaults: takes seconds.
    Raises InputError without a transformers that has the interface.
    """
    return [_asked(which) for which in theirs.declared()]


def tiny_experts(which: theirs.Declared) -> Any:
    """Experts of this class, 4 of width 32 in a model of width 48, their weights not yet set.

    Raises InputError when none of the family's configs describes them.
    """
    experts_class = theirs.experts_class(which)
    asked = _SIZES.keys() & signature(experts_class).parameters
    for config in theirs.default_configs(which.family):
        _shrink(config)
        try:
            return experts_class(config, **{name: _SIZES[name] for name in asked})
        except AttributeError:
            continue
    raise InputError(
        f"no default config of {which.family} describes its {which.experts}",
        hint="run a model of this family to learn whether its experts are taken",
    )


def table(families: list[Family]) -> str:
    """The list as a table in Markdown."""
    rows = [
        (f"`{family.name}`", f"`{family.experts}`", family.activation, family.why_not or "yes")
        for family in families
    ]
    return "\n".join(_lines([("family", "experts", "activation", "runs"), ("---",) * 4, *rows]))


def _lines(rows: list[tuple[str, ...]]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _asked(which: theirs.Declared) -> Family:
    try:
        experts = tiny_experts(which)
        rule = checked_rule(experts)
    except InputError as error:
        return Family(which.family, which.experts, "", f"no: {error.message}")
    return Family(which.family, which.experts, _told(rule, experts))


def _told(rule: Glu, experts: Any) -> str:
    """An activation in words, as `silu(1.702 gate), up + 1, limit 7`."""
    if not experts.has_gate:
        return f"{rule.activation}(up) * up, no gate"
    slope = "" if rule.alpha == 1.0 else f"({rule.alpha:g} gate)"
    shift = f", up + {rule.up_shift:g}" if rule.up_shift else ""
    limit = f", limit {rule.limit:g}" if rule.limit is not None else ""
    norm = ", a norm after each expert" if experts.has_post_expert_norm else ""
    return f"{rule.activation}{slope}{shift}{limit}{norm}"


def _shrink(config: Any) -> None:
    """Lists, one size for each kind of expert, are for those who build experts of each kind."""
    for name, size in _SIZES.items():
        if not isinstance(getattr(config, name, []), list):
            setattr(config, name, size)
