"""A model and its optimisers' moments in files that every rank writes its part of, and that any
number of ranks can read: safetensors by torch's distributed checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from expertly.parallel.placing import spread_out
from expertly.parallel.ranks import Ranks

# name to a rank's part, and whether ranks have different experts of it
Parts = Mapping[str, tuple[Tensor, bool]]


def is_spread_folder(folder: Path) -> bool:
    return any(folder.glob("shard-*.safetensors"))


def names_in(folder: Path) -> list[str]:
    return list(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def write_spread(folder: Path, parts: Parts, ranks: Ranks) -> None:
    """All ranks write into `folder`, which is there."""
    state = _whole(parts, ranks)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save(state, storage_writer=writer, no_dist=ranks.count == 1)


def read_spread(folder: Path, parts: Parts, ranks: Ranks) -> None:
    """Fills a rank's parts in place."""
    state = _whole(parts, ranks)
    reader = HuggingFaceStorageReader(str(folder))
    load(state, storage_reader=reader, no_dist=ranks.count == 1)


def _whole(parts: Parts, ranks: Ranks) -> dict[str, object]:
    return {name: spread_out(part, spread, ranks) for name, (part, spread) in parts.items()}
