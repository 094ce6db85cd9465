import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertly.errors import InputError
from expertly.train.pack import Packed, pack, pieces
from expertly.train.texts import Domain, open_domains
from expertly.train.vocabulary import train_bpe

TALE = "once upon a time\n\n  there was\tan owl\nwho sang: lo!\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train_bpe([TALE], 300).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(TALE)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1").write_text("who sang\n")
    (tmp_path / "b" / "2").write_text("lo\n")
    return tmp_path


def domains(folder: Path, held_out: float = 0.0) -> tuple[Domain, ...]:
    return open_domains(("a.txt", "b"), (), held_out, folder)


def packed(folder: Path, held_out: float = 0.0) -> Packed:
    return pack(domains(folder, held_out), folder / "tokenizer.json", folder / "data", end_id=0)


def test_each_document_ends_with_the_mark_and_each_domain_has_its_span(folder: Path) -> None:
    data = packed(folder)
    encode = train_bpe([TALE], 300).encode
    expected = [*encode(TALE).ids, 0]
    assert data.tokens[: data.spans[0].end].tolist() == expected
    second = [*encode("who sang\n").ids, 0, *encode("lo\n").ids, 0]
    assert data.tokens.tolist() == [*expected, *second]
    assert [(span.name, span.start) for span in data.spans] == [("a", 0), ("b", len(expected))]
    assert data.spans[1].end == len(data.tokens)
    assert data.tokens.dtype == np.uint16


def test_tokens_are_made_once_while_nothing_changes(folder: Path) -> None:
    before = packed(folder).fingerprint
    os.utime(folder / "data" / "tokens.bin", ns=(1, 1))
    assert packed(folder).fingerprint == before
    assert (folder / "data" / "tokens.bin").stat().st_mtime_ns == 1


@pytest.mark.parametrize("change", ["text", "share", "tokenizer", "tokens", "index"])
def test_tokens_are_made_anew_when_something_changed(folder: Path, change: str) -> None:
    before = packed(folder).fingerprint
    good = (folder / "data" / "tokens.bin").read_bytes()
    if change == "text":
        (folder / "a.txt").write_text(TALE.replace("owl", "cat"))
    elif change == "tokenizer":
        train_bpe([TALE], 270).save(str(folder / "tokenizer.json"))
    elif change == "tokens":
        (folder / "data" / "tokens.bin").write_bytes(good[:-1] + b"\x07")
    elif change == "index":
        (folder / "data" / "index.json").write_text("[1]")
    os.utime(folder / "data" / "tokens.bin", ns=(1, 1))
    after = packed(folder, 0.4 if change == "share" else 0.0)
    assert (folder / "data" / "tokens.bin").stat().st_mtime_ns != 1
    assert (after.fingerprint == before) == (change in ("tokens", "index"))
    if change in ("tokens", "index"):
        assert (folder / "data" / "tokens.bin").read_bytes() == good


def test_a_killed_run_leaves_no_index_for_half_the_tokens(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / ".tokens.bin.part").write_bytes(b"half")
    (folder / "data" / "tokens.bin").write_bytes(b"old!")
    data = packed(folder)
    index = json.loads((folder / "data" / "index.json").read_text())
    assert index["ends"][-1] == len(data.tokens) > 2


def test_a_text_that_is_not_utf8_stops_the_packing(folder: Path) -> None:
    (folder / "b" / "3").write_bytes(b"ok\n\xff")
    with pytest.raises(InputError, match="3 is not UTF-8: byte 0xff at offset 3"):
        packed(folder)
    assert not (folder / "data" / "index.json").exists()


@given(
    st.lists(st.sampled_from(["owl", "\n", " ", "  ", "x", "'s", "9", "語", "."]), max_size=60),
    st.integers(1, 10),
)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(parts: list[str], size: int) -> None:
    tokenizer = train_bpe([TALE], 300)
    text = "".join(parts)
    cut = list(pieces(text, size))
    assert "".join(cut) == text
    ids = [i for piece in cut for i in tokenizer.encode(piece).ids]
    assert ids == tokenizer.encode(text).ids


def test_pieces_stay_near_their_size() -> None:
    cut = list(pieces("owl\n" * 1000, 100))
    assert len(cut) == 40
    assert max(map(len, cut)) <= 104
