import json
from pathlib import Path
from typing import Any

from expertly.train.metrics import Metrics


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_is_one_json_object(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, step=0) as metrics:
        metrics.write("step", 1, loss=2.5, lr=0.1)
        metrics.write("router", 1, dead=(1, 2))
        assert len(rows(path)) == 2  # there before the run ends
    assert rows(path) == [
        {"kind": "step", "step": 1, "loss": 2.5, "lr": 0.1},
        {"kind": "router", "step": 1, "dead": [1, 2]},
    ]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, step=0) as metrics:
        metrics.write("step", 1, loss=float("nan"), grad_norm=float("inf"))
    assert rows(path) == [{"kind": "step", "step": 1, "loss": None, "grad_norm": None}]


def test_resuming_drops_the_rows_that_will_come_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, step=0) as metrics:
        for step in range(1, 6):
            metrics.write("step", step)
            metrics.write("router", step, layer=0)
    with Metrics(path, step=3) as metrics:
        assert [row["step"] for row in rows(path)] == [1, 1, 2, 2, 3, 3]
        metrics.write("step", 4)
    assert [row["step"] for row in rows(path)] == [1, 1, 2, 2, 3, 3, 4]


def test_a_line_that_a_killed_run_left_half_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n[7]\n\xff\n{"kind": 3}\n{"step": 2}\n{"st')
    with Metrics(path, step=9) as metrics:
        metrics.write("step", 3)
    assert [row["step"] for row in rows(path)] == [1, 2, 3]
