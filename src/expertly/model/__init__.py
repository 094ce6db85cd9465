"""One decoder, its attention, rope and cache: in torch, and on the native kernels."""

from expertly.model.cache import Cache
from expertly.model.decoder import PROMPT_CHUNK, Decoder, Output
from expertly.model.initialise import initialise
from expertly.model.native import NativeDecoder
from expertly.model.protocol import Model

__all__ = ["PROMPT_CHUNK", "Cache", "Decoder", "Model", "NativeDecoder", "Output", "initialise"]
