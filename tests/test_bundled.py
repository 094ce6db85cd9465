"""The model that comes with the package keeps what the README says of it."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from expertly.checkpoint import load
from expertly.checkpoint.locating import bundled
from expertly.model import Decoder

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import measure_bundled


@pytest.fixture(scope="module")
def model() -> Iterator[Decoder]:
    yield load("")


@pytest.fixture(scope="module")
def rows(model: Decoder) -> list[measure_bundled.Row]:
    return list(measure_bundled.rows(model))


def test_held_out_text_takes_at_most_1_9_bits_a_byte_on_average(rows) -> None:
    assert len(rows) == 5
    assert sum(row.model for row in rows) / len(rows) <= 1.9


def test_every_domain_is_predicted_better_than_gzip_and_xz_compress_it(rows) -> None:
    for row in rows:
        assert row.model < row.gzip and row.model < row.xz, row


def test_no_expert_of_the_bundled_model_is_dead(model: Decoder) -> None:
    assert measure_bundled.dead_experts(model) == {}


def test_nine_words_in_ten_that_it_writes_occur_in_the_training_texts(model: Decoder) -> None:
    assert measure_bundled.known_words(model) >= 0.9


def test_the_bundled_weights_take_at_most_20_megabytes() -> None:
    assert (bundled() / "model.safetensors").stat().st_size <= 20_000_000


def test_the_readme_has_the_measured_table(rows) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for row in rows:
        said = re.search(rf"^\| {row.domain} \| ([\d.]+) \|", readme, re.MULTILINE)
        assert said is not None and float(said[1]) == pytest.approx(row.model, abs=2e-3)
