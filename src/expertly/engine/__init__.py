"""Generation: a prompt in, text out, piece by piece. Knows models and tokenizers, no servers."""

from expertly.engine.engine import Completion, Engine, Piece, Prompt
from expertly.engine.routings import shares
from expertly.engine.sampling import Sampling
from expertly.engine.stopping import StopStrings

__all__ = ["Completion", "Engine", "Piece", "Prompt", "Sampling", "StopStrings", "shares"]
