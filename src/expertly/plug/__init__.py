"""Our experts for models of transformers: registered under names, by its own interface."""

from expertly.plug.families import Family, supported_families
from expertly.plug.registering import NAMES, plug_into_transformers

__all__ = ["NAMES", "Family", "plug_into_transformers", "supported_families"]
