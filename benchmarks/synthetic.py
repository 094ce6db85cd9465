"""`python -m benchmarks.synthetic qwen3 --type q4_0 OUT.gguf`: a GGUF file of random weights.

The blocks are drawn as bytes, so a file takes about as long as its disk does; what they decode to
is small, so that activations stay finite. There is no tokenizer: prompts are token ids.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from expertly.formats.blocks import BLOCKS, Block
from expertly.formats.gguf_writer import write

Draw = Callable[..., np.ndarray]
Chunks = Callable[[], Iterator[np.ndarray]]
Tensor = tuple[str, Block, tuple[int, ...], Chunks]

_CHUNK_BYTES = 32 << 20
# embeddings far above what layers add to them: else all tokens of a text grow alike, and choose
# the same experts
_EMBEDDING_GAIN = 80.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A mixture in every layer; `has_head_norm`: a norm a head on q and k, else one over all."""

    arch: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    experts: int
    chosen: int
    expert_size: int
    vocabulary: int
    context: int
    eps: float
    rope_base: float
    has_head_norm: bool


SHAPES: Mapping[str, Shape] = {
    # Qwen3-30B-A3B, 12 of its 48 layers
    "qwen3": Shape(
        arch="qwen3moe",
        layers=12,
        width=2048,
        heads=32,
        kv_heads=4,
        head_size=128,
        experts=128,
        chosen=8,
        expert_size=768,
        vocabulary=151936,
        context=40960,
        eps=1e-6,
        rope_base=1e6,
        has_head_norm=True,
    ),
    # OLMoE-1B-7B, whole
    "olmoe": Shape(
        arch="olmoe",
        layers=16,
        width=2048,
        heads=16,
        kv_heads=16,
        head_size=128,
        experts=64,
        chosen=8,
        expert_size=1024,
        vocabulary=50304,
        context=4096,
        eps=1e-5,
        rope_base=1e4,
        has_head_norm=False,
    ),
}

# file types as llama.cpp numbers them
_FILE_TYPES: Mapping[str, int] = {"q4_0": 2, "q8_0": 7, "q4_k": 14, "bf16": 32}


def write_random(shape: Shape, kind: str, path: Path, seed: int = 0) -> None:
    """Writes a model of this shape with every matrix but the routers in blocks of this kind."""
    write(path, metadata(shape, kind), tensors(shape, kind, seed))


def metadata(shape: Shape, kind: str) -> dict[str, int | float | str]:
    sizes = {
        "context_length": shape.context,
        "embedding_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.expert_size,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_size,
        "attention.value_length": shape.head_size,
        "attention.layer_norm_rms_epsilon": shape.eps,
        "rope.freq_base": shape.rope_base,
        "expert_count": shape.experts,
        "expert_used_count": shape.chosen,
        "expert_feed_forward_length": shape.expert_size,
        "vocab_size": shape.vocabulary,
    }
    return {
        "general.architecture": shape.arch,
        "general.name": f"random {shape.arch}",
        "general.file_type": _FILE_TYPES[kind],
        **{f"{shape.arch}.{name}": value for name, value in sizes.items()},
        "tokenizer.ggml.model": "no_vocab",
    }


def tensors(shape: Shape, kind: str, seed: int = 0) -> list[Tensor]:
    """Every tensor of the file; each is drawn from a seed of its own when it is written."""
    matrices = [(name, size, kind) for name, size in _matrices(shape)]
    floats = [(name, size, "router") for name, size in _routers(shape)]
    norms = [(name, size, "norm") for name, size in _norms(shape)]
    return [
        _tensor(name, size, what, [seed, index])
        for index, (name, size, what) in enumerate([*matrices, *floats, *norms])
    ]


def _matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, queries = shape.width, shape.heads * shape.head_size
    keys = shape.kv_heads * shape.head_size
    yield "token_embd.weight", (shape.vocabulary, width)
    yield "output.weight", (shape.vocabulary, width)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_q.weight", (queries, width)
        yield f"{block}.attn_k.weight", (keys, width)
        yield f"{block}.attn_v.weight", (keys, width)
        yield f"{block}.attn_output.weight", (width, queries)
        yield f"{block}.ffn_gate_exps.weight", (shape.experts, shape.expert_size, width)
        yield f"{block}.ffn_up_exps.weight", (shape.experts, shape.expert_size, width)
        yield f"{block}.ffn_down_exps.weight", (shape.experts, width, shape.expert_size)


def _routers(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(shape.layers):
        yield f"blk.{layer}.ffn_gate_inp.weight", (shape.experts, shape.width)


def _norms(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield "output_norm.weight", (shape.width,)
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight", (shape.width,)
        yield f"blk.{layer}.ffn_norm.weight", (shape.width,)
        sizes = (shape.head_size,) * 2 if shape.has_head_norm else (queries, keys)
        yield f"blk.{layer}.attn_q_norm.weight", sizes[:1]
        yield f"blk.{layer}.attn_k_norm.weight", sizes[1:]


def _tensor(name: str, size: tuple[int, ...], what: str, seed: Sequence[int]) -> Tensor:
    block = BLOCKS[what if what in _FILE_TYPES else "f32"]
    count = int(np.prod(size)) // block.size
    gain = _EMBEDDING_GAIN if name == "token_embd.weight" else 1.0
    draw = partial(_DRAWS[what], gain=gain)
    return name, block, size, partial(_chunks, draw, count, block.num_bytes, seed)


def _chunks(
    draw: Callable[[np.random.Generator, int], np.ndarray],
    count: int,
    num_bytes: int,
    seed: Sequence[int],
) -> Iterator[np.ndarray]:
    generator = np.random.Generator(np.random.SFC64(seed))
    step = max(1, _CHUNK_BYTES // num_bytes)
    for done in range(0, count, step):
        yield draw(generator, min(step, count - done)).view(np.uint8).reshape(-1)


def _blocks(generator: np.random.Generator, count: int, num_bytes: int) -> np.ndarray:
    raw = generator.bytes(count * num_bytes)
    return np.frombuffer(bytearray(raw), np.uint8).reshape(count, num_bytes)


def _halves(generator: np.random.Generator, count: int, about: float) -> np.ndarray:
    """Scales between half and one and a half times `about`, as the bytes of f16."""
    scales = generator.random(count, np.float32) + np.float32(0.5)
    return (scales * np.float32(about)).astype("<f2").view(np.uint8).reshape(count, 2)


# each decodes to weights of about 0.0115 to 0.02: a product over 2048 columns stays near 1
def _q4_0(generator: np.random.Generator, count: int, gain: float) -> np.ndarray:
    blocks = _blocks(generator, count, 18)
    signs = blocks[:, 1] & 128
    blocks[:, :2] = _halves(generator, count, gain * 0.02 / 8)
    # codes are -8..7: with scales of one sign all weights would lean the same way, and so would
    # all tokens, to the same experts
    blocks[:, 1] |= signs
    return blocks


def _q8_0(generator: np.random.Generator, count: int, gain: float) -> np.ndarray:
    blocks = _blocks(generator, count, 34)
    codes = blocks[:, 2:]
    # quantisers never write -128
    codes[codes == 128] = 129
    blocks[:, :2] = _halves(generator, count, gain * 0.02 / 128)
    return blocks


def _q4_k(generator: np.random.Generator, count: int, gain: float) -> np.ndarray:
    # codes 0..15 about 7.5: with 7.5 times the scale for the minimum, weights are about 0
    blocks = _blocks(generator, count, 144)
    scales = generator.random(count, np.float32) + np.float32(1)
    scales *= np.float32(gain * 0.02 / 320)
    blocks[:, :2] = scales.astype("<f2").view(np.uint8).reshape(count, 2)
    blocks[:, 2:4] = (scales * np.float32(7.5)).astype("<f2").view(np.uint8).reshape(count, 2)
    return blocks


def _bf16(generator: np.random.Generator, count: int, gain: float) -> np.ndarray:
    weights = generator.standard_normal(count, np.float32) * np.float32(gain * 0.0115)
    return (weights.view(np.uint32) >> 16).astype("<u2")


def _router(generator: np.random.Generator, count: int, gain: float) -> np.ndarray:
    return generator.standard_normal(count, np.float32) * np.float32(gain * 0.05)


def _norm(generator: np.random.Generator, count: int, gain: float) -> np.ndarray:
    return generator.standard_normal(count, np.float32) * np.float32(0.1) + np.float32(gain)


_DRAWS: Mapping[str, Draw] = {
    "q4_0": _q4_0,
    "q8_0": _q8_0,
    "q4_k": _q4_k,
    "bf16": _bf16,
    "router": _router,
    "norm": _norm,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("path", type=Path, metavar="OUT.gguf")
    parser.add_argument("--type", dest="kind", choices=_FILE_TYPES, default="q4_0")
    parser.add_argument("--layers", type=int, help="instead of as many as the shape has")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    shape = replace(shape, layers=shape.layers if given.layers is None else given.layers)
    write_random(shape, given.kind, given.path, given.seed)


if __name__ == "__main__":
    main()
