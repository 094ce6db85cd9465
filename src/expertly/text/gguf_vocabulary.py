"""The way back: a tokenizer as the metadata of a GGUF file, or a refusal.

GGUF names a model's pre-tokenizer and leaves it to readers to know it, so only tokenizers whose
ordinary text gives the same ids there can be written; what differs beyond that is told.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import decoders

from expertly.errors import InputError
from expertly.text.gguf_entries import (
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    TEMPLATE_KEY,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Entries,
)
from expertly.text.gguf_pieces import merges_of
from expertly.text.gguf_pretokenizers import WORDS_OF_PRE, names_of, steps_in
from expertly.text.gguf_tokenizer import MARK, NAME_OF_ID
from expertly.text.tokenizer import Tokenizer

Value = int | float | bool | str | list["Value"]

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# by llama.cpp
_TAKEN_FOR_END = {"llama": 2, "gpt2": 11}
_END_KEYS = tuple(f"{PREFIX}{name}_token_id" for name in ("eos", "eot", "eom"))


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """`metadata` for a GGUF file; `differences` say what its readers will not do alike."""

    metadata: Mapping[str, Value]
    differences: tuple[str, ...] = ()


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """The tokenizer, with unused tokens up to the model's `vocab_size`.

    Raises InputError for a tokenizer that GGUF has no words for, or one larger than the model.
    """
    parts: dict[str, Any] = json.loads(tokenizer.inner.to_str())
    if parts["model"].get("type") != "BPE":
        raise _refused(f"it is of kind {parts['model'].get('type')}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if parts["model"].get(name):
            raise _refused(f"its {name} is {parts['model'][name]!r}")
    entries = _entries(tokenizer, parts, vocab_size)
    make = _sentence_piece if parts["model"].get("byte_fallback") else _byte_level
    made = make(parts, entries)
    metadata: dict[str, Value] = {
        **made.metadata,
        PREFIX + "tokens": [*entries.tokens],
        PREFIX + "token_type": [*entries.types],
        **_ends_of(tokenizer),
        **_ids_of(tokenizer),
    }
    if tokenizer.settings.template is not None:
        metadata[TEMPLATE_KEY] = tokenizer.settings.template
    return Vocabulary(
        metadata=metadata,
        differences=(
            *made.differences,
            *_told_of_added(parts),
            *_told_of_ends(tokenizer, metadata),
        ),
    )


def _refused(what: str) -> InputError:
    return InputError(
        f"this tokenizer cannot be written into a GGUF file: {what}",
        hint="write another format, such as our packed folder",
    )


def _entries(tokenizer: Tokenizer, parts: Mapping[str, Any], vocab_size: int) -> Entries:
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}",
            hint="give the tokenizer that the model was trained with",
        )
    text_of = {i: text for text, i in tokenizer.inner.get_vocab().items()}
    tokens = [text_of.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    id_of = {token: i for i, token in enumerate(tokens)}
    if len(id_of) < len(tokens) or "" in id_of:
        raise _refused("one of its tokens is empty or spelled as padding is")
    added = {token["id"]: token for token in parts["added_tokens"]}
    has_bytes = parts["model"].get("byte_fallback")
    unknown = id_of.get(parts["model"].get("unk_token") or "") if has_bytes else None
    types = []
    for i, token in enumerate(tokens):
        if i not in text_of:
            types.append(UNUSED)
        elif i == unknown:
            types.append(UNKNOWN)
        elif i in added:
            types.append(CONTROL if added[i]["special"] else USER_DEFINED)
        else:
            types.append(BYTE if has_bytes and token in _BYTES else NORMAL)
    return Entries(tokens=tokens, types=types, id_of=id_of)


def _byte_level(parts: Mapping[str, Any], entries: Entries) -> Vocabulary:
    model = parts["model"]
    steps = steps_in(parts["pre_tokenizer"])
    if steps is None or (parts["decoder"] or {}).get("type") != "ByteLevel":
        raise _refused("its text is not cut and spelled in bytes as GPT-2's is")
    composes = _composes(parts["normalizer"])
    takes_whole = bool(model.get("ignore_merges"))
    known = names_of(steps, joins_digits=takes_whole or _joins_digits(model["merges"]))
    if not known:
        raise _refused(f"no reader knows how it cuts words: {' then '.join(steps)}")
    names = [name for name in known if WORDS_OF_PRE[name].are_tokens_first == takes_whole]
    if not names:
        raise _refused(f"with its words no reader has ignore_merges {takes_whole}")
    alike = [name for name in names if WORDS_OF_PRE[name].composes == composes]
    merges: Sequence[Sequence[str]] = model["merges"]
    if any(" " in part for merge in merges for part in merge):
        raise _refused("its merges have spaces, which part them in GGUF")
    told = "readers such as llama.cpp do not compose characters (NFC) first"
    return Vocabulary(
        metadata={
            PREFIX + "model": "gpt2",
            PREFIX + "pre": (alike or names)[0],
            PREFIX + "merges": [" ".join(merge) for merge in merges],
        },
        differences=(told,) if composes else (),
    )


def _joins_digits(merges: Sequence[Sequence[str]]) -> bool:
    decoder = decoders.ByteLevel()
    joined = (decoder.decode(["".join(merge)]) for merge in merges)
    return any(sum(character.isnumeric() for character in text) > 1 for text in joined)


def _composes(normalizer: Mapping[str, Any] | None) -> bool:
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if normalizer != {"type": "NFC"}:
        raise _refused(f"it changes text before it is cut ({normalizer.get('type')})")
    return True


def _sentence_piece(parts: Mapping[str, Any], entries: Entries) -> Vocabulary:
    merges = [tuple(merge) for merge in parts["model"]["merges"]]
    rank_of: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        rank_of.setdefault(left + right, rank)
    # what no merge makes is never compared
    scores = [-float(rank_of.get(token, len(merges))) for token in entries.tokens]
    again = merges_of(entries, scores)
    spelled = [[left + right for left, right in pairs] for pairs in (again, merges)]
    if set(again) != set(merges) or spelled[0] != spelled[1]:
        raise _refused("its merges are not those of pieces with scores")
    has_prefix, told = _prefix(parts)
    return Vocabulary(
        metadata={
            PREFIX + "model": "llama",
            PREFIX + "pre": "default",
            PREFIX + "scores": [*scores],
            PREFIX + "add_space_prefix": has_prefix,
            **_unknown_of(entries),
        },
        differences=told,
    )


def _unknown_of(entries: Entries) -> dict[str, Value]:
    return {f"{PREFIX}unknown_token_id": i for i in entries.ids_of_type(UNKNOWN)}


def _prefix(parts: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether a text gets a space before it, and what differs in that."""
    space = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    before = {"type": "Prepend", "prepend": MARK}
    normalizer, cutter = parts["normalizer"], parts["pre_tokenizer"]
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    if cutter is None and steps in ([space], [before, space]):
        return steps[0] == before, ()
    is_mark = (cutter or {}).get("type") == "Metaspace" and cutter.get("replacement") == MARK
    if steps or not is_mark or cutter.get("split", True):
        raise _refused("its text is not cut and spelled as SentencePiece's is")
    scheme = cutter.get("prepend_scheme")
    told = ("after a special token inside a text readers put a space, which it does not",)
    return scheme != "never", told if scheme == "first" else ()


def _ends_of(tokenizer: Tokenizer) -> dict[str, Value]:
    """Whether the first and last tokens are added, and which they are."""
    bare = tokenizer.inner.encode("a", add_special_tokens=False).ids
    ids = tokenizer.inner.encode("a").ids
    spare = len(ids) - len(bare)
    starts = [n for n in range(spare + 1) if ids[n : n + len(bare)] == bare]
    if not bare or not starts or starts[0] > 1 or spare - starts[0] > 1:
        raise _refused("it adds more than one token before or after a text")
    first, last = ids[: starts[0]], ids[starts[0] + len(bare) :]
    names = tokenizer.settings.names
    for found, name in ((first, "bos_token"), (last, "eos_token")):
        own = tokenizer.inner.token_to_id(names[name]) if name in names else None
        if found and own is not None and found != [own]:
            raise _refused(f"it adds the token {found[0]} to a text, which is not its {name}")
    ends: dict[str, Value] = {
        PREFIX + "add_bos_token": bool(first),
        PREFIX + "add_eos_token": bool(last),
    }
    if first:
        ends[PREFIX + "bos_token_id"] = first[0]
    if last:
        ends[PREFIX + "eos_token_id"] = last[0]
    return ends


def _ids_of(tokenizer: Tokenizer) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, text_name in NAME_OF_ID.items():
        token_id = tokenizer.inner.token_to_id(tokenizer.settings.names.get(text_name, ""))
        if token_id is not None:
            found[f"{PREFIX}{name}_token_id"] = token_id
    free = [key for key in _END_KEYS if key not in found]
    return found | dict(zip(free, _unnamed_ends(tokenizer, found), strict=False))


def _unnamed_ends(tokenizer: Tokenizer, said: Mapping[str, Value]) -> list[int]:
    return sorted(tokenizer.eos_ids - {said.get(key) for key in _END_KEYS})


def _told_of_ends(tokenizer: Tokenizer, said: Mapping[str, Value]) -> list[str]:
    left = _unnamed_ends(tokenizer, said)
    told = [f"that the ids {left} end a text too is not said"] if left else []
    if _END_KEYS[0] not in said:
        taken = _TAKEN_FOR_END[str(said[PREFIX + "model"])]
        told.append(f"readers take token {taken} for the end of a text, where none is named")
    return told


def _told_of_added(parts: Mapping[str, Any]) -> list[str]:
    flags = ("lstrip", "rstrip", "single_word")
    odd = [t["content"] for t in parts["added_tokens"] if any(t.get(flag) for flag in flags)]
    return [f"the spaces around {', '.join(odd)} are not taken away"] if odd else []
