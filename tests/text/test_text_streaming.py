import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import KINDS

from expertly.text import StreamDecoder, Tokenizer

TOKENIZERS = {name: Tokenizer(make()) for name, make in KINDS.items()}


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(i) for i in ids), stream.flush()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_of_random_ids_join_to_the_text_of_all(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(text=st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_pieces_of_any_unicode_text_are_whole_characters_and_join_to_it(
    kind: str, text: str
) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert "".join(found) == tokenizer.decode(ids)
    # the spelling of a control token is read as that token, which is no text
    is_plain = "�" not in text and "<s>" not in text and "</s>" not in text
    if is_plain and kind == "byte_level":
        assert "".join(found) == text
        assert not any("�" in piece for piece in found)


def test_a_character_of_four_bytes_comes_in_one_piece() -> None:
    tokenizer = Tokenizer(KINDS["byte_level"](258))  # no merges: a token is a byte
    ids = tokenizer.encode("a🙂b")
    assert len(ids) == 6
    assert pieces(tokenizer, ids) == ["a", "", "", "", "🙂", "b", ""]


def test_leading_spaces_of_words_survive() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = [tokenizer._inner.token_to_id(name) for name in ("▁the", "▁quick", "▁", "▁the")]
    assert pieces(tokenizer, ids) == ["the", " quick", " ", " the", ""]


def test_an_unfinished_character_appears_at_the_flush_only() -> None:
    tokenizer = Tokenizer(KINDS["byte_level"](258))
    ids = tokenizer.encode("é")[:1]
    assert pieces(tokenizer, ids) == ["", "�"]


def test_a_run_of_bytes_is_judged_when_it_ends() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    names = ["<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "a"]
    ids = [tokenizer._inner.token_to_id(name) for name in names]
    assert pieces(tokenizer, ids[:3]) == ["", "", "", "€"]
    # the decoder gives up the whole run for one byte that fits nowhere
    assert pieces(tokenizer, ids) == ["", "", "", "", "����a", ""]


def test_control_tokens_and_ids_without_a_token_add_nothing() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    the = tokenizer._inner.token_to_id("▁the")
    assert pieces(tokenizer, [1, the, 10_000, 2, the]) == ["", "the", "", "", " the", ""]


def test_a_flushed_decoder_starts_anew() -> None:
    stream = TOKENIZERS["metaspace"].stream()
    ids = TOKENIZERS["metaspace"].encode("the")
    first = "".join(map(stream.push, ids)) + stream.flush()
    again = "".join(map(stream.push, ids)) + stream.flush()
    assert first == again == "the"


def test_work_a_token_does_not_grow_with_the_text() -> None:
    lengths = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return "x" * len(ids)

    stream = StreamDecoder(decode=decode)
    assert "".join(stream.push(i) for i in range(500)) == "x" * 500
    assert max(lengths) == 2
