"""Traces as Parquet files: written, read, and replayed at budgets."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expertly.errors import InputError
from expertly.store.forecast import Rates, forecast, used_bytes
from expertly.store.trace import About, Trace, TraceWriter, read_trace

# layer 1 is dense
ABOUT = About(num_experts=(4, 0, 4), num_chosen=(2, 0, 1), expert_bytes=(10, 0, 30), dense_bytes=50)


def write(path, about=ABOUT) -> None:
    with TraceWriter(path, about) as writer:
        ids_TK = np.array([[3, 1], [1, 0]], np.int32)
        weight_TK = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
        writer.add(0, 0, np.array([0, 1]), ids_TK, weight_TK)
        ids_TK[:] = 0
        writer.add(0, 2, np.array([0, 1]), np.array([[2], [2]]), np.ones((2, 1), np.float32))
        writer.add(1, 0, np.array([2]), np.array([[0, 3]]), np.ones((1, 2), np.float32))
        writer.add(1, 2, np.array([2]), np.array([[1]]), np.ones((1, 1), np.float32))


def test_every_decision_is_a_row_as_it_was_when_it_was_told(tmp_path) -> None:
    write(tmp_path / "t")
    rows = pq.read_table(tmp_path / "t").to_pydict()
    assert list(rows) == ["step", "position", "layer", "slot", "expert", "weight"]
    assert rows["step"] == [0] * 6 + [1] * 3
    assert rows["position"] == [0, 0, 1, 1, 0, 1, 2, 2, 2]
    assert rows["layer"] == [0, 0, 0, 0, 2, 2, 0, 0, 2]
    assert rows["slot"] == [0, 1, 0, 1, 0, 0, 0, 1, 0]
    assert rows["expert"] == [3, 1, 1, 0, 2, 2, 0, 3, 1]
    assert rows["weight"][:4] == [0.75, 0.25, 0.5, 0.5]


def test_a_pass_of_several_tokens_is_one_turn_a_layer_when_it_is_read(tmp_path) -> None:
    write(tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    assert trace.visits == ((0, (0, 1, 3)), (2, (2,)), (0, (0, 3)), (2, (1,)))
    assert trace.num_tokens == 3 and trace.about == ABOUT
    assert trace.about.all_expert_bytes == 160 and trace.about.working_set_bytes == 50
    assert used_bytes(trace) == 5 * 10 + 2 * 30


def test_an_empty_trace_is_read(tmp_path) -> None:
    TraceWriter(tmp_path / "t", ABOUT).close()
    assert read_trace(tmp_path / "t").visits == ()


def test_the_forecast_of_a_trace_by_hand() -> None:
    # 2 experts in turn, 30 bytes each, and a slot for one: nothing is ever found
    about = About(num_experts=(2,), num_chosen=(1,), expert_bytes=(30,), dense_bytes=70)
    trace = Trace(about, tuple((0, (n % 2,)) for n in range(10)), num_tokens=10)
    [half, whole] = forecast(trace, Rates(disk=30.0, memory=100.0), shares=(0.5, 1.0))
    assert (half.capacity, half.expert_bytes, half.is_below_cliff) == (1, 30, False)
    assert half.hit_rates["lru"] == 0.0 and half.bytes_per_token == 30.0
    # a second for the miss, a second to compute 100 bytes
    assert half.tokens_per_second == pytest.approx(0.5)
    # Belady may keep one of them: 4 of 10
    assert half.hit_rates["belady"] == pytest.approx(0.4)
    assert half.best_tokens_per_second == pytest.approx(1 / (1 + 0.6))
    assert whole.hit_rates["expected"] == pytest.approx(0.8)
    assert json.loads(json.dumps(whole.to_dict()))["capacity"] == 2


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {b"expertly.trace": b"no json"},
        {b"expertly.trace": b"[1]"},
        {b"expertly.trace": b'{"num_experts": [1], "num_chosen": [1], "expert_bytes": [1]}'},
        {
            b"expertly.trace": b'{"num_experts": [0], "num_chosen": [0], "expert_bytes": [0],'
            b' "dense_bytes": 1}'
        },
        {
            b"expertly.trace": b'{"num_experts": ["x"], "num_chosen": [1], "expert_bytes": [1],'
            b' "dense_bytes": 1}'
        },
    ],
)
def test_a_table_that_is_no_trace_is_refused(tmp_path, metadata) -> None:
    write(tmp_path / "t")
    table = pq.read_table(tmp_path / "t").replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "t")
    with pytest.raises(InputError, match="trace"):
        read_trace(tmp_path / "t")


def test_experts_that_the_model_lacks_are_refused(tmp_path) -> None:
    for layer, expert in ((0, 4), (1, 0), (3, 0)):
        with TraceWriter(tmp_path / "t", ABOUT) as writer:
            one = np.ones((1, 1), np.float32)
            writer.add(0, layer, np.array([0]), np.array([[expert]]), one)
        with pytest.raises(InputError, match="names experts that its model lacks"):
            read_trace(tmp_path / "t")


def test_bytes_that_are_no_parquet_are_refused(tmp_path) -> None:
    (tmp_path / "t").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match="is no trace"):
        read_trace(tmp_path / "t")
    with pytest.raises(InputError, match="is not there"):
        read_trace(tmp_path / "absent")
    pq.write_table(pa.table({"step": [1]}), tmp_path / "t")
    with pytest.raises(InputError, match="is no trace"):
        read_trace(tmp_path / "t")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match="need pyarrow") as caught:
        read_trace(tmp_path / "t")
    assert "expertly[trace]" in caught.value.hint


def test_many_rows_are_written_in_groups(tmp_path) -> None:
    with TraceWriter(tmp_path / "t", ABOUT) as writer:
        for step in range(3):
            ids_TK = np.full((50_000, 2), step, np.int32)
            writer.add(step, 0, np.arange(50_000), ids_TK, np.ones((50_000, 2), np.float32))
    file = pq.ParquetFile(tmp_path / "t")
    assert file.metadata.num_rows == 300_000 and file.num_row_groups == 2
