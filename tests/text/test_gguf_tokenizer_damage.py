"""HARDENING, Files: tokenizer arrays of different lengths, special ids beyond the vocabulary."""

import math
import time
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_gguf_text import llama_metadata

from expertly.errors import CheckpointError
from expertly.text.gguf_entries import MAX_TOKENS
from expertly.text.gguf_pieces import MAX_CHARACTERS, MAX_PIECE
from expertly.text.gguf_tokenizer import tokenizer_of

GGML = "tokenizer.ggml."
BYTE_LEVEL: dict[str, object] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 3,
}
PIECES = llama_metadata({"▁": -1.0, "a": -2.0, "▁a": -3.0})
NUM_PIECES = 262

CASES: list[tuple[dict[str, object], str, Any, str]] = [
    (BYTE_LEVEL, "model", None, "no tokenizer.ggml.model"),
    (BYTE_LEVEL, "model", "bert", "of kind 'bert'"),
    (BYTE_LEVEL, "model", "x" * 5000, "of kind 'xxx"),
    (BYTE_LEVEL, "pre", "x" * 5000, "'xxx"),
    (BYTE_LEVEL, "model", 7, "tokenizer.ggml.model is 7"),
    (BYTE_LEVEL, "pre", "klingon", "'klingon'"),
    (BYTE_LEVEL, "pre", ["gpt-2"], "tokenizer.ggml.pre is list"),
    (BYTE_LEVEL, "tokens", None, "no tokenizer.ggml.tokens"),
    (BYTE_LEVEL, "tokens", [], "vocabulary is empty"),
    (BYTE_LEVEL, "tokens", "ab", "no list of strings"),
    (BYTE_LEVEL, "tokens", [1, 2, 3, 4], "no list of strings"),
    (BYTE_LEVEL, "tokens", ["a", "b", "ab", "a"], "tokens 0 and 3 are both 'a'"),
    (BYTE_LEVEL, "tokens", ["a", "b", "ab", ""], "token 3 is empty"),
    (BYTE_LEVEL, "tokens", ["a", "b", "ab"], "3 tokens, but 4 tokenizer.ggml.token_type"),
    (BYTE_LEVEL, "token_type", [1], "4 tokens, but 1 tokenizer.ggml.token_type"),
    (BYTE_LEVEL, "token_type", ["1"] * 4, "no list of numbers"),
    (BYTE_LEVEL, "token_type", [1.5] * 4, "no whole number"),
    (BYTE_LEVEL, "token_type", [True] * 4, "no list of numbers"),
    (BYTE_LEVEL, "merges", None, "no tokenizer.ggml.merges"),
    (BYTE_LEVEL, "merges", ["a c"], "merge 0, 'a c'"),
    (BYTE_LEVEL, "merges", ["a b", "b a"], "merge 1, 'b a'"),
    (BYTE_LEVEL, "merges", ["ab"], "merge 0, 'ab'"),
    (BYTE_LEVEL, "merges", [""], "merge 0, ''"),
    (BYTE_LEVEL, "merges", ["a b c"], "merge 0, 'a b c'"),
    (BYTE_LEVEL, "merges", ["x" * 5000], "merge 0, 'xxx"),
    (BYTE_LEVEL, "merges", ["a b", "a b"], "comes twice"),
    (BYTE_LEVEL, "bos_token_id", 4, "bos_token_id is 4, but there are 4 tokens"),
    (BYTE_LEVEL, "eos_token_id", 1 << 32, "eos_token_id is 4294967296"),
    (BYTE_LEVEL, "eot_token_id", -2, "eot_token_id is -2"),
    (BYTE_LEVEL, "bos_token_id", "3", "bos_token_id is '3'"),
    (BYTE_LEVEL, "bos_token_id", True, "bos_token_id is True"),
    (BYTE_LEVEL, "add_bos_token", 1, "add_bos_token is 1"),
    (BYTE_LEVEL, "add_eos_token", True, "no tokenizer.ggml.eos_token_id"),
    (PIECES, "scores", None, "no tokenizer.ggml.scores"),
    (PIECES, "scores", [0.0] * (NUM_PIECES - 1), "262 tokens, but 261 tokenizer.ggml.scores"),
    (PIECES, "scores", [0.0] * (NUM_PIECES - 1) + [math.nan], "score of its token 261"),
    (PIECES, "add_space_prefix", "yes", "add_space_prefix is 'yes'"),
    (PIECES, "unknown_token_id", NUM_PIECES, "unknown_token_id is 262"),
]


@pytest.mark.parametrize(("metadata", "key", "value", "words"), CASES)
def test_what_does_not_fit_together_is_one_error_that_names_it(
    metadata: dict[str, object], key: str, value: Any, words: str
) -> None:
    damaged = {name: entry for name, entry in metadata.items() if name != GGML + key}
    if value is not None:
        damaged[GGML + key] = value
    with pytest.raises(CheckpointError) as caught:
        tokenizer_of(damaged)
    assert words in caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 250
    assert caught.value.hint


def test_the_undamaged_files_are_read() -> None:
    for metadata in (BYTE_LEVEL, PIECES):
        assert tokenizer_of(metadata) is not None


def test_an_unknown_name_of_cuts_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(CheckpointError) as caught:
        tokenizer_of({**BYTE_LEVEL, "tokenizer.ggml.pre": "klingon"})
    assert "qwen2" in caught.value.hint and "tokenizer.json" in caught.value.hint


def test_a_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"chat_template is list"):
        tokenizer_of({**BYTE_LEVEL, "tokenizer.chat_template": ["x"]})


def test_a_million_tokens_are_refused_at_once() -> None:
    tokens = [str(i) for i in range(1_000_000)]
    assert len(tokens) > MAX_TOKENS
    start = time.process_time()
    with pytest.raises(CheckpointError, match="1000000 tokens"):
        tokenizer_of({**BYTE_LEVEL, "tokenizer.ggml.tokens": tokens})
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["a" * (MAX_PIECE + 1)], "513 characters"),
        (["".join(p) for n in range(1, 17) for p in product("ab", repeat=n)], "1048576 ways"),
        ([f"{i:0512}" for i in range(MAX_CHARACTERS // 512 + 1)], f"{MAX_CHARACTERS + 512}"),
    ],
)
def test_pieces_whose_splits_would_take_for_ever_are_refused(pieces: list[str], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        tokenizer_of(llama_metadata(dict.fromkeys(pieces, -1.0)))


def test_150_000_tokens_and_merges_are_read_in_under_2_seconds() -> None:
    letters = [chr(0x4E00 + i) for i in range(400)]
    pairs = [(a, b) for a in letters for b in letters][:150_000]
    metadata = {
        **BYTE_LEVEL,
        "tokenizer.ggml.tokens": [*letters, *(a + b for a, b in pairs)],
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in pairs],
        "tokenizer.ggml.token_type": [1] * (150_400 - 500) + [3] * 500,
    }
    start = time.process_time()
    assert tokenizer_of(metadata) is not None
    assert time.process_time() - start < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=6,
)
KEYS = sorted({*BYTE_LEVEL, *PIECES, *(GGML + k for k in ("add_bos_token", "padding_token_id"))})


@settings(max_examples=300)
@given(st.sampled_from([BYTE_LEVEL, PIECES]), st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_values_are_a_tokenizer_or_one_error(
    metadata: dict[str, object], changed: dict[str, object]
) -> None:
    try:
        tokenizer = tokenizer_of({**metadata, **changed})
    except CheckpointError:
        return
    if tokenizer is not None:
        tokenizer.decode(tokenizer.encode("ab <s> é"))
