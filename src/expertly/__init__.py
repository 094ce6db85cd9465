"""Runs, trains and looks inside Mixture-of-Experts language models.

Importing this package imports no torch: each public name is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expertly.checkpoint import load, save
    from expertly.engine import Engine, Piece, Sampling
    from expertly.errors import ExpertlyError
    from expertly.planner import plan
    from expertly.plug import plug_into_transformers
    from expertly.rewrite import Duplication, Upcycling, merge, upcycle

_HOME = {
    "load": "checkpoint",
    "save": "checkpoint",
    "Engine": "engine",
    "Piece": "engine",
    "Sampling": "engine",
    "ExpertlyError": "errors",
    "plan": "planner",
    "plug_into_transformers": "plug",
    "Duplication": "rewrite",
    "Upcycling": "rewrite",
    "merge": "rewrite",
    "upcycle": "rewrite",
}

__all__ = [
    "Duplication",
    "Engine",
    "ExpertlyError",
    "Piece",
    "Sampling",
    "Upcycling",
    "load",
    "merge",
    "plan",
    "plug_into_transformers",
    "save",
    "upcycle",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'expertly' has no attribute {name!r}")
    return getattr(import_module(f"expertly.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
