"""The device of torch on a GPU: copies and answers that are really asynchronous. Run by
`pytest -m gpu` where there is one."""

import numpy as np
import pytest
import torch
from device_fakes import RandomLadder
from native_models import native_of
from small_models import EVERYTHING, build, draw_ids, relative_error
from test_torch_device import D, F, expert_of, right, rows

from expertly.checkpoint.on_device import largest_expert
from expertly.checkpoint.streamed_loading import num_experts
from expertly.device import DeviceTier, TorchDevice
from expertly.device.torch_device import slot_numbers
from expertly.store import ExpectedUse

# float32 on a GPU, whose sums run in an order of its own
FLOAT32 = 1e-4

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def test_slots_change_hands_many_times_and_every_answer_is_of_its_own_expert() -> None:
    device = TorchDevice(torch.device("cuda"), 2, slot_numbers(D, F), torch.float32, threads=2)
    experts, x_RD = [expert_of(seed, has_bias=True) for seed in range(5)], rows(9)
    wanted = [right(expert, x_RD) for expert in experts]
    answers = []
    for turn in range(100):
        device.copy(turn % 2, experts[turn % 5])
        answers.append(device.compute([turn % 2], [9], x_RD))
    for turn, answer in enumerate(answers):
        y_RD, seconds = answer.wait()
        error = (torch.from_numpy(y_RD) - wanted[turn % 5]).abs().max()
        assert error < FLOAT32 * wanted[turn % 5].std() and seconds > 0.0
    device.close()


def test_a_copy_tells_the_time_that_it_took() -> None:
    device = TorchDevice(torch.device("cuda"), 1, slot_numbers(D, F))
    copy = device.copy(0, expert_of(1))
    assert 0.0 < copy.wait() < 1.0 and copy.is_done()
    device.close()


def test_logits_are_near_the_processors_whoever_computes_what() -> None:
    model, ids = native_of(build(EVERYTHING)), draw_ids(EVERYTHING, 2, 9)
    wanted = model(ids).logits
    device = TorchDevice(torch.device("cuda"), 4, largest_expert(model), torch.float32)
    ladder = RandomLadder(4, ExpectedUse(num_experts(model.config)), seed=1)
    model.tier = DeviceTier(device, ladder, model.host_expert)
    model.tier.fill(num_experts(model.config), model.config.hidden_size, None)
    for _ in range(20):
        assert relative_error(model(ids).logits, wanted) < FLOAT32
    assert ladder.tally.on_device > 20 and ladder.tally.failures == 0
    device.close()


def test_answers_do_not_change_while_other_copies_are_under_way() -> None:
    device = TorchDevice(torch.device("cuda"), 8, slot_numbers(D, F), torch.float32)
    device.copy(0, expert_of(0))
    x_RD = rows(64)
    before, _ = device.compute([0], [64], x_RD).wait()
    answers = []
    for slot in range(1, 8):
        device.copy(slot, expert_of(slot))
        answers.append(device.compute([0], [64], x_RD))
    assert all(np.array_equal(answer.wait()[0], before) for answer in answers)
    device.close()
