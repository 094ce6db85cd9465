"""Options that say something only beside another one: elsewhere they are refused, not dropped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from expertly.errors import InputError


@dataclass(frozen=True)
class Only:
    """These parameters say something only where `holds` of all the verb's; `otherwise` follows the
    option's name in the error."""

    parameters: frozenset[str]
    holds: Callable[[Mapping[str, Any]], object]
    otherwise: str
    hint: str


def beside(option: str, *parameters: str, hint: str) -> Only:
    """`parameters` need `option`, as `--memory`."""
    name = option.removeprefix("--").replace("-", "_")
    return Only(frozenset(parameters), lambda given: given[name], f"without {option}", hint)


def check(context: typer.Context, conditions: Sequence[Only]) -> None:
    """Raises InputError for the first option that was given in vain."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE":
            continue
        for only in conditions:
            if parameter.name in only.parameters and not only.holds(context.params):
                raise InputError(
                    f"{_as_given(context, parameter)} {only.otherwise}", hint=only.hint
                )


def _as_given(context: typer.Context, parameter: Any) -> str:
    """The option's name; that of its opposite if that was given."""
    is_opposite = parameter.secondary_opts and context.params[parameter.name] is False
    return str(max(parameter.secondary_opts if is_opposite else parameter.opts, key=len))
