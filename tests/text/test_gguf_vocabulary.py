from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFValueType
from made_gguf_text import TEXTS, llama_metadata, some_pieces, trained
from made_tokenizers import byte_fallback, metaspace, word_pieces
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Inner

from expertly.errors import InputError
from expertly.formats import gguf, gguf_writer
from expertly.text import Tokenizer, corpora
from expertly.text.gguf_pretokenizers import WORDS_OF_PRE, normalizer_of, pre_tokenizer_of
from expertly.text.gguf_tokenizer import tokenizer_of
from expertly.text.gguf_vocabulary import vocabulary_of
from expertly.text.settings import Settings

BUNDLED = Path(__file__).parents[2] / "src/expertly/bundled"
GGML = "tokenizer.ggml."


def byte_level(cut: pre_tokenizers.PreTokenizer | None = None) -> Inner:
    inner = trained(cut or pre_tokenizers.ByteLevel(add_prefix_space=False), 500)
    inner.decoder = decoders.ByteLevel()
    return inner


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def sentence_piece(has_prefix: bool = True) -> Inner:
    tokenizer = tokenizer_of(llama_metadata(some_pieces(), add_space_prefix=has_prefix))
    assert tokenizer is not None
    return tokenizer.inner


def there_and_back(tokenizer: Tokenizer, folder: Path, vocab_size: int) -> Tokenizer:
    """Through a file, so that what is written is what GGUF can hold."""
    path = folder / "vocabulary.gguf"
    gguf_writer.write(path, vocabulary_of(tokenizer, vocab_size).metadata, [])
    back = tokenizer_of(gguf.read(path).metadata)
    assert back is not None
    return back


def refusal(inner: Inner, settings: Settings | None = None) -> str:
    tokenizer = Tokenizer(inner, settings)
    with pytest.raises(InputError) as caught:
        vocabulary_of(tokenizer, tokenizer.vocab_size)
    assert caught.value.hint
    return caught.value.message


def test_the_bundled_tokenizer_comes_back_the_same(tmp_path: Path) -> None:
    bundled = Tokenizer.open(BUNDLED)
    vocabulary = vocabulary_of(bundled, 4096)
    assert vocabulary.metadata[GGML + "pre"] == "gpt-2"
    assert vocabulary.differences == ()
    back = there_and_back(bundled, tmp_path, 4096)
    assert (back.eos_ids, back.special_ids) == (bundled.eos_ids, bundled.special_ids)
    for text in [*TEXTS, *map(corpora.held_out_text, corpora.domains())]:
        assert back.encode(text) == bundled.encode(text)


@pytest.mark.parametrize("pre", WORDS_OF_PRE)
def test_every_way_to_cut_words_is_found_again(pre: str) -> None:
    words = WORDS_OF_PRE[pre]
    inner = Inner(models.BPE({"a": 0}, [], ignore_merges=words.are_tokens_first))
    inner.pre_tokenizer, inner.decoder = pre_tokenizer_of(words), decoders.ByteLevel()
    normalizer = normalizer_of(words)
    if normalizer is not None:
        inner.normalizer = normalizer
    vocabulary = vocabulary_of(Tokenizer(inner), 1)
    found = WORDS_OF_PRE[str(vocabulary.metadata[GGML + "pre"])]
    assert (found.steps, found.are_tokens_first) == (words.steps, words.are_tokens_first)
    assert found.composes == words.composes
    assert any("NFC" in told for told in vocabulary.differences) == words.composes


def test_two_spellings_of_one_cut_are_one() -> None:
    pattern = WORDS_OF_PRE["qwen2"].steps[0]
    inner = byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    )
    tokenizer = Tokenizer(inner)
    metadata = vocabulary_of(tokenizer, 500).metadata
    back = tokenizer_of(metadata)
    assert back is not None
    assert [back.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize("has_prefix", [True, False])
def test_pieces_come_back_with_their_spaces_and_bytes(tmp_path: Path, has_prefix: bool) -> None:
    tokenizer = Tokenizer(sentence_piece(has_prefix), Settings(names={"bos_token": "<s>"}))
    back = there_and_back(tokenizer, tmp_path, tokenizer.vocab_size)
    for text in [*TEXTS, corpora.held_out_text("python")[:5000]]:
        ids = tokenizer.encode(text)
        assert back.encode(text) == ids
        assert back.decode(ids) == tokenizer.decode(ids)


def test_the_public_reader_finds_what_was_written(tmp_path: Path) -> None:
    bundled = Tokenizer.open(BUNDLED)
    metadata = vocabulary_of(bundled, 4100).metadata
    path = tmp_path / "vocabulary.gguf"
    gguf_writer.write(path, {"general.architecture": "qwen2moe", **metadata}, [])
    reader = GGUFReader(path)
    for key, value in metadata.items():
        assert reader.fields[key].contents() == value
    tokens, types = reader.fields[GGML + "tokens"], reader.fields[GGML + "token_type"]
    assert tokens.types == [GGUFValueType.ARRAY, GGUFValueType.STRING]
    assert types.types == [GGUFValueType.ARRAY, GGUFValueType.INT32]


def test_tokens_types_and_padding_are_written_by_id() -> None:
    inner = byte_level()
    inner.add_tokens([AddedToken("<tool>", special=False)])
    metadata = vocabulary_of(Tokenizer(inner), 503).metadata
    tokens: Any = metadata[GGML + "tokens"]
    assert tokens[:2] == ["<s>", "</s>"] and tokens[500:] == ["<tool>", "[PAD501]", "[PAD502]"]
    assert metadata[GGML + "token_type"] == [3, 3, *[1] * 498, 4, 5, 5]


def test_bytes_and_the_unknown_token_of_pieces_have_their_types() -> None:
    metadata = vocabulary_of(Tokenizer(sentence_piece()), 259 + len(some_pieces())).metadata
    types: Any = metadata[GGML + "token_type"]
    assert types[:259] == [2, 3, 3] + [6] * 256 and set(types[259:]) == {1}
    assert metadata[GGML + "unknown_token_id"] == 0


def test_special_ids_ends_and_template_are_written() -> None:
    inner = byte_level()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    settings = Settings(names=names, eos_ids=frozenset({1, 7, 9}), template="{{ bos_token }}")
    metadata = vocabulary_of(Tokenizer(inner, settings), 500).metadata
    assert metadata["tokenizer.chat_template"] == "{{ bos_token }}"
    found = {key.removeprefix(GGML): metadata[key] for key in metadata if "_token" in key}
    assert found == {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "eot_token_id": 7,
        "eom_token_id": 9,
        "add_bos_token": True,
        "add_eos_token": False,
    }
    back = tokenizer_of(metadata)
    assert back is not None and back.eos_ids == {1, 7, 9} and back.encode("")[0] == 0


def test_ends_of_text_beyond_the_three_are_told() -> None:
    settings = Settings(eos_ids=frozenset({3, 4, 5, 6}))
    vocabulary = vocabulary_of(Tokenizer(byte_level(), settings), 500)
    assert vocabulary.differences == ("that the ids [6] end a text too is not said",)


def test_the_end_that_readers_of_pieces_take_by_default_is_told() -> None:
    vocab_size = 259 + len(some_pieces())
    (told,) = vocabulary_of(Tokenizer(sentence_piece()), vocab_size).differences
    assert "token 2" in told
    named = Tokenizer(sentence_piece(), Settings(names={"eos_token": "</s>"}))
    assert vocabulary_of(named, vocab_size).differences == ()


def test_spaces_that_a_token_takes_away_are_told() -> None:
    inner = byte_level()
    inner.add_special_tokens([AddedToken("<x>", rstrip=True)])
    names = {"eos_token": "<x>"}
    (told,) = vocabulary_of(Tokenizer(inner, Settings(names=names)), 501).differences
    assert "<x>" in told


def test_the_token_that_readers_take_for_the_end_is_told() -> None:
    (told,) = vocabulary_of(Tokenizer(byte_level()), 501).differences
    assert "token 11 for the end" in told
    (told,) = vocabulary_of(Tokenizer(sentence_piece()), 259 + len(some_pieces())).differences
    assert "token 2 for the end" in told


def test_the_words_of_llama_3_are_written_by_the_name_that_every_reader_knows() -> None:
    words = WORDS_OF_PRE["llama-bpe"]
    inner = Inner(models.BPE({"a": 0}, [], ignore_merges=True))
    inner.pre_tokenizer, inner.decoder = pre_tokenizer_of(words), decoders.ByteLevel()
    assert vocabulary_of(Tokenizer(inner), 1).metadata[GGML + "pre"] == "llama-bpe"


@pytest.mark.parametrize("joins", [False, True])
def test_digits_may_be_cut_one_by_one_or_in_runs_where_no_merge_joins_them(joins: bool) -> None:
    *steps, last = WORDS_OF_PRE["deepseek-llm"].steps
    assert last == r"\p{N}+"
    merges = [("1", "2")] if joins else [("a", "1")]
    vocab = {text: i for i, text in enumerate(["a", "1", "2", "".join(merges[0])])}
    inner = Inner(models.BPE(vocab, merges))
    splits = [pre_tokenizers.Split(Regex(step), "isolated") for step in [*steps, r"\p{N}"]]
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte])
    inner.decoder = decoders.ByteLevel()
    if joins:
        with pytest.raises(InputError, match="no reader knows"):
            vocabulary_of(Tokenizer(inner), 4)
    else:
        made = vocabulary_of(Tokenizer(inner), 4)
        assert made.metadata[GGML + "pre"] == "deepseek-llm"


@pytest.mark.parametrize(("scheme", "is_told"), [("first", True), ("always", False)])
def test_another_space_after_a_special_token_is_told(scheme: str, is_told: bool) -> None:
    inner = sentence_piece()
    inner.normalizer = normalizers.Sequence([])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    names = {"eos_token": "</s>"}
    vocabulary = vocabulary_of(Tokenizer(inner, Settings(names=names)), 259 + len(some_pieces()))
    assert vocabulary.metadata[GGML + "add_space_prefix"] is True
    assert bool(vocabulary.differences) == is_told


def test_a_vocabulary_larger_than_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="500 tokens, the model 499"):
        vocabulary_of(Tokenizer(byte_level()), 499)


def test_tokenizers_that_readers_would_cut_otherwise_are_refused() -> None:
    assert "kind WordPiece" in refusal(word_pieces())
    assert "not cut and spelled in bytes" in refusal(metaspace())
    assert "how it cuts words" in refusal(byte_level(split(r"\w+|\s+")))
    assert "not those of pieces" in refusal(byte_fallback())
    lowered = byte_level()
    lowered.normalizer = normalizers.Lowercase()
    assert "changes text before it is cut (Lowercase)" in refusal(lowered)
    prefixed = byte_level()
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert "not cut and spelled in bytes" in refusal(prefixed)
    whole = byte_level()
    whole.model = models.BPE({"a": 0}, [], ignore_merges=True)
    assert "ignore_merges True" in refusal(whole)
    stripped = sentence_piece()
    stripped.normalizer = normalizers.Strip()
    assert "SentencePiece" in refusal(stripped)


def test_added_tokens_that_files_have_no_words_for_are_refused() -> None:
    two = byte_level()
    two.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A", special_tokens=[("<s>", 0)]
    )
    assert "more than one token" in refusal(two)
    other = byte_level()
    other.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    names = {"bos_token": "</s>"}
    assert "not its bos_token" in refusal(other, Settings(names=names))
