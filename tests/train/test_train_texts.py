from pathlib import Path

import pytest

from expertly.errors import InputError
from expertly.text import corpora
from expertly.train.texts import Domain, open_domains


def one(name: str, folder: Path, held_out: float = 0.5) -> Domain:
    (domain,) = open_domains((name,), (), held_out, folder)
    return domain


def test_a_file_is_cut_at_a_line_so_that_its_end_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\nsecond\nthird\nlast!\n")
    domain = one("a.txt", tmp_path)
    assert domain.name == "a"
    assert list(domain.training()) == ["first\n"]
    assert domain.held_out() == "second\nthird\nlast!\n"


def test_nothing_is_held_out_when_nobody_asks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\nsecond\n")
    domain = one("a.txt", tmp_path, held_out=0.0)
    assert list(domain.training()) == ["first\nsecond\n"]
    assert domain.held_out() == ""


def test_a_folder_is_one_text_of_all_its_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "tales"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "c").write_text("ccc\nddd\n")
    (folder / "b.md").write_text("bbbb\nbbb\n")
    (folder / "a.txt").write_text("aaaaaaa\n")
    (folder / "empty").write_text("")
    (folder / ".hidden").write_text("hidden\n")
    domain = one("tales", tmp_path, held_out=0.4)
    # 25 bytes, of which 15 are for training: they end in the second file, after its first line
    assert list(domain.training()) == ["aaaaaaa\n", "bbbb\n"]
    assert domain.held_out() == "bbb\n\nccc\nddd\n"


def test_a_packaged_text_is_cut_where_the_package_says(tmp_path: Path) -> None:
    domain = one("packaged:drama", tmp_path, held_out=corpora.HELD_OUT)
    assert list(domain.training()) == [corpora.training_text("drama")]
    assert domain.held_out() == corpora.held_out_text("drama")


def test_weights_stay_with_their_texts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("text\n")
    domains = open_domains(("a", "b"), (1.0, 2.5), 0.05, tmp_path)
    assert [(domain.name, domain.weight) for domain in domains] == [("a", 1.0), ("b", 2.5)]


def test_a_byte_that_is_not_utf8_is_named_with_its_offset(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9 au lait\n")
    with pytest.raises(InputError, match=r"latin is not UTF-8: byte 0xe9 at offset 3") as caught:
        list(one("latin", tmp_path).training())
    assert "iconv" in caught.value.hint


def test_missing_empty_and_unknown_texts_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"cannot read the text .*gone: No such file"):
        one("gone", tmp_path)
    with pytest.raises(InputError, match=r"there is no text in .*empty"):
        one("empty", tmp_path)
    with pytest.raises(InputError, match="no packaged text is called 'opera'"):
        one("packaged:opera", tmp_path)


def test_two_texts_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drama.txt").write_text("text\n")
    with pytest.raises(InputError, match="two texts are called 'drama'"):
        open_domains(("drama.txt", "packaged:drama"), (), 0.05, tmp_path)
