"""No kernel reads or writes past what it was given: all of it ends at a page guard."""

import subprocess
import sys

import numpy as np
import pytest
from guarded import guarded, poisoned
from native_cases import (
    FORMATS,
    SETS,
    TILE,
    Case,
    Floats,
    columns_of,
    group_parts,
    packed,
    random_blocks,
    random_tokens,
    runtime,
    same_bits,
    unpanel,
)

from expertly import _native

COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 17, 33)
LENGTHS = (*range(1, 36), 63, 64, 65, 100)


def test_a_read_past_a_guard_kills_the_process() -> None:
    script = (
        "import ctypes, numpy as np; from guarded import guarded;"
        "a = guarded(np.ones(100, np.float32));"
        "print(ctypes.string_at(a.ctypes.data, 400)[-1], flush=True);"
        "ctypes.string_at(a.ctypes.data, 401)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=__file__.rpartition("/")[0], capture_output=True
    )
    assert ran.stdout.strip() == b"63" and ran.returncode < 0


def tile_of(case: Case) -> tuple[_native.Buffer, Floats]:
    """Packed tiles, guarded: the buffer's bytes are the layout's."""
    size = _native.layout_bytes(case.format, case.rows, case.columns)
    buffer = _native.Buffer(size)
    matrix = _native.Matrix.view(case.format, case.rows, case.columns, buffer, 0)
    matrix.pack(random_blocks(case))
    return guarded(buffer.array()[:size].copy(), align=64)


def parts_of(name: str, x: Floats, kernels: str) -> list[np.ndarray]:
    """Activations in the form that a format wants, each part guarded."""
    on, (count, columns) = runtime(kernels), x.shape
    if name in ("f32", "f16"):
        return [guarded(x.view(np.uint8).reshape(-1))]
    if name == "bf16":
        rows = guarded(np.zeros((count, columns + columns % 2), np.uint16))
        for row, to in zip(x, rows, strict=True):
            _native.rows.to_bf16(on, guarded(row), to)
        return [rows.view(np.uint8).reshape(-1)]
    parts = [guarded(part) for part in group_parts(count, columns)]
    for index, row in enumerate(x):
        _native.rows.quantise(on, guarded(row), parts, count, index)
    return parts


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("name", FORMATS)
def test_tiles_keep_to_their_weights_activations_and_results(name: str, kernels: str) -> None:
    on = runtime(kernels)
    most = _native.rows.max_rows(on)
    for columns in columns_of(name):
        x = random_tokens(columns, most)
        case = Case(name, TILE, columns)
        tile = tile_of(case)
        expected = on.linear(x, packed(case, random_blocks(case)))
        for count in range(1, most + 1):
            parts, y = parts_of(name, x[:count], kernels), poisoned((count, TILE))
            _native.rows.tile(on, name, columns, tile, parts, y)
            assert same_bits(y, expected[:count])


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("name", FORMATS)
def test_fetching_ahead_keeps_to_the_tile_and_changes_nothing(name: str, kernels: str) -> None:
    columns = columns_of(name)[-1]
    x, case = random_tokens(columns, 3), Case(name, TILE, columns)
    parts, plain, fetching = parts_of(name, x, kernels), poisoned((3, TILE)), poisoned((3, TILE))
    _native.rows.tile(runtime(kernels), name, columns, tile_of(case), parts, plain)
    ahead = tile_of(case)
    _native.rows.tile(runtime(kernels), name, columns, tile_of(case), parts, fetching, ahead)
    assert same_bits(plain, fetching)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_floats_keep_to_their_arrays(kernels: str, length: int) -> None:
    on, rng = runtime(kernels), np.random.default_rng(length)
    a, b, c = (guarded(rng.standard_normal(length).astype(np.float32)) for _ in range(3))
    assert _native.rows.dot(on, a, b) == pytest.approx(a @ b, abs=1e-4)
    y = poisoned((length,))
    _native.rows.normalise(on, a, b, c, True, 1e-6, y)
    assert np.isfinite(y).all()
    for act in ("silu", "gelu", "gelu_tanh", "relu"):
        y = poisoned((length,))
        _native.rows.glu(on, a, b, act, 1.0, np.inf, 0.0, y)
        assert np.isfinite(y).all()
    y = guarded(np.zeros(length, np.float32))
    _native.rows.add_scaled(on, a, 1.0, y)
    assert same_bits(y, a.copy())
    half = guarded(np.full(length + length % 2, 0xFFFF, np.uint16))
    _native.rows.to_bf16(on, a, half)
    assert (half != 0xFFFF).all()


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_to_groups_keep_to_their_arrays(kernels: str, length: int) -> None:
    x = guarded(random_tokens(length, 1)[0])
    parts = [guarded(part) for part in group_parts(1, length)]
    _native.rows.quantise(runtime(kernels), x, parts)
    found = unpanel(parts, 1)
    codes, scale = found["codes"][0], found["scale"][0]
    assert (scale > 0).all()
    assert not codes.reshape(-1)[length:].any()
    restored = (codes * scale[:, None]).reshape(-1)[:length]
    assert np.abs(restored - x).max() <= np.abs(x).max() / 254 * (1 + 1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_packing_and_unpacking_keep_to_their_arrays(name: str) -> None:
    for columns in columns_of(name):
        for rows in (1, 16, 17):
            case = Case(name, rows, columns)
            matrix = packed(case, guarded(random_blocks(case)))
            again = packed(case, random_blocks(case))
            assert same_bits(matrix.unpack(0, rows), again.unpack(0, rows))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("name", FORMATS)
def test_tiles_side_by_side_give_what_each_gives_alone(name: str, kernels: str) -> None:
    on, columns, num_tiles = runtime(kernels), columns_of(name)[-1], 7
    case = Case(name, TILE * num_tiles, columns)
    x = random_tokens(columns, _native.rows.max_rows(on))
    expected = on.linear(x, packed(case, random_blocks(case)))
    whole = tile_of(case)
    size = whole.size // num_tiles
    for count in range(1, len(x) + 1):
        parts = parts_of(name, x[:count], kernels)
        for first, last in ((0, 7), (1, 7), (2, 7), (4, 7), (5, 7), (6, 7)):
            y, tiles = poisoned((count, TILE * (last - first))), whole[first * size : last * size]
            _native.rows.tile(on, name, columns, tiles, parts, y, tiles)
            assert same_bits(y, expected[:count, TILE * first : TILE * last])


def test_parts_of_another_size_are_refused() -> None:
    case, x = Case("q4_0", TILE, 64), random_tokens(64, 3)
    parts, tile, y = parts_of("q4_0", x, SETS[0]), tile_of(case), poisoned((3, TILE))
    on = runtime(SETS[0])
    for wrong in ([parts[0], parts[1][:-1]], [*parts, parts[0]], parts[:1]):
        with pytest.raises(ValueError, match=r"parts|another size"):
            _native.rows.tile(on, "q4_0", 64, tile, wrong, y)
    with pytest.raises(ValueError, match="no tile"):
        _native.rows.tile(on, "q4_0", 64, tile[:-1], parts, y)
    with pytest.raises(ValueError, match="no tile"):
        _native.rows.tile(on, "q4_0", 64, tile, parts, y, tile[:-1])
    with pytest.raises(ValueError, match="no such panel"):
        _native.rows.tile(on, "q4_0", 64, tile, parts, poisoned((99, TILE)))
    with pytest.raises(ValueError, match="no such row"):
        _native.rows.quantise(on, x[0], parts, 3, 3)
    assert np.isnan(y).all()
