"""One text being written: its ids, its random numbers, and what of its text may be shown."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch

from expertly.engine.sampling import Sampling
from expertly.engine.stopping import StopStrings
from expertly.text import StreamDecoder

FinishReason = Literal["stop", "length"]


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


@dataclass(kw_only=True)
class Sequence:
    """`ids` are the prompt's and those written; `text` is None for a model without a tokenizer."""

    ids: list[int]
    sampling: Sampling
    max_context: int
    eos_ids: Collection[int]
    text: StreamDecoder | None
    num_prompt: int = field(init=False)
    generator: torch.Generator = field(init=False)
    stop: StopStrings = field(init=False)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.num_prompt = len(self.ids)
        self.generator = _generator(self.sampling.seed)
        self.stop = StopStrings(self.sampling.stop)

    def accept(self, token_id: int) -> str:
        """Take the next token; return the text that it lets be shown."""
        self.ids.append(token_id)
        if token_id in self.eos_ids and not self.sampling.ignore_eos:
            self.finish_reason = "stop"
            return self._rest()
        shown = self.stop.push(self.text.push(token_id)) if self.text else ""
        if self.stop.is_stopped:
            self.finish_reason = "stop"
        elif self._is_full():
            self.finish_reason = "length"
            return shown + self._rest()
        return shown

    def _is_full(self) -> bool:
        num_written = len(self.ids) - self.num_prompt
        # the last token of a full context can be written but not read
        return num_written == self.sampling.max_tokens or len(self.ids) > self.max_context

    def _rest(self) -> str:
        """The text held back. The last part of a character may complete a stop string."""
        if self.text is None:
            return ""
        shown = self.stop.push(self.text.flush())
        if self.stop.is_stopped:
            self.finish_reason = "stop"
            return shown
        return shown + self.stop.flush()
