"""Large checkpoints that cost no time to make: their weights are holes, which read as zeros."""

import json
from math import prod
from pathlib import Path
from typing import Any

from expertly.families import read_config, stored_tensors


def write_zeros(folder: Path, hf: dict[str, Any]) -> None:
    """A bfloat16 model of this config."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf))
    header: dict[str, Any] = {}
    end = 0
    for tensor in stored_tensors(read_config(hf)):
        start, end = end, end + 2 * prod(tensor.shape)
        header[tensor.name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
