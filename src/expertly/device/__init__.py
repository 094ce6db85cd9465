"""Experts on a device that torch has, as a rung above RAM: what it holds is computed there while
the processor computes the rest."""

from expertly.device.protocol import Answer, Copy, Device, HostExpert
from expertly.device.tier import DeviceTier, Work
from expertly.device.torch_device import TorchDevice

__all__ = ["Answer", "Copy", "Device", "DeviceTier", "HostExpert", "TorchDevice", "Work"]
