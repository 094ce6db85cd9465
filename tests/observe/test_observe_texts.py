"""Texts from files: the beginning that is needed, and one clear error for each bad file."""

from pathlib import Path

import pytest

from expertly.errors import InputError
from expertly.observe.texts import domains, read_text, read_texts


def test_a_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes("héllo\r\n wörld".encode())
    assert read_text(path, 100) == "héllo\r\n wörld"


def test_no_more_is_read_than_the_tokens_need(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a" * 1000)
    assert read_text(path, 2) == "a" * 128


def test_a_character_cut_by_the_limit_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("€" * 1000, encoding="utf-8")
    # 128 bytes hold 42 characters of three bytes and two bytes more
    assert read_text(path, 2) == "€" * 42


def test_a_file_that_is_not_utf8_is_named_with_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8: byte 3 is 0xe9"):
        read_text(path, 100)


def test_a_character_cut_by_the_end_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes("ab€".encode()[:-1])
    with pytest.raises(InputError, match="byte 2 is 0xe2"):
        read_text(path, 100)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt cannot be read: No such file"):
        read_text(tmp_path / "none.txt", 100)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path, 100)


@pytest.mark.parametrize("content", [b"", b" \n\t"])
def test_a_file_without_text_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "void.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"void\.txt is empty"):
        read_text(path, 100)


def test_texts_keep_the_names_of_their_domains(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    files = {"first": tmp_path / "a.txt", "second": tmp_path / "b.txt"}
    assert read_texts(files, 10) == {"first": "one", "second": "two"}


def test_files_are_named_by_their_stem_and_pairs_by_their_name() -> None:
    found = domains([Path("x/drama.txt"), Path("law.md")], ["code=src/a=b.py"])
    assert found == {
        "drama": Path("x/drama.txt"),
        "law": Path("law.md"),
        "code": Path("src/a=b.py"),
    }


@pytest.mark.parametrize("item", ["drama.txt", "=drama.txt", "drama="])
def test_a_pair_without_a_name_or_a_file_is_refused(item: str) -> None:
    with pytest.raises(InputError, match="names no domain and file"):
        domains([], [item])


def test_two_texts_of_one_name_are_refused_with_both_files() -> None:
    with pytest.raises(InputError, match=r"'a': x/a\.txt and y/a\.md"):
        domains([Path("x/a.txt"), Path("y/a.md")], [])
