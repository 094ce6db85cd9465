"""A tokenizer from the metadata of a GGUF file alone: byte-level BPE, and SentencePiece's BPE."""

from collections.abc import Callable, Mapping, Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from expertly.errors import CheckpointError
from expertly.text import gguf_entries as entries_of
from expertly.text.gguf_entries import (
    CONTROL,
    PREFIX,
    TEMPLATE_KEY,
    UNKNOWN,
    USER_DEFINED,
    Entries,
    damaged,
    read_flag,
    read_id,
)
from expertly.text.gguf_pieces import merges_of
from expertly.text.gguf_pretokenizers import normalizer_of, pre_tokenizer_of, words_of
from expertly.text.settings import Settings
from expertly.text.tokenizer import Tokenizer

MARK = "▁"  # how SentencePiece spells a space

NAME_OF_ID = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
    "seperator": "sep_token",  # the specification's spelling
    "cls": "cls_token",
}
# what a SentencePiece file means that does not say
_SENTENCE_PIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
# files name one or two ends of text; a chat's others are known by their spelling alone, whatever
# kind of token converters took them for
_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>"),
        *("<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<EOT>"),
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    )
)
# ordinary text in some vocabularies
_ENDS_IF_CONTROL = frozenset(("</s>",))
# architectures whose chat tokens take the white space after them, and the tokens that do not
_TAKE_SPACES = frozenset(("phimoe",))
_TAKE_NOTHING = frozenset(("<unk>", "<s>", "<|endoftext|>"))


def tokenizer_of(metadata: Mapping[str, object]) -> Tokenizer | None:
    """The tokenizer that `tokenizer.ggml.*` describes; None if the file says that it has none.

    Raises CheckpointError for a kind that is not known, and for whatever does not fit together.
    """
    kind = entries_of.read_text(metadata, PREFIX + "model")
    if kind is None:
        raise damaged(f"it has no {PREFIX}model")
    if kind in ("no_vocab", "none"):
        return None
    if kind not in _MAKERS:
        raise CheckpointError(
            f"the file's tokenizer is of kind {entries_of.short(kind)}",
            hint=f"known are {', '.join(_MAKERS)}; or open the model's own tokenizer.json",
        )
    entries = entries_of.read_entries(metadata)
    make, default_ids = _MAKERS[kind]
    special = {
        name: read_id(metadata, name, len(entries.tokens), default_ids.get(name))
        for name in NAME_OF_ID
    }
    try:
        inner = make(metadata, entries, special)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    # the library raises bare Exception, and panics of its own
    except BaseException as error:
        raise damaged(entries_of.short(str(error))) from error
    return Tokenizer(inner, _settings(metadata, entries, special))


def _byte_level(
    metadata: Mapping[str, object], entries: Entries, special: Mapping[str, int | None]
) -> tokenizers.Tokenizer:
    words = words_of(entries_of.read_text(metadata, PREFIX + "pre") or "default")
    merges = entries_of.read_merges(metadata, entries)
    inner = tokenizers.Tokenizer(
        models.BPE(dict(entries.id_of), merges, ignore_merges=words.are_tokens_first)
    )
    normalizer = normalizer_of(words)
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizer_of(words)
    inner.decoder = decoders.ByteLevel()
    _add_tokens(inner, entries, metadata)
    _add_ends(inner, metadata, entries, special, words.adds_bos)
    return inner


def _sentence_piece(
    metadata: Mapping[str, object], entries: Entries, special: Mapping[str, int | None]
) -> tokenizers.Tokenizer:
    scores = entries_of.read_scores(metadata, len(entries.tokens))
    unknown = special["unknown"]
    inner = tokenizers.Tokenizer(
        models.BPE(
            dict(entries.id_of),
            merges_of(entries, scores),
            unk_token=None if unknown is None else entries.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    has_prefix = read_flag(metadata, "add_space_prefix", True)
    inner.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend(MARK)] if has_prefix else []), normalizers.Replace(" ", MARK)]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if has_prefix else []),
        ]
    )
    _add_tokens(inner, entries, metadata)
    _add_ends(inner, metadata, entries, special, True)
    return inner


_Make = Callable[[Mapping[str, object], Entries, Mapping[str, int | None]], tokenizers.Tokenizer]
_MAKERS: Mapping[str, tuple[_Make, Mapping[str, int]]] = {
    "gpt2": (_byte_level, {}),
    "llama": (_sentence_piece, _SENTENCE_PIECE_IDS),
}


def _add_tokens(
    inner: tokenizers.Tokenizer, entries: Entries, metadata: Mapping[str, object]
) -> None:
    """Tokens that are found in a text before anything else is done to it."""
    ends = _ends_by_spelling(entries)
    control = sorted({*entries.ids_of_type(CONTROL, UNKNOWN), *ends})
    others = [i for i in entries.ids_of_type(USER_DEFINED) if i not in ends]
    takes_spaces = metadata.get("general.architecture") in _TAKE_SPACES
    inner.add_special_tokens(
        [
            AddedToken(text, normalized=False, rstrip=takes_spaces and text not in _TAKE_NOTHING)
            for text in (entries.tokens[i] for i in control)
        ]
    )
    inner.add_tokens([AddedToken(entries.tokens[i], normalized=False) for i in others])


def _add_ends(
    inner: tokenizers.Tokenizer,
    metadata: Mapping[str, object],
    entries: Entries,
    special: Mapping[str, int | None],
    adds_bos: bool,
) -> None:
    """The first and the last token that every text gets."""
    first = ["bos"] if read_flag(metadata, "add_bos_token", adds_bos) else []
    last = ["eos"] if read_flag(metadata, "add_eos_token", False) else []
    known = []
    for name in {*first, *last}:
        token_id = special[name]
        if token_id is None:
            raise damaged(f"it adds a token to every text, but has no {PREFIX}{name}_token_id")
        known.append({"id": name, "ids": [token_id], "tokens": [entries.tokens[token_id]]})
    if known:
        inner.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last], special_tokens=known
        )


def _settings(
    metadata: Mapping[str, object], entries: Entries, special: Mapping[str, int | None]
) -> Settings:
    names = {NAME_OF_ID[name]: entries.tokens[i] for name, i in special.items() if i is not None}
    ends = [read_id(metadata, name, len(entries.tokens)) for name in ("eot", "eom")]
    named = {i for i in (special["eos"], *ends) if i is not None}
    return Settings(
        names=names,
        eos_ids=frozenset(named | _ends_by_spelling(entries)),
        template=entries_of.read_text(metadata, TEMPLATE_KEY),
    )


def _ends_by_spelling(entries: Entries) -> set[int]:
    found = {entries.id_of[text] for text in _ENDS if text in entries.id_of}
    found |= {i for i in entries.ids_of_type(CONTROL) if entries.tokens[i] in _ENDS_IF_CONTROL}
    texts: Sequence[str] = [entries.tokens[i] for i in found]
    # gpt-oss ends each message of an answer with <|end|>, and the answer with another
    if "<|return|>" in texts and "<|end|>" in texts:
        found.discard(entries.id_of["<|end|>"])
    return found
