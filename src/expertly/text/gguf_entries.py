"""What a GGUF file's metadata says about its tokenizer, checked before anything is built of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expertly.errors import CheckpointError

PREFIX = "tokenizer.ggml."
TEMPLATE_KEY = "tokenizer.chat_template"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# what older converters wrote for a token that there is none of
NO_IDS = (-1, (1 << 32) - 1)
# twice what the largest vocabularies have
MAX_TOKENS = 1 << 19
_HINT = "the file is damaged or of another kind: download or convert it again"
_MAX_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A vocabulary: `tokens` by id, and what kind of token each is (1 normal, 3 control, ...)."""

    tokens: Sequence[str]
    types: Sequence[int]
    id_of: Mapping[str, int]

    def ids_of_type(self, *types: int) -> list[int]:
        return [i for i, kind in enumerate(self.types) if kind in types]


def read_entries(metadata: Mapping[str, object]) -> Entries:
    """Raises CheckpointError for empty or repeated tokens, too many, or lists of other lengths."""
    tokens = texts(metadata, "tokens")
    if not tokens:
        raise damaged("its vocabulary is empty")
    if len(tokens) > MAX_TOKENS:
        raise damaged(f"its vocabulary has {len(tokens)} tokens, more than {MAX_TOKENS}")
    types = numbers(metadata, "token_type", len(tokens)) or [NORMAL] * len(tokens)
    if not all(type(kind) is int for kind in types):
        raise damaged(f"{PREFIX}token_type holds what is no whole number")
    id_of = {token: i for i, token in enumerate(tokens)}
    if len(id_of) < len(tokens) or "" in id_of:
        raise damaged(_what_is_odd(tokens, id_of))
    return Entries(tokens=tokens, types=[int(kind) for kind in types], id_of=id_of)


def _what_is_odd(tokens: Sequence[str], id_of: Mapping[str, int]) -> str:
    if "" in id_of:
        return f"its token {id_of['']} is empty"
    first = next(i for i, token in enumerate(tokens) if id_of[token] != i)
    return f"its tokens {first} and {id_of[tokens[first]]} are both {short(tokens[first])}"


def read_scores(metadata: Mapping[str, object], num_tokens: int) -> Sequence[float]:
    """A score for each token; CheckpointError if any is missing or NaN."""
    scores = numbers(metadata, "scores", num_tokens)
    if scores is None:
        raise damaged(f"it has no {PREFIX}scores, which its kind of tokenizer needs")
    bad = next((i for i, score in enumerate(scores) if math.isnan(score)), None)
    if bad is not None:
        raise damaged(f"the score of its token {bad} is no number")
    return scores


def read_merges(metadata: Mapping[str, object], entries: Entries) -> list[tuple[str, str]]:
    """Pairs of tokens in the order in which they are joined.

    Raises CheckpointError for a pair that is no pair, repeated, or of unknown tokens.
    """
    id_of = entries.id_of
    merges = []
    for index, text in enumerate(texts(metadata, "merges")):
        left, _, right = text.partition(" ")
        if left not in id_of or right not in id_of or left + right not in id_of:
            raise damaged(f"its merge {index}, {short(text)}, is not of tokens that it has")
        merges.append((left, right))
    if len(set(merges)) < len(merges):
        raise damaged("one of its merges comes twice")
    return merges


def texts(metadata: Mapping[str, object], name: str) -> list[str]:
    """A list of strings; CheckpointError if there is none."""
    value = metadata.get(PREFIX + name)
    if value is None:
        raise damaged(f"it has no {PREFIX}{name}")
    if not isinstance(value, list) or not all(type(item) is str for item in value):
        raise damaged(f"{PREFIX}{name} is no list of strings")
    return value


def numbers(metadata: Mapping[str, object], name: str, length: int) -> Sequence[int | float] | None:
    """A list of so many numbers, or None if the file has none; else CheckpointError."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise damaged(f"{PREFIX}{name} is no list of numbers")
    if len(value) != length:
        raise damaged(f"it has {length} tokens, but {len(value)} {PREFIX}{name}")
    return value


def read_id(
    metadata: Mapping[str, object], name: str, num_tokens: int, default: int | None = None
) -> int | None:
    """The id of the token that `name` (such as "bos") names, if any."""
    key = f"{PREFIX}{name}_token_id"
    value = metadata.get(key)
    if value is None or value in NO_IDS:
        return default if default is not None and default < num_tokens else None
    if type(value) is not int:
        raise damaged(f"{key} is {short(value)}, no token's id")
    if not 0 <= value < num_tokens:
        raise damaged(f"{key} is {value}, but there are {num_tokens} tokens")
    return value


def read_flag(metadata: Mapping[str, object], name: str, default: bool) -> bool:
    value = metadata.get(PREFIX + name, default)
    if not isinstance(value, bool):
        raise damaged(f"{PREFIX}{name} is {short(value)}, neither true nor false")
    return value


def read_text(metadata: Mapping[str, object], key: str) -> str | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise damaged(f"{key} is {short(value)}, no text")
    return value


def short(value: object) -> str:
    """A value for an error's line, cut where it is long."""
    # a list may be a million long: only its kind is shown
    text = type(value).__name__ if isinstance(value, list) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def damaged(what: str) -> CheckpointError:
    return CheckpointError(f"the file's tokenizer cannot be used: {what}", hint=_HINT)
