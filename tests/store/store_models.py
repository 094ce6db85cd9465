"""The bundled model packed once, and streamed with any number of slots."""

import os
from pathlib import Path

import torch
from torch import Tensor

from expertly.checkpoint.apart import packed_apart
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.checkpoint.streamed_loading import stream
from expertly.model import NativeDecoder


def pack_bundled(out: Path, bits: int = 4) -> Path:
    with open_folder(bundled()) as source:
        save_packed(source, out, recipe_of_bits(bits))
    return out


def streamed(folder: Path, num_slots: int, threads: int = 1, kernels: str = "") -> NativeDecoder:
    """All but the experts of a packed folder in memory, and a store for those."""
    return stream(packed_apart(folder, threads=1), num_slots, threads, kernels)


def decoded(model: NativeDecoder, ids: list[int], prompt: int) -> Tensor:
    """Logits of a prompt read at once and of the tokens after it, read one by one."""
    cache = model.new_cache()
    parts = [model(torch.tensor([ids[:prompt]]), cache=cache).logits]
    parts += [model(torch.tensor([[token]]), cache=cache).logits for token in ids[prompt:]]
    return torch.cat(parts, dim=1)[0]


def damage(file: Path, at: int) -> None:
    """One bit of a file flipped, its time as it was."""
    status = file.stat()
    with file.open("r+b") as stream:
        stream.seek(at)
        [byte] = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 4]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
