import time

import pytest

from expertly import _native
from expertly.bench import Probe
from expertly.bench.limits import LIMITS

SETS = _native.kernel_sets()
PEAKS = [_native.int8_peak, _native.bf16_peak]


@pytest.mark.parametrize("kernels", SETS)
def test_every_kernel_set_has_probes_that_find_something_plausible(kernels: str) -> None:
    runtime = _native.Runtime(1, kernels)
    buffer = _native.Buffer(8 << 20)
    buffer.array().fill(1)
    # a core does no less than this a second, and no more than 10^13
    assert 1e8 < _native.read_bandwidth(runtime, buffer, 0.0) < 1e13
    for peak in PEAKS:
        assert 1e8 < peak(runtime, 0.0) < 1e13


@pytest.mark.skipif("avx2" not in SETS, reason="there is one kernel set only")
def test_wider_instructions_compute_more_than_plain_ones() -> None:
    for peak in PEAKS:
        assert peak(_native.Runtime(1, SETS[0]), 0.01) > 2 * peak(
            _native.Runtime(1, "generic"), 0.01
        )


def test_probes_take_about_as_long_as_they_are_told() -> None:
    runtime = _native.Runtime(1)
    for peak in PEAKS:
        began = time.perf_counter()
        peak(runtime, 0.05)
        assert 0.04 < time.perf_counter() - began < 1.0


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e9])
def test_times_that_are_none_are_refused(seconds: float) -> None:
    for peak in PEAKS:
        with pytest.raises(ValueError, match="0 to 60 s"):
            peak(_native.Runtime(1), seconds)


@pytest.mark.parametrize("num_bytes", [0, 4096, (1 << 20) + 64])
def test_buffers_too_small_to_tell_are_refused(num_bytes: int) -> None:
    with pytest.raises(ValueError, match="1 MiB or more"):
        _native.read_bandwidth(_native.Runtime(1), _native.Buffer(num_bytes), 0.0)


def test_limits_are_the_medians_of_all_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([5.0, 9.0, 7.0])
    monkeypatch.setattr(_native, "int8_peak", lambda *_: next(found))
    probe = Probe(_native.Runtime(1), 1 << 20)
    assert set(probe.limits) == set(LIMITS) and probe.limits["int8_ops_per_second"] == 5.0
    assert [probe.rate("int8_ops_per_second") for _ in range(2)] == [9.0, 7.0]
    assert probe.limits["int8_ops_per_second"] == 7.0
