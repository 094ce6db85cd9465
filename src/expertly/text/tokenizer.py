"""A model's tokenizer: tokenizer.json and the small files beside it."""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from expertly.errors import CheckpointError, InputError
from expertly.text.settings import Settings, read_settings, write_settings
from expertly.text.streaming import StreamDecoder
from expertly.text.template import Message, render

# what `open` reads, and so what travels with a model that is saved
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)


class Tokenizer:
    """Text to ids and back, as the model was trained on."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        settings: Settings | None = None,
        folder: Path | None = None,
    ) -> None:
        # a tokenizer.json may carry the cut and the padding of somebody's training run
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._settings = settings or Settings()
        self._folder = folder
        self._text_of_id = {i: text for text, i in inner.get_vocab().items()}

    @classmethod
    def open(cls, folder: Path) -> "Tokenizer":
        """Raises CheckpointError if a file is missing or damaged."""
        path = Path(folder) / "tokenizer.json"
        hint = "download the model's tokenizer files again"
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist", hint=hint)
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except (KeyboardInterrupt, SystemExit):
            raise
        # the library raises bare Exception, and panics of its own for some damage
        except BaseException as error:
            raise CheckpointError(f"{path} is damaged: {error}", hint=hint) from error
        return cls(inner, read_settings(Path(folder)), Path(folder))

    def save(self, folder: Path) -> None:
        """The files it was opened from, as they are, into another folder; else files that open as
        this tokenizer."""
        if self._folder is None:
            self._inner.save(str(folder / "tokenizer.json"))
            write_settings(folder, self._settings)
            return
        for name in _FILES:
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)

    @property
    def inner(self) -> tokenizers.Tokenizer:
        """The library's own tokenizer, for those who look into it."""
        return self._inner

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(self._text_of_id, default=-1) + 1

    @property
    def has_template(self) -> bool:
        return self._settings.template is not None

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Every id that any of the files says ends a text."""
        token = self._settings.names.get("eos_token", "")
        own_id = self._inner.token_to_id(token)
        return self._settings.eos_ids | (frozenset() if own_id is None else {own_id})

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Control tokens, which stand for no text."""
        added = self._inner.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that starts a sequence, with the first or last tokens that tokenizer.json
        adds (the flags of tokenizer_config.json have no say, as in transformers 5). Control tokens
        spelled out in the text are recognised."""
        return list(self._inner.encode(_whole(text)).ids)

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Text of ids, control tokens left out. Raises InputError for ids that are no token's."""
        for token_id in ids:
            if token_id not in self._text_of_id:
                raise InputError(
                    f"id {token_id} is no token of this vocabulary of {self.vocab_size}",
                    hint="decode ids with the tokenizer of the model that wrote them",
                )
        return self._decode(ids, keep_special=keep_special)

    def token_text(self, token_id: int) -> str:
        """What one token adds to a text, its leading space included, control tokens spelled out.

        A part of a character is the replacement character; an id without a token is empty.
        """
        if token_id not in self._text_of_id:
            return ""
        # decoders drop the first token's space, so look at the second of two
        once = self._decode([token_id], keep_special=True)
        twice = self._decode([token_id, token_id], keep_special=True)
        return twice[len(once) :]

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one at a time; an id without a token adds nothing."""
        return StreamDecoder(
            decode=self._decode, silent_ids=self.special_ids, byte_ids=self._byte_ids
        )

    def chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a chat by the model's template. Raises InputError if it has none or it fails."""
        template = self._settings.template
        if template is None:
            raise InputError(
                "this model has no chat template",
                hint="give the prompt as plain text; the model continues it",
            )
        text = render(
            template,
            messages,
            add_generation_prompt=add_generation_prompt,
            names=self._settings.names,
        )
        # the template writes the first token itself
        return list(self._inner.encode(_whole(text), add_special_tokens=False).ids)

    def _decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        return self._inner.decode(list(ids), skip_special_tokens=not keep_special)

    @cached_property
    def _byte_ids(self) -> frozenset[int]:
        decoder = self._inner.decoder
        if decoder is None or b'"ByteFallback"' not in decoder.__getstate__():
            return frozenset()
        names = (f"<0x{byte:02X}>" for byte in range(256))
        ids = (self._inner.token_to_id(name) for name in names)
        return frozenset(i for i in ids if i is not None)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text has half a character at {error.start}: {text[error.start]!r}",
            hint="give text that is valid UTF-8",
        ) from None
    return text
