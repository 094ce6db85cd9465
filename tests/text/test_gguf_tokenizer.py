import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_gguf_text import (
    TEXTS,
    gpt2_metadata,
    llama_metadata,
    naive_pieces,
    some_pieces,
    trained,
)
from tokenizers import Regex, decoders, pre_tokenizers, processors
from tokenizers import Tokenizer as Inner

from expertly.text import Tokenizer, corpora
from expertly.text.gguf_tokenizer import tokenizer_of

GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
# as the models' tokenizer.json have them
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRES = {
    "gpt-2": GPT_2,
    "llama-bpe": split_by(LLAMA_3),
    "dbrx": split_by(LLAMA_3),
    "qwen2": split_by(LLAMA_3.replace("{1,3}", "")),
    "starcoder": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT_2]),
}


@pytest.fixture(scope="module")
def made() -> dict[str, Inner]:
    inners = {pre: trained(cut) for pre, cut in PRES.items()}
    for inner in inners.values():
        inner.decoder = decoders.ByteLevel()
    return inners


def opened(metadata: dict[str, object]) -> Tokenizer:
    tokenizer = tokenizer_of(metadata)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("pre", PRES)
def test_ids_and_texts_are_those_of_the_tokenizer_that_was_written(
    made: dict[str, Inner], pre: str
) -> None:
    ours = opened(gpt2_metadata(made[pre], pre, add_bos_token=False))
    held_out = [corpora.held_out_text(domain)[:20_000] for domain in corpora.domains()]
    for text in [*TEXTS, *held_out, "<s>a</s> b"]:
        ids = made[pre].encode(text).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == made[pre].decode(ids)
        assert ours.decode(ids, keep_special=True) == text


@pytest.mark.parametrize("pre", PRES)
def test_any_text_has_the_same_ids_and_comes_back(made: dict[str, Inner], pre: str) -> None:
    ours = opened(gpt2_metadata(made[pre], pre, add_bos_token=False))

    @settings(max_examples=60)
    @given(st.text())
    def holds(text: str) -> None:
        # qwen2's own tokenizers compose characters first
        seen = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        assert ours.encode(text) == made[pre].encode(seen).ids
        assert ours.decode(ours.encode(text), keep_special=True) == seen

    holds()


def test_a_name_says_how_words_are_cut(made: dict[str, Inner]) -> None:
    metadata = gpt2_metadata(made["gpt-2"], "gpt-2")
    cut = {
        pre: opened({**metadata, "tokenizer.ggml.pre": pre}).inner.pre_tokenizer
        for pre in ("gpt-2", "dbrx", "qwen2", "starcoder", "gpt-4o", "deepseek-v3")
    }

    def words(pre: str, text: str) -> list[str]:
        return [word for word, _ in cut[pre].pre_tokenize_str(text)]

    assert words("gpt-2", "12345") == ["12345"]
    assert words("dbrx", "12345") == words("deepseek-v3", "12345") == ["123", "45"]
    assert words("qwen2", "12345") == words("starcoder", "12345") == list("12345")
    assert words("gpt-2", "I'LL") == ["I", "'", "LL"]
    assert words("qwen2", "I'LL") == ["I", "'LL"]
    assert words("gpt-4o", "I'LL fooBar") == ["I'LL", "Ġfoo", "Bar"]


def test_a_missing_name_is_the_old_default(made: dict[str, Inner]) -> None:
    metadata = gpt2_metadata(made["gpt-2"], "default")
    named = opened(metadata)
    del metadata["tokenizer.ggml.pre"]
    unnamed = opened(metadata)
    for text in TEXTS:
        assert unnamed.encode(text) == named.encode(text)
    # it cuts punctuation away first and knows no contraction
    words = [word for word, _ in named.inner.pre_tokenizer.pre_tokenize_str("it's 1234")]
    assert words == ["it", "'", "s", "Ġ", "123", "4"]


def test_llama_3_takes_a_word_that_is_a_token_whatever_its_merges_say() -> None:
    tokens = [*"abc", "ab", "bc", "abc"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["b c", "a b"],
        "tokenizer.ggml.add_bos_token": False,
    }
    assert opened({**metadata, "tokenizer.ggml.pre": "llama-bpe"}).encode("abc") == [5]
    assert opened({**metadata, "tokenizer.ggml.pre": "dbrx"}).encode("abc") == [0, 4]


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [
        ({}, [], []),
        ({"add_bos_token": True}, [0], []),
        ({"add_eos_token": True}, [], [1]),
        ({"add_bos_token": True, "add_eos_token": True}, [0], [1]),
        ({"add_bos_token": False, "add_eos_token": False}, [], []),
    ],
)
def test_first_and_last_tokens_are_added_as_the_file_says(
    made: dict[str, Inner], flags: dict[str, bool], first: list[int], last: list[int]
) -> None:
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    tokenizer = opened(gpt2_metadata(made["gpt-2"], "gpt-2", **ids, **flags))
    bare = made["gpt-2"].encode("the fox").ids
    assert tokenizer.encode("the fox") == first + bare + last


def test_a_file_of_llama_3_adds_its_first_token_unless_it_says_no(made: dict[str, Inner]) -> None:
    metadata = gpt2_metadata(made["llama-bpe"], "llama-bpe", bos_token_id=0)
    bare = made["llama-bpe"].encode("fox").ids
    assert opened(metadata).encode("fox") == [0, *bare]
    assert opened({**metadata, "tokenizer.ggml.add_bos_token": False}).encode("fox") == bare


def test_control_tokens_stand_for_no_text_and_user_defined_ones_do() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "<|x|>", "<tool>", "$A:1"],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [1, 1, 3, 4, 3],
        "tokenizer.ggml.bos_token_id": 4,
        "tokenizer.ggml.add_bos_token": True,
    }
    tokenizer = opened(metadata)
    assert tokenizer.encode("a<|x|>b<tool>") == [4, 0, 2, 1, 3]
    assert tokenizer.special_ids == {2, 4}
    assert tokenizer.decode([0, 2, 1, 3]) == "ab<tool>"


def test_ends_of_text_are_those_named_and_those_known_by_their_spelling() -> None:
    tokens = ["a", "</s>", "<|im_end|>", "<|eot_id|>", "<mine>", "<|endoftext|>"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [],
        # an ordinary token that is spelled so ends nothing
        "tokenizer.ggml.token_type": [1, 1, 3, 3, 3, 3],
        "tokenizer.ggml.eos_token_id": 4,
        "tokenizer.ggml.eot_token_id": 0,
    }
    assert opened(metadata).eos_ids == {0, 2, 3, 4, 5}


def test_the_end_of_a_message_is_not_the_end_of_an_answer_of_gpt_oss() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-4o",
        "tokenizer.ggml.tokens": ["a", "<|end|>", "<|return|>", "<|call|>"],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [1, 3, 3, 3],
        "tokenizer.ggml.eos_token_id": 2,
    }
    assert opened(metadata).eos_ids == {2, 3}
    del metadata["tokenizer.ggml.eos_token_id"]
    metadata["tokenizer.ggml.tokens"] = ["a", "<|end|>", "<|other|>", "<|call|>"]
    assert opened(metadata).eos_ids == {1, 3}


@pytest.mark.parametrize("kind", [1, 3, 4], ids=["normal", "control", "user-defined"])
def test_an_end_by_its_spelling_is_one_whatever_kind_of_token_it_is(kind: int) -> None:
    metadata = llama_metadata({**some_pieces(), "<|im_end|>": -500.0})
    types = metadata["tokenizer.ggml.token_type"]
    assert isinstance(types, list)
    types[-1] = kind
    tokenizer = opened(metadata)
    end = len(types) - 1
    assert end in tokenizer.eos_ids
    ids = tokenizer.encode("so<|im_end|>then")
    assert end in ids and "<|im_end|>" not in tokenizer.decode(ids)


def test_the_end_of_a_sentence_in_ordinary_text_is_none(made: dict[str, Inner]) -> None:
    metadata = gpt2_metadata(made["gpt-2"], "gpt-2")
    assert metadata["tokenizer.ggml.token_type"][:2] == [3, 3]  # type: ignore[index]
    assert opened(metadata).eos_ids == {1}
    metadata["tokenizer.ggml.token_type"][1] = 1  # type: ignore[index]
    assert opened(metadata).eos_ids == set()


@pytest.mark.parametrize(("arch", "takes"), [("phimoe", True), ("llama", False), (None, False)])
def test_chat_tokens_of_phimoe_take_the_spaces_after_them(arch: str | None, takes: bool) -> None:
    metadata = llama_metadata({**some_pieces(), "<|user|>": -500.0, "<|endoftext|>": -501.0})
    types = metadata["tokenizer.ggml.token_type"]
    assert isinstance(types, list)
    types[-2:] = [3, 3]
    if arch is not None:
        metadata["general.architecture"] = arch
    tokenizer = opened(metadata)
    close, apart = (tokenizer.encode(f"<|user|>{space}the") for space in ("", "\n "))
    assert (apart == close) == takes
    # the end of a text takes none
    close, apart = (tokenizer.encode(f"<|endoftext|>{space}the") for space in ("", "\n "))
    assert apart != close


@pytest.mark.parametrize("value", [-1, (1 << 32) - 1])
def test_an_id_of_minus_one_names_no_token(value: int) -> None:
    more = {f"{name}_token_id": value for name in ("seperator", "padding", "eos")}
    tokenizer = opened(llama_metadata(some_pieces(), **more))
    assert tokenizer.settings.names.keys() == {"bos_token", "eos_token", "unk_token"}
    assert tokenizer.eos_ids == {2}


def test_the_chat_template_is_rendered_with_the_names_of_the_file(made: dict[str, Inner]) -> None:
    metadata = gpt2_metadata(made["gpt-2"], "gpt-2", bos_token_id=0, eos_token_id=1)
    assert not opened(metadata).has_template
    tokenizer = opened({**metadata, "tokenizer.chat_template": CHAT})
    ids = tokenizer.chat([{"role": "user", "content": "the fox"}])
    assert ids == [0, *made["gpt-2"].encode("the fox").ids, 1]


@pytest.mark.parametrize("kind", ["no_vocab", "none"])
def test_a_file_without_a_vocabulary_has_no_tokenizer(kind: str) -> None:
    assert tokenizer_of({"tokenizer.ggml.model": kind}) is None


def test_what_was_read_is_saved_as_files_that_open_alike(
    tmp_path: Path, made: dict[str, Inner]
) -> None:
    ids = {"bos_token_id": 0, "eos_token_id": 1, "eot_token_id": 5, "add_bos_token": True}
    metadata = gpt2_metadata(made["qwen2"], "qwen2", **ids)
    read = opened({**metadata, "tokenizer.chat_template": CHAT})
    read.save(tmp_path)
    again = Tokenizer.open(tmp_path)
    assert again.settings == read.settings
    assert again.eos_ids == read.eos_ids == {1, 5}
    for text in TEXTS:
        assert again.encode(text) == read.encode(text)


# SentencePiece


def spelled(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.inner.id_to_token(i) or "" for i in tokenizer.encode(text)]


def test_pieces_join_by_score_and_not_by_length() -> None:
    pieces = {"▁": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "bc": -1.0, "ab": -2.0, "▁a": -3.0}
    tokenizer = opened(llama_metadata(pieces))
    assert spelled(tokenizer, "abc") == ["<s>", "▁a", "bc"]
    assert spelled(tokenizer, "ab") == ["<s>", "▁", "ab"]


def test_what_is_no_piece_is_bytes_and_comes_back_whole() -> None:
    tokenizer = opened(llama_metadata({"▁": -1.0, "a": -2.0}))
    assert spelled(tokenizer, "aé") == ["<s>", "▁", "a", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("aé 数\n🙂")) == "aé 数\n🙂"


@pytest.mark.parametrize("has_prefix", [True, False])
def test_a_space_is_put_before_a_text_if_the_file_says_so(has_prefix: bool) -> None:
    pieces = {"▁": -9.0, "a": -9.0, "▁a": -1.0}
    tokenizer = opened(llama_metadata(pieces, add_space_prefix=has_prefix, add_bos_token=False))
    assert spelled(tokenizer, "a a") == (["▁a", "▁a"] if has_prefix else ["a", "▁a"])
    for text in ("a", " a", "  a ", "a<s>a", ""):
        assert (
            tokenizer.decode(tokenizer.encode(text), keep_special=True).replace("<s> ", "<s>")
            == text
        )


def test_a_file_of_llama_adds_its_first_token_and_no_last() -> None:
    tokenizer = opened(llama_metadata({"▁": -1.0, "a": -2.0}))
    assert spelled(tokenizer, "a") == ["<s>", "▁", "a"]
    assert tokenizer.eos_ids == {2}
    ended = opened(llama_metadata({"▁": -1.0, "a": -2.0}, add_eos_token=True))
    assert spelled(ended, "a") == ["<s>", "▁", "a", "</s>"]


def test_control_unused_and_byte_tokens_are_never_joined_from_pieces() -> None:
    pieces = {"▁": -9.0, "<": -9.0, "x": -9.0, "xx": -1.0, "<x": -1.0}
    metadata = llama_metadata(pieces, add_bos_token=False)
    types = list(metadata["tokenizer.ggml.token_type"])
    types[-1] = 5
    tokenizer = opened({**metadata, "tokenizer.ggml.token_type": types})
    assert spelled(tokenizer, "<xx") == ["▁", "<", "xx"]
    assert spelled(tokenizer, "<x") == ["▁", "<", "x"]


@pytest.mark.parametrize("domain", corpora.domains())
def test_pieces_of_real_text_are_those_of_the_definition(domain: str) -> None:
    pieces = some_pieces()
    tokenizer = opened(llama_metadata(pieces, add_bos_token=False))
    text = corpora.held_out_text(domain)[:4000]
    for start in range(0, len(text), 200):
        part = text[start : start + 200]
        assert spelled(tokenizer, part) == naive_pieces(" " + part, pieces)


@settings(max_examples=150)
@given(st.text(st.sampled_from("ab c\ne▁é"), max_size=30))
def test_pieces_of_any_text_are_those_of_the_definition(text: str) -> None:
    pieces = some_pieces()
    tokenizer = opened(llama_metadata(pieces, add_bos_token=False))
    assert spelled(tokenizer, text) == (naive_pieces(" " + text, pieces) if text else [])


def test_an_end_added_by_the_library_is_the_one_that_it_would_add(made: dict[str, Inner]) -> None:
    theirs = Inner.from_str(made["gpt-2"].to_str())
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    metadata = gpt2_metadata(
        made["gpt-2"], "gpt-2", bos_token_id=0, eos_token_id=1, add_bos_token=True,
        add_eos_token=True,
    )  # fmt: skip
    for text in TEXTS:
        assert opened(metadata).encode(text) == theirs.encode(text).ids
