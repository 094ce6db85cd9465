"""A share of the fuzzing of packed folders: only our own error comes out, and soon."""

import json
import sys
from pathlib import Path

import fuzz_packed
import pytest
from fuzz_work import checked

SEEDS = fuzz_packed.packed_seeds()
FOREVER = float("inf")


def test_thousands_of_mutants_end_in_our_error_or_in_what_they_say() -> None:
    source = fuzz_packed.PackedMutator(SEEDS, salt=1)
    result = checked(fuzz_packed.check, source, range(4000), FOREVER, [0, 0])
    assert not result.finds, result.finds[0].what
    # mutants get past the outer layers, and most of them are wrong
    assert 0.02 < result.accepted / result.mutants < 0.3


def test_every_seed_is_accepted() -> None:
    assert len(SEEDS) == 5 and all(fuzz_packed.check(data) for data in SEEDS)
    assert sum(data[:1] == b"{" for data in SEEDS) == 1


def test_mutants_are_the_same_every_time() -> None:
    one, other = (fuzz_packed.PackedMutator(SEEDS, salt=3) for _ in range(2))
    assert [one.mutant(n) for n in range(40)] == [other.mutant(39 - n) for n in range(40)][::-1]
    assert one.mutant(0) != fuzz_packed.PackedMutator(SEEDS, salt=4).mutant(0)


def test_mutants_reach_every_layer_of_the_checks() -> None:
    source = fuzz_packed.PackedMutator(SEEDS, salt=2)
    said = []
    for number in range(0, 6000, 2):
        data = source.mutant(number)
        try:
            if data[:1] == b"{":
                fuzz_packed.parse_manifest(Path("m"), data)
            else:
                head = data[: 8 + int.from_bytes(data[:8], "little")]
                fuzz_packed.parse_head(Path("s"), len(data), head)
        except fuzz_packed.CheckpointError as error:
            said.append(error.message)
    for part in ("begins at", "weights are not in", "half described", "no whole pages",
                 "its matrices end", "of layout", "its blobs take", "shards have"):  # fmt: skip
        assert any(part in message for message in said), part


@pytest.mark.parametrize("wrong", [ValueError("x"), IndexError(1), RecursionError()])
def test_any_other_error_is_a_find_and_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: Exception,
) -> None:
    real = fuzz_packed.parse_manifest

    def parse(path: Path, data: bytes) -> object:
        if data not in SEEDS:
            raise wrong
        return real(path, data)

    monkeypatch.setattr(fuzz_packed, "parse_manifest", parse)
    options = ["--mutants", "60", "--jobs", "1", "--keep", str(tmp_path / "finds")]
    monkeypatch.setattr(sys, "argv", ["fuzz_packed.py", *options])
    assert fuzz_packed.main() == 1
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert line["mutants"] == 60 and 0 < line["finds"] < 60
    assert type(wrong).__name__ in err
    assert len([*(tmp_path / "finds").iterdir()]) == line["finds"]
