"""One decoder, its attention, rope and cache."""

from expertly.model.cache import Cache
from expertly.model.decoder import Decoder, Output
from expertly.model.initialise import initialise

__all__ = ["Cache", "Decoder", "Output", "initialise"]
