"""Where a process computes: a processor, or the GPU that is its own (not yet run on a GPU)."""

import torch
import torch.distributed as dist

from expertly.errors import RecipeError

CPU = torch.device("cpu")


def resolve_device(name: str) -> torch.device:
    """The device of this process: "cpu", "cuda", or "auto", a GPU where torch has one; of several
    ranks on a node each has its own, in their order.

    Raises RecipeError for "cuda" without a GPU, and for more ranks than GPUs.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise RecipeError(
            "[run] device is 'cuda', and torch finds no GPU here",
            hint="leave device out, or install a torch that is built for CUDA and its driver",
        )
    rank = dist.get_node_local_rank(0) if dist.is_torchelastic_launched() else 0
    count = torch.cuda.device_count()
    if rank >= count:
        raise RecipeError(
            f"rank {rank} of this node has no GPU of its own: there are {count}",
            hint=f"begin at most {count} processes a node, or set [run] device to cpu",
        )
    return torch.device("cuda", rank)


def describe_device(device: torch.device) -> str:
    """Two devices of one name round alike."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
