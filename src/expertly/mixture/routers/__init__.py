"""The rules that turn router logits into a choice of experts: pure functions, always float32."""

from expertly.mixture.routers.choosing import choose
from expertly.mixture.routers.learned import LearnedRouter

__all__ = ["LearnedRouter", "choose"]
