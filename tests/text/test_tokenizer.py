import json
from pathlib import Path

import pytest
from made_tokenizers import KINDS, TEXTS, byte_fallback, byte_level
from tokenizers import processors

from expertly.errors import CheckpointError, InputError
from expertly.text import Tokenizer

CHAT = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}</s>"


def folder_with(folder: Path, inner=None, **files: object) -> Path:
    (inner or byte_level()).save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def with_bos(inner):
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return inner


@pytest.mark.parametrize("text", [*TEXTS, "", " a  b ", "\n\t", "🙂"])
def test_text_survives_encoding_and_decoding(tmp_path: Path, text: str) -> None:
    tokenizer = Tokenizer.open(folder_with(tmp_path))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("is_processed", [True, False])
def test_ids_and_text_are_those_of_transformers(
    tmp_path: Path, kind: str, flags: dict, is_processed: bool
) -> None:
    from transformers import PreTrainedTokenizerFast

    inner = KINDS[kind]()
    has_names = kind != "word_pieces"
    names = {"bos_token": "<s>", "eos_token": "</s>"} if has_names else {}
    if is_processed and has_names:
        with_bos(inner)
    folder_with(tmp_path, inner, tokenizer_config={**names, **flags})
    ours = Tokenizer.open(tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in ("the quick fox", "a b  c", "<s> the"):
        assert ours.encode(text) == theirs(text).input_ids
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, keep_special=True) == theirs.decode(ids)


def test_the_post_processor_adds_the_first_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(folder_with(tmp_path, with_bos(byte_level())))
    bos = tokenizer._inner.token_to_id("<s>")
    assert tokenizer.encode("the")[0] == bos
    assert tokenizer.encode("") == [bos]


def test_the_cut_and_padding_of_somebody_elses_run_are_undone(tmp_path: Path) -> None:
    inner = byte_level()
    inner.enable_truncation(2)
    inner.enable_padding(length=50)
    tokenizer = Tokenizer.open(folder_with(tmp_path, inner))
    assert tokenizer.decode(tokenizer.encode(TEXTS[0]), keep_special=True) == TEXTS[0]


def test_ends_of_text_are_gathered_from_all_files(tmp_path: Path) -> None:
    folder_with(
        tmp_path,
        tokenizer_config={"eos_token": "</s>"},
        generation_config={"eos_token_id": [7, 9]},
    )
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.eos_ids == {7, 9, tokenizer._inner.token_to_id("</s>")}


def test_an_end_of_text_may_be_one_number_or_nowhere(tmp_path: Path) -> None:
    assert Tokenizer.open(folder_with(tmp_path)).eos_ids == frozenset()
    folder_with(tmp_path, generation_config={"eos_token_id": 5})
    assert Tokenizer.open(tmp_path).eos_ids == {5}
    folder_with(tmp_path, special_tokens_map={"eos_token": {"content": "<s>"}})
    assert Tokenizer.open(tmp_path).eos_ids == {0, 5}


def test_vocab_size_counts_added_tokens() -> None:
    inner = byte_level()
    assert Tokenizer(inner).vocab_size == inner.get_vocab_size() == inner.token_to_id("<tool>") + 1


def test_the_text_of_a_token_keeps_its_space() -> None:
    tokenizer = Tokenizer(byte_fallback())
    by_name = tokenizer._inner.token_to_id
    texts = {name: tokenizer.token_text(by_name(name)) for name in ("▁the", "the", "▁", "</s>")}
    assert texts == {"▁the": " the", "the": "the", "▁": " ", "</s>": "</s>"}
    assert tokenizer.token_text(by_name("<0x0A>")) == "\n"
    assert tokenizer.token_text(by_name("<0xE2>")) == "�"
    assert tokenizer.token_text(10**6) == ""


def test_token_texts_of_whole_characters_join_to_the_text() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("def f(x):\n  return the fox")
    assert "".join(map(tokenizer.token_text, ids)) == "def f(x):\n  return the fox"


@pytest.mark.parametrize("token_id", [-1, 100_000, 2**40])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    with pytest.raises(InputError, match=f"id {token_id} is no token"):
        Tokenizer(byte_level()).decode([1, token_id])


def test_half_a_character_cannot_be_encoded() -> None:
    with pytest.raises(InputError, match="half a character at 1"):
        Tokenizer(byte_level()).encode("a\ud800")


def test_a_chat_becomes_ids_without_a_second_first_token(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "chat_template": CHAT}
    tokenizer = Tokenizer.open(
        folder_with(tmp_path, with_bos(byte_level()), tokenizer_config=config)
    )
    assert tokenizer.has_template
    ids = tokenizer.chat([{"role": "user", "content": "the fox"}])
    assert tokenizer.decode(ids, keep_special=True) == "<s>the fox</s>"


def test_a_template_file_goes_before_the_config(tmp_path: Path) -> None:
    folder_with(tmp_path, tokenizer_config={"chat_template": "wrong"})
    (tmp_path / "chat_template.jinja").write_text("right{{ messages[0].content }}")
    tokenizer = Tokenizer.open(tmp_path)
    ids = tokenizer.chat([{"role": "user", "content": "!"}])
    assert tokenizer.decode(ids) == "right!"


def test_of_several_named_templates_the_default_is_used(tmp_path: Path) -> None:
    templates = [
        {"name": "tool_use", "template": "wrong"},
        {"name": "default", "template": "right"},
    ]
    tokenizer = Tokenizer.open(folder_with(tmp_path, tokenizer_config={"chat_template": templates}))
    assert tokenizer.decode(tokenizer.chat([{"role": "user", "content": ""}])) == "right"


def test_a_chat_without_a_template_says_what_to_do() -> None:
    with pytest.raises(InputError, match="no chat template") as info:
        Tokenizer(byte_level()).chat([{"role": "user", "content": "hello"}])
    assert "plain text" in info.value.hint


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', "\x00\xff", "[" * 100_000]
)
def test_a_damaged_tokenizer_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        Tokenizer.open(tmp_path)


def test_every_cut_of_a_tokenizer_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = byte_fallback().to_str()
    for end in range(0, len(whole) - 1, len(whole) // 40):
        (tmp_path / "tokenizer.json").write_text(whole[:end])
        with pytest.raises(CheckpointError):
            Tokenizer.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[" * 100_000),
        ("special_tokens_map.json", "[1]"),
        ("generation_config.json", '{"eos_token_id": "two"}'),
        ("generation_config.json", '{"eos_token_id": [true]}'),
        ("generation_config.json", '{"eos_token_id": -1}'),
    ],
)
def test_a_damaged_file_beside_it_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder_with(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.open(tmp_path)


def test_a_template_that_is_not_text_is_named(tmp_path: Path) -> None:
    folder_with(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        Tokenizer.open(tmp_path)
