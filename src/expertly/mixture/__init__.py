"""Routers, the `Routing` value, experts, balance, and the layer that joins them."""

from expertly.mixture.experts import FeedForward
from expertly.mixture.layer import MixtureLayer
from expertly.mixture.routing import Choice, Routing, Rows, Tokens
from expertly.mixture.soft import SoftMixtureLayer

__all__ = ["Choice", "FeedForward", "MixtureLayer", "Routing", "Rows", "SoftMixtureLayer", "Tokens"]
