import dataclasses
import json
from pathlib import Path

import pytest
from machine_files import machine_at

from expertly.machine import describe


def test_a_machine_is_named_by_its_processor_cores_memory_and_features(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor : 0\nmodel name\t: Some  CPU 9\nflags : avx512f\n",
        "proc/meminfo": f"MemTotal: {24 * 2**20} kB\n",
    }
    found = describe(["avx2", "generic"], machine_at(tmp_path, files))
    assert found.processor == "Some CPU 9"
    assert found.features == ("avx2", "generic")
    assert found.memory_bytes == 24 * 2**30
    assert str(found) == f"Some CPU 9, {found.cores} cores, 24 GiB, avx2, generic"


def test_a_machine_goes_into_json_and_does_not_change(tmp_path: Path) -> None:
    found = describe(["generic"], machine_at(tmp_path, {"proc/meminfo": "MemTotal: 8 kB\n"}))
    read = json.loads(json.dumps(found.to_dict()))
    assert read["features"] == ["generic"] and read["memory_bytes"] == 8192
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.cores = 99  # type: ignore[misc]


def test_a_processor_without_a_name_is_called_something(tmp_path: Path) -> None:
    assert describe([], tmp_path).processor != ""
