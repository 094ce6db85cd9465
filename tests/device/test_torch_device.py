"""The device of torch, on torch's CPU: what is copied, where, and what is computed with it."""

import dataclasses

import numpy as np
import pytest
import torch

from expertly import _native
from expertly.config import Glu
from expertly.device import HostExpert, TorchDevice
from expertly.device import torch_device as module
from expertly.device.torch_device import slot_numbers
from expertly.kernels import reference
from expertly.kernels.cases import TOLERANCE

D, F = 40, 24
CPU = torch.device("cpu")
RULES = [Glu(), Glu(activation="gelu"), Glu(alpha=1.702, limit=0.5, up_shift=1.0)]


def matrix(rows: int, columns: int, format: str, seed: int) -> _native.Matrix:
    made = _native.Matrix(format, rows, columns)
    numbers = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32) * 0.2
    made.pack(_native.quantise(format, numbers, None, 1).reshape(-1))
    return made


def expert_of(
    seed: int,
    *,
    width: int = F,
    hidden: int = D,
    format: str = "f32",
    rule: Glu = RULES[0],
    has_bias: bool = False,
) -> HostExpert:
    rng = np.random.default_rng(1000 + seed)
    biases = [rng.normal(size=width).astype(np.float32) if has_bias else None for _ in range(2)]
    return HostExpert(
        matrix(width, hidden, format, 3 * seed),
        matrix(width, hidden, format, 3 * seed + 1),
        matrix(hidden, width, format, 3 * seed + 2),
        *biases,
        rule,
    )


def right(expert: HostExpert, x_RD: np.ndarray) -> torch.Tensor:
    """By the definition, in float64."""
    gate, up, down = (
        torch.from_numpy(m.unpack(0, m.rows)).double()
        for m in (expert.gate, expert.up, expert.down)
    )
    x = torch.from_numpy(x_RD).double()
    gate_RF, up_RF = x @ gate.mT, x @ up.mT
    if expert.gate_bias is not None and expert.up_bias is not None:
        gate_RF += torch.from_numpy(expert.gate_bias)
        up_RF += torch.from_numpy(expert.up_bias)
    return reference.glu(gate_RF, up_RF, expert.rule) @ down.mT


def check(y_RD: np.ndarray, wanted_RD: torch.Tensor) -> None:
    error = (torch.from_numpy(y_RD).double() - wanted_RD).abs().max()
    assert error <= TOLERANCE[torch.float32] * wanted_RD.abs().max()


def rows(count: int, seed: int = 0, hidden: int = D) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, hidden)).astype(np.float32)


def device_of(num_slots: int = 3, dtype: torch.dtype = torch.float32) -> TorchDevice:
    return TorchDevice(CPU, num_slots, slot_numbers(D, F), dtype, threads=2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_an_expert_computes_what_its_definition_says(rule: Glu, has_bias: bool) -> None:
    expert, device, x_RD = expert_of(1, rule=rule, has_bias=has_bias), device_of(), rows(5)
    device.copy(2, expert)
    y_RD, _ = device.compute([2], [5], x_RD).wait()
    assert y_RD.dtype == np.float32
    check(y_RD, right(expert, x_RD))
    device.close()


@pytest.mark.parametrize("format", ["q8_0", "bf16", "f16"])
def test_what_is_quantised_is_unpacked_on_its_way(format: str) -> None:
    expert, x_RD = expert_of(1, width=32, hidden=64, format=format), rows(4, hidden=64)
    device = TorchDevice(CPU, 1, slot_numbers(64, 32), torch.float32)
    device.copy(0, expert)
    y_RD, _ = device.compute([0], [4], x_RD).wait()
    check(y_RD, right(expert, x_RD))
    device.close()


def test_rows_go_to_the_experts_of_their_slots_in_order() -> None:
    experts, device, x_RD = [expert_of(seed) for seed in range(3)], device_of(), rows(7)
    for slot, expert in enumerate(experts):
        device.copy(slot, expert)
    y_RD, _ = device.compute([2, 0, 1], [4, 0, 3], x_RD).wait()
    wanted = torch.cat([right(experts[2], x_RD[:4]), right(experts[1], x_RD[4:])])
    check(y_RD, wanted)
    device.close()


def test_a_slot_that_changes_hands_is_the_newcomers() -> None:
    device, x_RD = device_of(1), rows(2)
    device.copy(0, expert_of(1, has_bias=True))
    first = device.compute([0], [2], x_RD)
    device.copy(0, expert_of(2))
    second, _ = device.compute([0], [2], x_RD).wait()
    check(first.wait()[0], right(expert_of(1, has_bias=True), x_RD))
    check(second, right(expert_of(2), x_RD))
    device.close()


def test_what_was_copied_does_not_change_with_where_it_came_from() -> None:
    expert, device, x_RD = expert_of(1), device_of(), rows(2)
    wanted = right(expert, x_RD)
    device.copy(0, expert)
    nothing = _native.quantise("f32", np.zeros((F, D), np.float32), None, 1)
    expert.gate.pack(nothing.reshape(-1))
    y_RD, _ = device.compute([0], [2], x_RD).wait()
    check(y_RD, wanted)
    device.close()


def test_a_smaller_expert_leaves_the_rest_of_its_slot() -> None:
    small, device = expert_of(4, width=8, has_bias=True), device_of()
    device.copy(1, small)
    x_RD = rows(3)
    y_RD, _ = device.compute([1], [3], x_RD).wait()
    check(y_RD, right(small, x_RD))
    device.close()


@pytest.mark.parametrize(("part", "buffer"), [(1, D * F), (100, 1000), (41, 1200), (D, 2 * D * F)])
def test_parts_and_buffers_of_any_size_bring_the_same(monkeypatch, part: int, buffer: int) -> None:
    monkeypatch.setattr(module, "_PART_NUMBERS", part)
    monkeypatch.setattr(module, "_BUFFER_NUMBERS", buffer)
    expert, device, x_RD = expert_of(1, has_bias=True), device_of(), rows(5)
    device.copy(1, expert)
    y_RD, _ = device.compute([1], [5], x_RD).wait()
    check(y_RD, right(expert, x_RD))
    device.close()


def test_bfloat16_takes_half_the_room_and_is_near() -> None:
    expert, x_RD = expert_of(1), rows(50)
    wide, narrow = device_of(), device_of(dtype=torch.bfloat16)
    assert wide.slot_bytes == 2 * narrow.slot_bytes == 4 * (3 * D * F + 2 * F)
    narrow.copy(0, expert)
    y_RD, _ = narrow.compute([0], [50], x_RD).wait()
    wanted = right(expert, x_RD)
    error = (torch.from_numpy(y_RD) - wanted).abs().max() / wanted.std()
    assert 1e-4 < error < 0.05
    wide.close()
    narrow.close()


def test_where_nothing_is_asynchronous_a_copy_is_done_at_once_and_takes_no_link() -> None:
    device = device_of()
    copy = device.copy(0, expert_of(1))
    assert copy.is_done() and copy.wait() == 0.0
    device.close()


def test_an_expert_that_does_not_fit_is_an_error_that_a_tier_bears() -> None:
    device = device_of()
    with pytest.raises(RuntimeError):
        device.copy(0, expert_of(1, width=2 * F))
    device.copy(0, expert_of(1))
    assert len(device.compute([0], [1], rows(1)).wait()[0]) == 1
    device.close()


def test_every_field_of_an_expert_counts() -> None:
    plain, x_RD = expert_of(1, has_bias=True), rows(3)
    other = expert_of(2, has_bias=True)
    for field in ("gate", "up", "down", "gate_bias", "up_bias", "rule"):
        changed = plain._replace(**{field: getattr(other, field)})
        if field == "rule":
            changed = plain._replace(rule=dataclasses.replace(plain.rule, up_shift=1.0))
        device = device_of()
        device.copy(0, plain)
        device.copy(1, changed)
        y_RD, _ = device.compute([0, 1], [3, 3], np.concatenate([x_RD, x_RD])).wait()
        assert not np.allclose(y_RD[:3], y_RD[3:], atol=1e-3), field
        device.close()
