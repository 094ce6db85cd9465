"""A run on several processes: their mesh, experts that are spread over them, weights and
gradients that are shared out."""

from expertly.parallel.devices import describe_device, has_bfloat16, resolve_device
from expertly.parallel.gradients import average_gradients, clip_gradients
from expertly.parallel.placing import is_spread, localise, place, whole_tensors
from expertly.parallel.ranks import ALONE, Ranks, joined
from expertly.parallel.storing import is_spread_folder, names_in, read_spread, write_spread

__all__ = [
    "ALONE",
    "Ranks",
    "average_gradients",
    "clip_gradients",
    "describe_device",
    "has_bfloat16",
    "is_spread",
    "is_spread_folder",
    "joined",
    "localise",
    "names_in",
    "place",
    "read_spread",
    "resolve_device",
    "whole_tensors",
    "write_spread",
]
