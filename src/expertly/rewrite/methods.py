"""What to make of a dense model, or of a mixture's experts: choices, checked, and what follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from expertly.errors import InputError

Method = Literal["copy", "drop", "fine-grained", "virtual-groups"]
METHODS: tuple[str, ...] = get_args(Method)
# the share of units that is drawn anew, unless it is said
_REDRAWN: Mapping[str, float] = {"drop": 0.5, "fine-grained": 0.5}
_WHOLE = ("copy", "drop")


def require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise InputError(message, hint=hint)


def _check_noise(noise: float) -> None:
    # more would drown what the matrix holds
    require(0 <= noise <= 1, f"noise is {noise}", "give 0 to 1: standard deviations of each matrix")


@dataclass(frozen=True, kw_only=True)
class Upcycling:
    """How a dense model becomes a mixture.

    copy: each expert is the whole feed-forward (sparse upcycling, arXiv 2212.05055).
    drop: the same, a share `redraw` of each expert's units drawn anew (arXiv 2502.19261).
    fine-grained: the feed-forward is shuffled and cut into `granularity` parts, a part an expert,
    as often as `num_experts` asks, each time shuffled anew (Qwen1.5-MoE).
    virtual-groups: the same parts each time, routers alike within a set of parts, so that a token
    chooses whole feed-forwards (arXiv 2410.07524).
    `shared` parts of the cut ones go to the shared expert; with whole ones 1 gives it a copy, and
    half of the answer. `every`: each so-many-th layer becomes a mixture. `noise`: in standard
    deviations of the matrix that it is added to. Raises InputError for what does not go together.
    """

    num_experts: int
    num_chosen: int | None = None  # 2, or as many parts as make one whole
    method: Method = "copy"
    granularity: int = 1
    shared: int = 0
    every: int = 1
    redraw: float | None = None
    noise: float = 0.0
    seed: int = 0
    family: str | None = None

    def __post_init__(self) -> None:
        require(
            self.method in METHODS,
            f"method {self.method!r} is not known",
            f"use one of {', '.join(METHODS)}",
        )
        self._check_cut()
        self._check_numbers()

    def _check_numbers(self) -> None:
        require(
            1 < self.chosen <= self.num_experts,
            f"{self.chosen} experts chosen out of {self.num_experts}",
            "choose 2 or more: the weights of the chosen sum to 1, so that a single one's is "
            "always 1 and the router would get no gradient",
        )
        self._check_multiple("num_experts", self.num_experts)
        if self.method == "virtual-groups":
            self._check_multiple("num_chosen", self.chosen)
        require(self.every >= 1, f"every is {self.every}", "it counts layers, from 1")
        share = self.redrawn
        require(0 <= share <= 1, f"redraw is {share}", "it is a share of units: from 0 to 1")
        require(
            self.method != "copy" or share == 0,
            f"redraw is {share}, and copies are not drawn anew",
            "use the method drop",
        )
        _check_noise(self.noise)

    def _check_cut(self) -> None:
        if self.method in _WHOLE:
            require(
                self.granularity == 1,
                f"granularity {self.granularity}, and {self.method} takes whole feed-forwards",
                "use fine-grained or virtual-groups",
            )
            require(
                self.shared in (0, 1), f"shared is {self.shared}", "a shared copy is 1, none is 0"
            )
            return
        require(
            self.granularity >= 2,
            f"granularity is {self.granularity}",
            f"{self.method} cuts a feed-forward into parts: 2 or more",
        )
        require(
            0 <= self.shared < self.granularity,
            f"{self.shared} of {self.granularity} parts are shared",
            "at least one must be routed",
        )

    def _check_multiple(self, name: str, value: int) -> None:
        require(
            value % self.routed_parts == 0,
            f"{name} is {value}, and {self.routed_parts} parts are routed",
            f"give a multiple of {self.routed_parts}",
        )

    @property
    def chosen(self) -> int:
        return max(2, self.routed_parts) if self.num_chosen is None else self.num_chosen

    @property
    def is_whole(self) -> bool:
        return self.method in _WHOLE

    @property
    def redrawn(self) -> float:
        return _REDRAWN.get(self.method, 0.0) if self.redraw is None else self.redraw

    @property
    def routed_parts(self) -> int:
        """Experts that make one whole, the shared parts aside."""
        return 1 if self.is_whole else self.granularity - self.shared

    @property
    def routed_scale(self) -> float:
        """By what a routed expert's answer is multiplied. Weights sum to 1: parts count as many
        times as there are, and beside a shared whole a routed one counts half."""
        return (0.5 if self.shared else 1.0) if self.is_whole else float(self.routed_parts)

    @property
    def shared_scale(self) -> float:
        return 0.5 if self.is_whole else 1.0

    @property
    def is_exact(self) -> bool:
        """Whether the mixture computes what the dense model does, but for rounding."""
        return self.method != "fine-grained" and self.redrawn == 0 and self.noise == 0


@dataclass(frozen=True, kw_only=True)
class Duplication:
    """How a mixture gets `copies` of each expert, side by side, their router rows alike.

    `num_chosen` (all copies of those that were chosen, unless given): with fewer a token is
    computed as cheaply as before, but meets several copies of one expert. `noise` is added to the
    experts, in standard deviations of their matrices. Raises InputError for what is impossible.
    """

    copies: int = 2
    num_chosen: int | None = None
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.copies >= 2, f"{self.copies} copies of an expert", "2 or more")
        require(
            self.num_chosen is None or self.num_chosen >= 1,
            f"{self.num_chosen} experts chosen",
            "1 or more",
        )
        _check_noise(self.noise)
