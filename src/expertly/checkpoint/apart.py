"""Models whose experts are left in their files."""

from dataclasses import dataclass
from pathlib import Path

from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.packed_opening import open_packed
from expertly.checkpoint.stored_experts import StoredExperts, experts_of_gguf, experts_of_packed
from expertly.config import ModelConfig
from expertly.model.weights import NativeWeights
from expertly.text import Tokenizer
from expertly.text.gguf_tokenizer import tokenizer_of


@dataclass(frozen=True, kw_only=True)
class Apart:
    """`weights` lack the experts."""

    config: ModelConfig
    weights: NativeWeights
    tokenizer: Tokenizer | None
    experts: StoredExperts


def apart(path: Path, threads: int) -> Apart:
    """Of a packed folder or a GGUF file."""
    return gguf_apart(path, threads) if is_gguf(path) else packed_apart(path, threads)


def packed_apart(folder: Path, threads: int) -> Apart:
    """Raises as `load_packed`, and InputError for a model without experts."""
    experts = experts_of_packed(folder, open_packed(folder))
    config, weights, tokenizer = load_packed(folder, threads, has_experts=False)
    return Apart(config=config, weights=weights, tokenizer=tokenizer, experts=experts)


def gguf_apart(path: Path, threads: int) -> Apart:
    """Raises as `load_gguf`, and InputError for a model without experts."""
    file, config = open_gguf(path)
    experts = experts_of_gguf(path, file, config)
    weights = load_gguf(file, config, "native", threads, has_experts=False)
    tokenizer = tokenizer_of(file.metadata)
    return Apart(config=config, weights=weights, tokenizer=tokenizer, experts=experts)


def experts_at(path: Path) -> StoredExperts:
    """The experts alone, with nothing read but headers. Raises as `apart`."""
    if is_gguf(path):
        return experts_of_gguf(path, *open_gguf(path))
    return experts_of_packed(path, open_packed(path))


def is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf"
