"""A loaded model's experts onto a device: as many as its memory has room for."""

import torch

from expertly.checkpoint.streamed_loading import num_experts
from expertly.config import Mixture
from expertly.device import Device, DeviceTier, TorchDevice
from expertly.device.torch_device import slot_numbers
from expertly.errors import InputError
from expertly.model import NativeDecoder
from expertly.planner import parse_bytes
from expertly.store import ExpectedUse
from expertly.store.ladder import Ladder

DTYPE = torch.bfloat16
# of a device's free memory, what is left for its libraries and for rows
_LEFT_SHARE = 0.1
_LEFT_BYTES = 512 << 20


def device_of(name: str) -> torch.device:
    """The GPU of "cuda" or "cuda:N". Raises InputError for what is not there."""
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise InputError(f"device {name!r} is not known", hint="use cuda, or cuda:1 for the second")
    if not torch.cuda.is_available():
        raise InputError(
            f"device {name}, but this torch finds no GPU",
            hint="leave out --device, or install torch with CUDA and its driver",
        )
    if int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name}, but there are {torch.cuda.device_count()} GPUs",
            hint="they are counted from cuda:0",
        )
    found = torch.device("cuda", int(index or 0))
    # what its libraries take of RAM is then taken before a budget is made
    torch.cuda.mem_get_info(found)
    return found


def put_on_device(
    decoder: NativeDecoder, device: torch.device, memory: str | int | None, threads: int
) -> None:
    """Have a GPU hold and compute as many experts as fit into `memory` ("8GB" or bytes; most of
    what is free unless given). Raises InputError for room of no expert and a model without any."""
    free, _ = torch.cuda.mem_get_info(device)
    usable = free - max(int(free * _LEFT_SHARE), _LEFT_BYTES)
    given = usable if memory is None else parse_bytes(memory)
    num_slots = slots_in(decoder, given)
    held = TorchDevice(device, num_slots, largest_expert(decoder), DTYPE, threads)
    attach(decoder, held, num_slots)


def largest_expert(decoder: NativeDecoder) -> int:
    """Numbers of the largest expert of any layer. Raises InputError for a model without any."""
    rules = [layer.feed_forward for layer in decoder.config.layers]
    sizes = [rule.expert_size for rule in rules if isinstance(rule, Mixture)]
    if not sizes:
        raise InputError(
            f"a {decoder.config.family} has no experts to put on a device",
            hint="leave out --device",
        )
    return slot_numbers(decoder.config.hidden_size, max(sizes))


def slots_in(decoder: NativeDecoder, memory_bytes: int) -> int:
    """Experts that a device's memory has room for. Raises InputError if there is none."""
    slot_bytes = largest_expert(decoder) * DTYPE.itemsize
    count = min(sum(num_experts(decoder.config)), max(0, memory_bytes) // slot_bytes)
    if count == 0:
        raise InputError(
            f"{max(0, memory_bytes):,} bytes on the device, one expert takes {slot_bytes:,} there",
            hint="give more with --device-memory, or leave out --device",
        )
    return count


def attach(decoder: NativeDecoder, device: Device, num_slots: int) -> None:
    """Have a device with so many slots, which are filled now, compute what it holds."""
    counts = num_experts(decoder.config)
    ladder = Ladder(num_slots, ExpectedUse(counts))
    decoder.tier = DeviceTier(device, ladder, decoder.host_expert)
    decoder.tier.fill(counts, decoder.config.hidden_size, decoder.store)
    words = (
        f"device {num_slots * device.slot_bytes / 1e6:,.0f} MB for {num_slots:,} of "
        f"{sum(counts):,} experts"
    )
    decoder.budget = words if decoder.budget is None else f"{decoder.budget}; {words}"
