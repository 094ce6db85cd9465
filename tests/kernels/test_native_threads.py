"""Forks, callers on several threads, what items throw, and modes of the processor."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from made_layers import Maker
from numpy.typing import NDArray

from expertly import _native
from expertly.config import Glu
from expertly.kernels import reference
from expertly.kernels.native import expert_rows, sort_places

Floats = NDArray[np.float32]
SILU = Glu()

# with a runtime of two threads that has worked and may sleep by now
FORK = """
import os, sys, time
import numpy as np
from expertly import _native
runtime = _native.Runtime(2)
w = _native.Matrix("f32", 64, 64)
w.pack(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32).view(np.uint8).ravel())
x = np.ones((9, 64), np.float32)
y = runtime.linear(x, w)
time.sleep({pause})
if (child := os.fork()) == 0:
    {act}
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(runtime.linear(x, w), y)
"""
# far more threads than the memory that is allowed has stacks for
FEW_THREADS = """
import resource
import numpy as np
from expertly import _native
w = np.ones((512, 32), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
try:
    _native.quantise("q4_0", w, None, 512)
except RuntimeError:
    print("refused")
"""
# attention of many rows, whose threads each want room that there is none of
NO_ROOM = """
import resource
import numpy as np
from expertly import _native
rng = np.random.default_rng(0)
runtime, pool = _native.Runtime(2), _native.PagePool([4], [128])
pages = np.array([[pool.take() for _ in range(16)]], np.int32)
for page in pages[0]:
    pool.array(int(page))[:] = 0x3C00
count = 1024
q = rng.standard_normal((count, 512)).astype(np.float32)
places, zeros = np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
y, again = np.zeros_like(q), np.zeros_like(q)
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 10), hard))
try:
    _native.attend(runtime, pool, 0, q, zeros, places, pages, y)
except MemoryError:
    print("no room")
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
_native.attend(runtime, pool, 0, q, zeros, places, pages, again)
assert np.allclose(again, 1, rtol=1e-6)
"""


limits_memory = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="needs /proc, and no sanitizer, which reserves terabytes",
)


def run(script: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("pause", [0, 0.05])
@pytest.mark.parametrize(
    "act",
    ["pass", "del runtime", "assert np.array_equal(runtime.linear(x, w), y)"],
    ids=["leaves", "drops", "works"],
)
def test_a_fork_works_alone_and_leaves(act: str, pause: float) -> None:
    run(FORK.format(act=act, pause=pause))


@limits_memory
def test_threads_that_the_system_refuses_are_an_error() -> None:
    assert run(FEW_THREADS) == "refused\n"


@limits_memory
def test_what_a_thread_throws_is_thrown_to_the_caller_and_ends_nothing_else() -> None:
    assert run(NO_ROOM) == "no room\n"


def calls_at_once(call, given: list, times: int) -> list[list]:  # type: ignore[type-arg, no-untyped-def]
    """What `call` says to each, again and again, one thread each."""
    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(lambda one: [call(one) for _ in range(times)], given))


@pytest.mark.parametrize("threads", range(2, 6))
def test_every_tile_is_computed_however_many_there_are_for_a_thread(threads: int) -> None:
    """Fewer tiles than threads leave some without; more are taken over from slower threads."""
    maker, alone, together = Maker(), _native.Runtime(1), _native.Runtime(threads)
    for tiles in (1, 2, 3, 7, 40):
        w = maker.matrix(16 * tiles, 64)
        x = maker.rng.standard_normal((3, 64)).astype(np.float32)
        for _ in range(10):
            assert np.array_equal(together.linear(x, w), alone.linear(x, w))


def test_threads_that_share_a_runtime_wait_for_each_other() -> None:
    runtime, w = _native.Runtime(2), Maker().matrix(256, 256)
    given = [np.random.default_rng(i).standard_normal((40, 256)).astype(np.float32) for i in (1, 2)]
    expected = [runtime.linear(x, w) for x in given]
    for found, y in zip(
        calls_at_once(lambda x: runtime.linear(x, w), given, 100), expected, strict=True
    ):
        assert all(np.array_equal(one, y) for one in found)


def stacks(seed: int, tokens: int = 48) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = [(tokens, 32), (4, 48, 32), (4, 48, 32), (4, 32, 48), (tokens, 2)]
    return [torch.randn(shape, generator=rng) for shape in shapes]


def rows_of(given: list[torch.Tensor]) -> torch.Tensor:
    tokens = len(given[0])
    ids_R = (torch.arange(2 * tokens) * 7 % 4).to(torch.int64)
    return expert_rows(*given, *sort_places(ids_R, 4), SILU)


def test_threads_that_train_wait_for_each_other() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = [stacks(seed) for seed in (1, 2)]
        expected = [rows_of(one) for one in given]
        for found, y in zip(calls_at_once(rows_of, given, 100), expected, strict=True):
            assert all(torch.equal(one, y) for one in found)
    finally:
        torch.set_num_threads(threads)


def test_gradients_of_stacks_that_lie_turned_are_those_of_straight_ones() -> None:
    straight = [part.requires_grad_() for part in stacks(3)]
    turned = [
        part.detach().transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
        for part in straight
    ]
    assert not turned[1].is_contiguous()
    assert torch.equal(rows_of(turned), rows_of(straight))
    for given in (straight, turned):
        rows_of(given).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(turned, straight, strict=True))


def test_places_of_ids_of_any_integer_type_are_sorted() -> None:
    ids_R = torch.tensor([2, 0, 2, 1])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        order_R, counts_E = sort_places(ids_R.to(dtype), 3)
        assert order_R.tolist() == [1, 3, 0, 2] and counts_E.tolist() == [1, 1, 2]


@pytest.fixture
def flushed() -> object:
    """Numbers below 2^-126 are 0 on this thread and on those that it starts."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", ["q6_k", "q3_k", "q4_0"])
def test_scales_below_the_least_normal_half_are_kept_where_tiny_floats_are_zeros(
    name: str, flushed: object
) -> None:
    w = (np.random.default_rng(0).standard_normal((16, 256)) * 1e-6).astype(np.float32)
    matrix = _native.Matrix(name, 16, 256)
    matrix.pack(_native.quantise(name, w, None, 1).ravel())
    back = matrix.unpack(0, 16)
    assert ((back - w) ** 2).sum() < 0.3 * (w**2).sum()
    torch.set_flush_denormal(False)
    assert np.array_equal(matrix.unpack(0, 16), back)


def test_no_thread_takes_tiny_floats_for_zeros_while_others_do_not() -> None:
    runtime, w = _native.Runtime(2), Maker().matrix(64, 64)
    x = np.full((64, 64), 1e-38, np.float32)
    expected = runtime.linear(x, w)
    assert (np.abs(expected) < 1e-38).any() and expected.any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        assert all(np.array_equal(runtime.linear(x, w), expected) for _ in range(20))
        # the caller's own mode stays
        assert (torch.tensor([1e-38]) * 0.1).item() == 0
    finally:
        torch.set_flush_denormal(False)


def test_reference_and_native_rows_agree_on_what_these_tests_compute() -> None:
    given = stacks(4)
    ids_R = torch.arange(96) * 7 % 4
    expected = reference.expert_rows(*given, *sort_places(ids_R, 4), SILU)
    torch.testing.assert_close(rows_of(given), expected, rtol=1e-4, atol=1e-3)
