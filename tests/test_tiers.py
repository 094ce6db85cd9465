"""What docs/tiers.md says of the bundled model's formats holds, over a share of its text."""

import re
from pathlib import Path

import measure_tiers
import pytest
import torch

from expertly.checkpoint import load
from expertly.checkpoint.calibrating import Calibration, calibrate, draw_windows
from expertly.checkpoint.recipe import recipe_of_bits, recipe_of_type
from expertly.formats.blocks import BLOCKS
from expertly.text import corpora

# of llama.cpp's Q4_K_M on this model, whose rows take none of its blocks of 256
Q4_K_M_BITS, Q4_K_M_KL = 6.31, 0.0046


@pytest.fixture(scope="module")
def text() -> measure_tiers.Text:
    return measure_tiers.held_out(load(measure_tiers.BUNDLED, "float32"), 1)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    model = load(measure_tiers.BUNDLED, "float32")
    texts = [corpora.training_text(domain) for domain in corpora.domains()]
    return calibrate(model, draw_windows(model.config, model.tokenizer, texts, 5120))


def measured(text: measure_tiers.Text, calibration: Calibration, **tier) -> measure_tiers.Row:
    made = measure_tiers.Tier(name="tier", **tier)
    return measure_tiers.measure(made, measure_tiers.BUNDLED, text, calibration, False)


def table() -> dict[str, list[str]]:
    """The cells of each row of the page by its tier."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in measure_tiers.PAGE.read_text().splitlines()
        if line.startswith("| ")
    ]
    return {cells[0]: cells[1:] for cells in lines[2:]}


def test_at_8_bits_the_model_is_within_a_thousandth_of_a_nat(text, calibration) -> None:
    row = measured(text, calibration, recipe=recipe_of_bits(8))
    assert 0 < row.kl < 1e-3 and row.bits < 8.7


def test_at_4_bits_it_loses_less_than_q4_k_m_with_fewer_bits(text, calibration) -> None:
    row = measured(text, calibration, recipe=recipe_of_bits(4), is_calibrated=True)
    assert row.kl < Q4_K_M_KL and row.bits < Q4_K_M_BITS


def test_bits_by_use_lose_less_than_the_same_bits_everywhere(text, calibration) -> None:
    even = measured(text, calibration, recipe=recipe_of_bits(4), is_calibrated=True)
    by_use = measured(
        text, calibration, recipe=recipe_of_bits(4), is_calibrated=True, average=even.bits
    )
    assert by_use.bits <= even.bits and by_use.kl < 0.9 * even.kl


def test_the_exact_model_has_no_divergence_from_itself(text) -> None:
    model = load(measure_tiers.BUNDLED, "float32")
    divergence, bits_per_byte = measure_tiers.score(model, text)
    assert abs(divergence) < 1e-6 and 1.0 < bits_per_byte < 2.5


def test_divergence_and_bits_are_those_of_a_known_distribution() -> None:
    # two tokens, exact chances 3/4 and 1/4 against even ones
    exact_BSV = torch.tensor([[[0.75, 0.25]]]).log()
    text = measure_tiers.Text(torch.tensor([[0, 1]]), exact_BSV, num_bytes=1)

    def even(ids_BS):
        return type("Output", (), {"logits": torch.zeros(1, 2, 2)})

    divergence, bits = measure_tiers.score(even, text)
    # ln 2 - (2 ln 2 - 0.75 ln 3), and one bit for one byte
    assert divergence == pytest.approx(0.130812, abs=1e-6) and bits == pytest.approx(1.0)


def test_the_page_has_every_format_and_its_figures_stand_in_order() -> None:
    rows = table()
    assert {f"`--type {name}`" for name in BLOCKS} - {"`--type f32`", "`--type bf16`"} <= set(rows)
    bits = {name: float(cells[1]) for name, cells in rows.items()}
    kl = {name: float(cells[3]) for name, cells in rows.items()}
    assert kl["bf16"] < kl["`--bits 8`"] < 1e-3 < kl["`--bits 4`"] < kl["`--type i4`"]
    assert bits["bf16"] > bits["`--bits 8`"] > bits["`--bits 4`"] > bits["`--type i4`"]
    by_use = [name for name in rows if "by use" in name]
    assert len(by_use) == 4
    for name in by_use:
        asked = float(re.search(r"average ([\d.]+)", name)[1])
        assert 0.95 * asked < bits[name] <= asked
    assert [kl[name] for name in by_use] == sorted(kl[name] for name in by_use)


def test_the_page_says_what_llama_cpp_makes_of_the_same_model() -> None:
    rows = table()
    ours, theirs = rows["`--bits 4`, calibrated"], rows.get("llama.cpp Q4_K_M")
    if theirs is None:
        pytest.skip("made without --peer-python")
    assert float(ours[1]) <= float(theirs[1]) and float(ours[3]) <= float(theirs[3])
    assert float(theirs[1]) == pytest.approx(Q4_K_M_BITS, abs=0.01)


def test_a_type_of_the_page_is_the_recipe_of_that_type() -> None:
    found = {tier.name: tier.recipe for tier in measure_tiers.tiers()}
    assert found["`--type q5_1`"] == recipe_of_type("q5_1")
    assert len(found) == len(measure_tiers.tiers())


def test_the_page_is_laid_out_as_a_table(text) -> None:
    row = measure_tiers.Row(
        tier="t", formats="i4 90%", bits=4.6, num_bytes=1234567, kl=0.00123, bits_per_byte=1.5,
        tokens_per_second=None,
    )  # fmt: skip
    lines = measure_tiers.page([row], text).splitlines()
    assert lines[-1] == "| t | i4 90% | 4.60 | 1,234,567 | 0.00123 | 1.5000 |"
    assert lines[-3].count("|") == lines[-2].count("|") == lines[-1].count("|")
    assert Path(measure_tiers.PAGE).name == "tiers.md"
