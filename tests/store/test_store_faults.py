"""A disk that goes wrong: no wrong token, no hang, nothing leaked. tools/store_faults.py does the
same a thousand times."""

from pathlib import Path

import pytest
import store_faults
from faulty_disk import FAULTS, LASTING, PASSING
from torch import Tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_faults.pack(tmp_path_factory.mktemp("faults") / "packed")


@pytest.fixture(scope="module")
def right(folder: Path) -> Tensor:
    return store_faults.right_answer(folder)


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_read_again_and_every_logit_is_right(folder, right, fault) -> None:
    bench = store_faults.Bench(folder)
    for after in (0, 7):
        assert store_faults.one_round(bench, fault, after, right) == "right"
        assert bench.disk.happened and store_faults.leaks(bench) == []
    bench.store.close()


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_one_error_and_the_store_goes_on_after_it(folder, right, fault) -> None:
    bench = store_faults.Bench(folder)
    for after in (0, 7):
        assert store_faults.one_round(bench, fault, after, right) == "error"
        assert store_faults.leaks(bench) == []
    assert store_faults.one_round(bench, "slow", 0, right) == "right"
    bench.store.close()


def test_a_share_of_the_thousand_faults_leaves_nothing_behind(folder) -> None:
    result = store_faults.campaign(folder, faults=3 * len(FAULTS), seed=1)
    assert store_faults.is_good(result), result
    assert result["longest_seconds"] < store_faults.MOST_SECONDS
    assert result["outcomes"]["error"] == 3 * len(LASTING)
    assert result["outcomes"].get("interrupt", 0) > 0


def test_an_outcome_that_must_not_be_is_told(folder, right) -> None:
    bench = store_faults.Bench(folder)
    assert store_faults.one_round(bench, "slow", 0, right + 1.0) == "WRONG"
    assert not store_faults.is_good({"outcomes": {"right": 5, "WRONG": 1}})
    bench.store.close()
