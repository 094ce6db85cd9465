"""Machines that a training run can be planned for: peaks as their makers state them."""

from dataclasses import dataclass

from expertly.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device of a machine, and the links it has: bytes a second one way, to another device of
    its node and to one of another node, and what an exchange takes without its bytes."""

    name: str
    memory_bytes: int
    flops: float  # bfloat16, dense, a second
    node_link: float
    net_link: float
    exchange_seconds: float
    devices_a_node: int
    source: str


# a kernel's start and a switch's hop on either side: an order of magnitude, no maker's figure
_EXCHANGE_SECONDS = 20e-6

DEVICES = (
    Device(
        name="a100-hdr",
        memory_bytes=80 * 10**9,
        flops=312e12,
        node_link=300e9,
        net_link=25e9,
        exchange_seconds=_EXCHANGE_SECONDS,
        devices_a_node=8,
        source="NVIDIA A100 80GB SXM datasheet (NVLink 600 GB/s both ways); DGX A100: an HDR "
        "InfiniBand port of 200 Gb/s a GPU",
    ),
    Device(
        name="h100-ndr",
        memory_bytes=80 * 10**9,
        flops=989e12,
        node_link=450e9,
        net_link=50e9,
        exchange_seconds=_EXCHANGE_SECONDS,
        devices_a_node=8,
        source="NVIDIA H100 SXM datasheet (NVLink 900 GB/s both ways); DGX H100: a ConnectX-7 "
        "port of 400 Gb/s a GPU",
    ),
    Device(
        name="h200-ndr",
        memory_bytes=141 * 10**9,
        flops=989e12,
        node_link=450e9,
        net_link=50e9,
        exchange_seconds=_EXCHANGE_SECONDS,
        devices_a_node=8,
        source="NVIDIA H200 SXM datasheet (NVLink 900 GB/s both ways); DGX H200: a ConnectX-7 "
        "port of 400 Gb/s a GPU",
    ),
)


def device(name: str) -> Device:
    """The device of that name; InputError names those that there are."""
    for found in DEVICES:
        if found.name == name:
            return found
    raise InputError(
        f"{name!r} is no machine that is known",
        hint=f"use one of {', '.join(found.name for found in DEVICES)}",
    )
