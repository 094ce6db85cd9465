import json

import pytest
from bench_fakes import CONFIG, FakeContender, FakeModel, FakeProbe

from expertly.bench import Bench, Row, measure, plan
from expertly.bench.costs import prefill_ops
from expertly.bench.limits import LIMITS
from expertly.bench.reporting import header, line, table_row
from expertly.bench.work import DECODE_STEPS, Work
from expertly.machine import Machine

MACHINE = Machine(processor="P", cores=2, features=("generic",), memory_bytes=2**30)


def work_of(prefill: int | None = None, context: int = 0, streams: int = 1) -> Work:
    lengths = ([], [context]) if prefill is None else ([prefill], [])
    (work,) = plan(*lengths, [streams], vocab_size=50, max_context=4096)
    return work


def test_limit_ours_and_peer_take_turns() -> None:
    log: list[str] = []
    ours, peer = (FakeContender(name, [1.0] * 4, log) for name in ("ours", "peer"))
    measure(work_of(8), [ours, peer], FakeProbe([1.0], log), "int8_ops_per_second", 1.0, 3)
    assert log == ["ours", "peer", *["limit", "ours", "peer"] * 3]


def test_a_row_has_medians_quartiles_and_ratios_within_rounds() -> None:
    log: list[str] = []
    ours = FakeContender("ours", [99.0, 1.0, 2.0, 4.0, 8.0, 16.0], log)
    peer = FakeContender("peer", [99.0, 2.0, 2.0, 12.0, 8.0, 80.0], log)
    # the machine slows down as both do: shares and ratios stay what they are in each round
    probe = FakeProbe([80.0, 40.0, 20.0, 10.0, 5.0], log)
    first, second = measure(work_of(8), [ours, peer], probe, "int8_ops_per_second", 40.0, 5)
    assert (first.engine, first.phase, first.length, first.batch) == ("ours", "prefill", 8, 1)
    assert first.tokens_per_second == 8 / 4.0
    assert first.spread == (8 / 8.0, 8 / 2.0)
    assert first.share_of_limit == 0.5 and first.share_spread == (0.5, 0.5)
    # 2, 1, 3, 1, 5
    assert first.ratio == 2.0 and first.ratio_spread == (1.0, 3.0)
    assert second.engine == "peer" and second.ratio is None
    # bounds of 0.5, 1, 2, 4, 8 seconds over 2, 2, 12, 8, 80
    assert second.share_of_limit == 0.25


def test_alone_there_is_no_ratio_and_one_round_is_its_own_spread() -> None:
    ours = FakeContender("ours", [1.0, 2.0], [])
    (row,) = measure(work_of(8), [ours], FakeProbe([1.0], []), "int8_ops_per_second", 1.0, 1)
    assert row.ratio is None and row.spread == (4.0, 4.0)
    assert "ratio" not in row.to_dict()


def test_a_prefill_is_bound_by_int8_operations_and_decoding_by_reads() -> None:
    probe = FakeProbe([1e9], [])
    bench = Bench(FakeModel(), probe, None, 1)
    bench.rows(work_of(8))
    bench.rows(work_of(context=3))
    assert probe.asked == ["int8_ops_per_second", "read_bytes_per_second"]


def test_a_prefill_of_unquantised_weights_is_bound_by_bf16() -> None:
    model, probe = FakeModel(), FakeProbe([1e9], [])
    model.dense_bytes = 10**6
    Bench(model, probe, None, 1).rows(work_of(8))
    assert probe.asked == ["bf16_flops_per_second"]


def test_shares_come_from_the_model_s_own_bytes_and_operations() -> None:
    for work in (work_of(8), work_of(context=3, streams=2)):
        bench = Bench(FakeModel(), FakeProbe([1e30], []), None, 1)
        (row,) = bench.rows(work)
        seconds = work.num_tokens / row.tokens_per_second
        units = row.share_of_limit * seconds * 1e30
        if work.phase == "prefill":
            assert units == pytest.approx(8 * prefill_ops(CONFIG))
        else:
            cached = 2 * sum(range(4, 4 + DECODE_STEPS)) * 96
            # each token wants its id and the next one, modulo 4
            chosen = [{(ids[0] + more) % 4 for ids in call for more in (0, 1)}
                      for call in work.calls]  # fmt: skip
            experts = sum(map(len, chosen)) * (10 + 100)
            assert units == pytest.approx(1000 * DECODE_STEPS + cached + experts)


def test_the_peer_is_prepared_with_the_same_work_as_ours() -> None:
    peer, work = FakeContender("peer", [1.0] * 3, []), work_of(context=2, streams=2)
    rows = Bench(FakeModel(), FakeProbe([1.0], []), peer, 2).rows(work)
    assert peer.prepared == [work]
    assert [row.engine for row in rows] == ["expertly", "peer"] and rows[0].ratio is not None


def row_of(**changes: object) -> Row:
    values = {"engine": "expertly", "phase": "decode", "length": 2048, "batch": 4,
              "tokens_per_second": 123.456, "spread": (120.0, 125.0), "share_of_limit": 0.81234,
              "share_spread": (0.8, 0.9), "ratio": 1.5, "ratio_spread": (1.4, 1.6)}  # fmt: skip
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def test_rows_in_json_say_tokens_or_context_by_their_phase() -> None:
    found = row_of().to_dict()
    assert found["context"] == 2048 and "tokens" not in found
    assert found["tokens_per_second"] == 123.5 and found["share_of_limit"] == 0.8123
    assert found["spread"] == [120.0, 125.0] and found["ratio"] == 1.5
    assert row_of(phase="prefill").to_dict()["tokens"] == 2048


def test_the_line_is_one_json_object_with_machine_limits_and_rows() -> None:
    limits = dict.fromkeys(LIMITS, 1234567.89)
    common = {"machine": MACHINE, "threads": 2, "kernels": "avx2"}
    named = {"model": "m.gguf", "peer": {"name": "p"}}
    text = line(**common, limits=limits, rows=[row_of()], named=named)  # type: ignore
    found = json.loads(text)
    assert "\n" not in text and list(found) == ["machine", "model", "peer", "limits", "rows"]
    assert found["machine"]["threads"] == 2 and found["machine"]["kernels"] == "avx2"
    assert found["limits"] == dict.fromkeys(LIMITS, 1234568)
    assert found["rows"] == [row_of().to_dict()]


def test_the_table_stands_under_its_header() -> None:
    limits = {"read_bytes_per_second": 35.2e9, "int8_ops_per_second": 945e9,
              "bf16_flops_per_second": 471e9}  # fmt: skip
    first, second, names = header(MACHINE, 2, "avx2", limits).splitlines()  # type: ignore[arg-type]
    assert "2 threads, avx2 kernels" in first
    assert second == "limits: 35.2 GB/s read, 945 GOP/s int8, 471 GFLOP/s bf16"
    text = table_row(row_of())
    assert len(text) == len(names)
    assert text.split() == ["decode", "at", "2048,", "4", "streams", "expertly", "123.5", "120.0",
                            "to", "125.0", "81%", "1.50x"]  # fmt: skip
    assert table_row(row_of(phase="prefill", batch=1, ratio=None)).startswith("prefill of 2048  ")
