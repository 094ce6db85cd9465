"""The engine: prompts in, pieces of text out. One sequence at a time, or a batch that steps
together; the simple cache of the model holds the keys and values."""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from expertly.config import LongScaling, ModelConfig
from expertly.engine.routings import of_column
from expertly.engine.sample import choose
from expertly.engine.sampling import Sampling
from expertly.engine.sequence import FinishReason, Sequence
from expertly.errors import InputError
from expertly.mixture import Routing
from expertly.model import Model, Output
from expertly.text import Message, Tokenizer

Prompt = str | SequenceOf[int] | SequenceOf[Message]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One token and the text that it lets be shown: "" while a character or a stop string may be
    incomplete. The texts of all pieces join to the whole text.

    `routings`, one a mixture layer, are those of the forward pass that read this token (so which
    experts it consulted), as a batch of one token; None unless the engine was made with
    `routings=True`, and for a token beyond the context, which no pass can read.
    """

    text: str
    token_id: int
    routings: tuple[Routing, ...] | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole text; `token_ids` are those written, an end token included."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int


class Engine:
    """Writes text with a model. Prompts are text, token ids, or the messages of a chat.

    With `routings=True` pieces carry the routing of each layer, and so come one step later.

    A model that is not causal (experts that choose tokens, soft mixtures) was trained to see the
    tokens to come, which are not there yet: InputError unless `allow_noncausal`.
    """

    def __init__(
        self, model: Model, *, routings: bool = False, allow_noncausal: bool = False
    ) -> None:
        if not (model.config.is_causal or allow_noncausal):
            raise InputError(
                "this model is not causal: its experts look at later tokens of a text, which "
                "writing has not got yet",
                hint="give allow_noncausal=True to write all the same, worse than it was trained",
            )
        self._model: Model | None = model
        self._has_routings = routings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model; running streams end with an error."""
        self._model = None

    def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's ids. Raises InputError if it is empty, outside the vocabulary, longer than
        the context, or needs a tokenizer or template that the model lacks."""
        model = self._open_model()
        ids = _ids(prompt, model.tokenizer)
        _check(ids, model)
        return ids

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Piece]:
        """Pieces as they are written; close the iterator, or leave it, to stop early.

        Raises InputError for a prompt that cannot be read, at once and not at the first piece.
        """
        sequence = self._sequence(self.encode(prompt), sampling or Sampling())
        return self._write(sequence)

    def generate(self, prompt: Prompt, sampling: Sampling | None = None) -> Completion:
        """The whole text of `stream`."""
        sequence = self._sequence(self.encode(prompt), sampling or Sampling())
        return _completion(sequence, self._finish(sequence))

    def generate_batch(
        self, prompts: SequenceOf[Prompt], samplings: SequenceOf[Sampling]
    ) -> list[Completion]:
        """A text for each prompt, all stepping together, prompts padded on the left."""
        if len(prompts) != len(samplings):
            raise InputError(
                f"{len(prompts)} prompts and {len(samplings)} samplings",
                hint="give one sampling for each prompt",
            )
        sequences = [
            self._sequence(self.encode(prompt), sampling)
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
        return self._write_batch(sequences) if sequences else []

    def read(self, prompt: Prompt) -> list[Piece]:
        """The prompt's own tokens as pieces, with their routings; nothing is written."""
        ids = self.encode(prompt)
        model = self._open_model()
        texts = [model.tokenizer.token_text(i) if model.tokenizer else "" for i in ids]
        pieces: list[Piece] = []
        cache = model.new_cache()
        for chunk in _chunks(ids, model):
            routings = self._step(torch.tensor([chunk]), cache).routings
            for column, token_id in enumerate(chunk):
                own = routings and tuple(of_column(routing, column) for routing in routings)
                text = texts[len(pieces)]
                pieces.append(Piece(text=text, token_id=token_id, routings=own))
        return pieces

    def _open_model(self) -> Model:
        if self._model is None:
            raise InputError("the engine is closed", hint="make a new Engine(model)")
        return self._model

    def _sequence(self, ids: list[int], sampling: Sampling) -> Sequence:
        model = self._open_model()
        tokenizer = model.tokenizer
        if sampling.stop and tokenizer is None:
            raise InputError(
                f"stop strings {sampling.stop!r}, but this model has no tokenizer",
                hint="stop on an end token, or load a model with a tokenizer.json",
            )
        return Sequence(
            ids=list(ids),
            sampling=sampling,
            max_context=model.context,
            eos_ids={*model.config.eos_ids, *(tokenizer.eos_ids if tokenizer else ())},
            text=tokenizer.stream() if tokenizer else None,
        )

    # a mode entered here could not outlive a yield, so each step enters its own
    @torch.inference_mode()
    def _step(self, ids_BS: Tensor, cache: Any, mask_BS: Tensor | None = None) -> Output:
        output: Output = self._open_model()(
            ids_BS, mask_BS, cache=cache, logits="last", routings=self._has_routings
        )
        return output

    def _read_prompt(self, ids: list[int], cache: Any) -> Output:
        for chunk in _chunks(ids, self._open_model()):
            output = self._step(torch.tensor([chunk]), cache)
        return output

    def _write(self, sequence: Sequence) -> Iterator[Piece]:
        cache = self._open_model().new_cache()
        output = self._read_prompt(sequence.ids, cache)
        while True:
            token_id = _next_id(sequence, output.logits[0])
            text = sequence.accept(token_id)
            is_read = self._has_routings and len(sequence.ids) <= sequence.max_context
            if is_read:
                output = self._step(torch.tensor([[token_id]]), cache)
            yield Piece(
                text=text,
                token_id=token_id,
                routings=output.routings if is_read else None,
                finish_reason=sequence.finish_reason,
            )
            if sequence.finish_reason:
                return
            if not is_read:
                output = self._step(torch.tensor([[token_id]]), cache)

    def _finish(self, sequence: Sequence) -> str:
        return "".join(piece.text for piece in self._write(sequence))

    def _write_batch(self, sequences: list[Sequence]) -> list[Completion]:
        model = self._open_model()
        cache = model.new_cache(len(sequences))
        texts = [""] * len(sequences)
        ids_BS, mask_BS = _padded([sequence.ids for sequence in sequences])
        output = self._step(ids_BS, cache, mask_BS)
        while True:
            going = [row for row, sequence in enumerate(sequences) if not sequence.finish_reason]
            for row in going:
                texts[row] += sequences[row].accept(_next_id(sequences[row], output.logits[row]))
            # the cache counts padding, so it can be full while a short sequence is not
            if not going or cache.length == model.context:
                break
            last_BS = torch.tensor([[sequence.ids[-1]] for sequence in sequences])
            output = self._step(last_BS, cache)
        for row, sequence in enumerate(sequences):
            texts[row] += "" if sequence.finish_reason else self._finish(sequence)
        return [_completion(s, text) for s, text in zip(sequences, texts, strict=True)]


def _ids(prompt: Prompt, tokenizer: Tokenizer | None) -> list[int]:
    is_ids = not isinstance(prompt, str) and all(type(item) is int for item in prompt)
    if is_ids:
        return list(prompt)  # type: ignore[arg-type]
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer", hint="give the prompt as a list of token ids"
        )
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    if any(not isinstance(item, Mapping) for item in prompt):
        raise InputError(
            f"a prompt of type {type(prompt).__name__} that holds neither ids nor messages",
            hint="give text, a list of token ids, or a list of chat messages",
        )
    return tokenizer.chat(prompt)  # type: ignore[arg-type]


def _check(ids: list[int], model: Model) -> None:
    if not ids:
        raise InputError("the prompt is empty: 0 tokens", hint="give at least one token")
    too_many = len(ids) - model.context
    if too_many > 0:
        is_cut = model.context < model.config.max_context
        limit = "the memory budget has room for" if is_cut else "the model's context"
        raise InputError(
            f"the prompt has {len(ids)} tokens, {limit} {model.context}",
            hint=f"shorten it by at least {too_many} tokens"
            + (", or give a larger --context" if is_cut else ""),
        )
    for token_id in ids:
        if not 0 <= token_id < model.config.vocab_size:
            raise InputError(
                f"token id {token_id} is outside the vocabulary of {model.config.vocab_size}",
                hint="encode the text with this model's own tokenizer",
            )


def _chunks(ids: list[int], model: Model) -> Iterator[list[int]]:
    # what is not causal sees of a prompt as much as it can
    is_whole = _turns_long(len(ids), model.config) or not model.config.is_causal
    size = len(ids) if is_whole else model.prompt_chunk
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _turns_long(length: int, config: ModelConfig) -> bool:
    # a prompt beyond LongRoPE's original length has other angles from its first token on
    scalings = [layer.attention.rope.scaling for layer in config.layers]
    return any(isinstance(s, LongScaling) and length > s.original_context for s in scalings)


def _next_id(sequence: Sequence, logits_V: Tensor) -> int:
    # on the CPU, so that a seed gives the same text on every device
    return choose(logits_V.cpu().numpy(), sequence.ids, sequence.sampling, sequence.generator)


def _padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids_BS = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    mask_BS = torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in prompts])
    return ids_BS, mask_BS


def _completion(sequence: Sequence, text: str) -> Completion:
    assert sequence.finish_reason is not None
    return Completion(
        text=text,
        token_ids=tuple(sequence.ids[sequence.num_prompt :]),
        finish_reason=sequence.finish_reason,
        num_prompt_tokens=sequence.num_prompt,
    )
