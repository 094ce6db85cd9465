"""Every family against transformers, over the cases of oracle_cases.py."""

from pathlib import Path

import oracle
import pytest
import torch

from expertly.checkpoint import load, save
from expertly.model import Cache, Decoder

_IDS = [f"{family}-{case}" for family, case in oracle.names()]
every_case = pytest.mark.parametrize(("family", "case"), oracle.names(), ids=_IDS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], oracle.Oracle]:
    return {}


def _both(
    family: str, case: int, built: dict, factory: pytest.TempPathFactory
) -> tuple[oracle.Oracle, Decoder]:
    if (family, case) not in built:
        folder = factory.mktemp(f"{family}{case}") / "model"
        theirs = oracle.build(family, case, folder)
        built[family, case] = theirs, load(folder)
    return built[family, case]


@every_case
def test_logits_and_left_padding_equal_transformers(family, case, built, tmp_path_factory) -> None:
    theirs, ours = _both(family, case, built, tmp_path_factory)
    ids_BS, mask_BS = oracle.ragged(ours.config.vocab_size, seed=case)
    with torch.no_grad():
        plain = ours(ids_BS).logits
        padded = ours(ids_BS, mask_BS).logits
    assert oracle.relative_error(plain, theirs.logits(ids_BS)) <= oracle.TOLERANCE
    expected = theirs.logits(ids_BS, mask_BS)
    assert oracle.relative_error(padded[mask_BS], expected[mask_BS]) <= oracle.TOLERANCE


@every_case
def test_twenty_greedy_tokens_from_the_cache_equal_transformers(
    family, case, built, tmp_path_factory
) -> None:
    theirs, ours = _both(family, case, built, tmp_path_factory)
    ids_BS, mask_BS = oracle.ragged(ours.config.vocab_size, seed=100 + case, length=7)
    expected = theirs.greedy(ids_BS, mask_BS, 20)
    cache = Cache(ours.config, batch_size=3)
    found = []
    with torch.no_grad():
        last = ours(ids_BS, mask_BS, cache=cache, logits="last").logits
        for _ in range(20):
            found.append(last.argmax(-1))
            last = ours(found[-1][:, None], cache=cache, logits="last").logits
    assert torch.equal(torch.stack(found, dim=1), expected)


@every_case
def test_the_hub_spelling_of_a_config_gives_the_same_model(
    family, case, tmp_path: Path, built, tmp_path_factory
) -> None:
    theirs, ours = _both(family, case, built, tmp_path_factory)
    folder = tmp_path / "model"
    theirs.model.save_pretrained(folder)
    oracle.spell_as_hub(folder)
    spelled = load(folder)
    assert spelled.config == ours.config
    ids_BS, _ = oracle.ragged(ours.config.vocab_size, seed=case)
    with torch.no_grad():
        assert torch.equal(spelled(ids_BS).logits, ours(ids_BS).logits)


@every_case
def test_transformers_reads_what_we_saved(
    family, case, tmp_path: Path, built, tmp_path_factory
) -> None:
    theirs, ours = _both(family, case, built, tmp_path_factory)
    save(ours, tmp_path / "saved")
    again = oracle.open_folder(tmp_path / "saved", family)
    expected = theirs.model.state_dict()
    assert again.model.state_dict().keys() == expected.keys()
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    ids_BS, _ = oracle.ragged(ours.config.vocab_size, seed=case)
    assert oracle.relative_error(again.logits(ids_BS), theirs.logits(ids_BS)) <= 1e-5
