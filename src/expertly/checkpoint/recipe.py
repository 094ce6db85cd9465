"""In which format each matrix is kept: one for the experts, one for what every token passes, and
exceptions by name.

Routers, norms and biases are float32 in every recipe.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

from expertly.errors import InputError
from expertly.formats.blocks import BLOCKS
from expertly.model.weights import Place, is_router

Key = tuple[str, int | None]

# the format of experts for so many bits
OF_BITS: Mapping[int, str] = MappingProxyType(
    {
        2: "q2_k",
        3: "q3_k",
        4: "i4",
        5: "q5_1",
        6: "q6_k",
        8: "q8_0",
        16: "bf16",
        32: "f32",
    }
)
BITS: Mapping[str, int] = MappingProxyType(
    {name: bits for bits, names in {
        2: ("q2_k",),
        3: ("q3_k",),
        4: ("i4", "q4_0", "q4_1", "q4_k", "iq4_nl", "mxfp4"),
        5: ("q5_0", "q5_1", "q5_k"),
        6: ("q6_k",),
        8: ("q8_0",),
        16: ("f16", "bf16"),
        32: ("f32",),
    }.items() for name in names}
)  # fmt: skip
# what is taken where rows are no whole blocks of 256: as llama.cpp does, but for the two
# smallest, where it takes q4_0, of the same size and with more loss
_SHORT = {"q2_k": "iq4_nl", "q3_k": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`experts`: of routed experts and of dense feed-forwards; `others`: of attention, shared
    experts, embedding and head, which every token passes. `keep`: (pattern, format), the last
    that matches a matrix's name decides. `chosen`: by (layer, expert), where `keep` is silent."""

    experts: str
    others: str
    keep: tuple[tuple[str, str], ...] = ()
    chosen: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def wanted(self, place: Place) -> str:
        """The format that is asked for."""
        if is_router(place.parameter):
            return "f32"
        name = name_of(place)
        for pattern, format_name in reversed(self.keep):
            if fnmatchcase(name, pattern):
                return format_name
        if place.expert is not None and self.is_chosen(place):
            return self.chosen[layer_of(place.parameter), place.expert]
        is_heavy = ".feed_forward." in name and ".shared." not in name
        return self.experts if is_heavy else self.others

    def is_chosen(self, place: Place) -> bool:
        """Whether the matrix is of an expert that has a format of its own."""
        is_expert = place.expert is not None
        return is_expert and (layer_of(place.parameter), place.expert) in self.chosen


def recipe_of_bits(bits: int, keep: Iterable[tuple[str, str]] = ()) -> Recipe:
    """Experts at `bits`; what every token passes at 8 bits or more. Raises InputError."""
    if bits not in OF_BITS:
        known = ", ".join(map(str, OF_BITS))
        raise InputError(f"{bits} bits a weight are not known", hint=f"use one of {known}")
    experts = OF_BITS[bits]
    return Recipe(experts=experts, others=_at_least_8(experts), keep=tuple(keep))


def recipe_of_type(name: str, keep: Iterable[tuple[str, str]] = ()) -> Recipe:
    """All matrices in one format. Raises InputError for one that is not known."""
    name = checked_format(name)
    return Recipe(experts=name, others=name, keep=tuple(keep))


def _at_least_8(format_name: str) -> str:
    return format_name if BITS[format_name] >= 8 else "q8_0"


def checked_format(name: str) -> str:
    """The format of this name; GGUF's readers write theirs in capitals."""
    if name.lower() not in BLOCKS:
        raise InputError(f"the type {name!r} is not known", hint=f"use one of {', '.join(BLOCKS)}")
    return name.lower()


def read_keep(text: str) -> tuple[str, str]:
    """PATTERN=TYPE as (pattern, format); InputError for anything else."""
    pattern, _, name = text.rpartition("=")
    if not pattern:
        raise InputError(f"{text!r} keeps nothing", hint="write PATTERN=TYPE, as 'layers.0.*=q8_0'")
    return pattern, checked_format(name)


def formats_of(recipe: Recipe, places: list[Place]) -> dict[Key, str]:
    """The format of each matrix, which its width can have. Raises InputError for a pattern that
    matches none of them."""
    names = [name_of(place) for place in places if not is_router(place.parameter)]
    for pattern, _ in recipe.keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"no quantised matrix is called {pattern!r}",
                hint=f"names are such as {names[0]} and {names[-1]}; * stands for any part",
            )
    return {(p.parameter, p.expert): fitting(recipe.wanted(p), p.columns) for p in places}


def fitting(format_name: str, columns: int) -> str:
    """The format, or the nearest one that takes rows of so many columns: blocks of 256 must be
    whole, and short rows of i4 cost more for their two scales than q4_1's blocks do."""
    if format_name == "i4":
        row, other = (BLOCKS[name].num_bytes_of((1, columns)) for name in ("i4", "q4_1"))
        return "q4_1" if other < row else "i4"
    is_whole = columns % BLOCKS[format_name].size == 0
    return format_name if is_whole else _SHORT.get(format_name, format_name)


def name_of(place: Place) -> str:
    """A matrix's name for patterns: an expert's number stands before its last part."""
    if place.expert is None:
        return place.parameter
    head, _, leaf = place.parameter.rpartition(".")
    return f"{head}.{place.expert}.{leaf}"


def layer_of(parameter: str) -> int:
    return int(parameter.split(".")[1])
