"""What each way to keep the bundled model's weights costs and loses, as docs/tiers.md.

    python tools/measure_tiers.py [--model FOLDER] [--windows 8] [--speed] [--peer-python PATH]

Every tier is packed, loaded and run on our kernels over text that the model never saw; KL is to
the float32 logits of the bfloat16 weights. --peer-python is an interpreter that has
llama-cpp-python: then llama.cpp quantises the same model too, and its file runs on our kernels.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from expertly import _native
from expertly.checkpoint import load
from expertly.checkpoint.allocating import with_average
from expertly.checkpoint.calibrating import Calibration, calibrate, draw_windows
from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import Recipe, recipe_of_bits, recipe_of_type
from expertly.config import ModelConfig
from expertly.formats.blocks import BLOCKS
from expertly.machine import describe, usable_cores
from expertly.model import Decoder, NativeDecoder
from expertly.text import corpora

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tiers.md"
BUNDLED = ROOT / "src" / "expertly" / "bundled"
CALIBRATION_TOKENS = 40_960
PEER_TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M")
_DECODE_STEPS = 64

_START = """# Tiers

What the bundled model loses in each format, measured over held-out text: the mean KL divergence of
the next token's distribution from that of the bfloat16 weights (computed in float32), and bits per
byte. Bits a weight count everything that is stored: routers, norms, scales. Weights and activations
are those of our kernels, which round activations to 8 bits wherever weights have fewer than 16.

`--bits N` keeps experts at N bits and what every token passes at 8; *calibrated* rounds for
activations of the training texts (`--calibrate packaged`), *by use* also gives each expert bits by
how much it is used (`--average`). `--type NAME` is one format everywhere. The model's rows are 192
and 64 wide: formats with blocks of 256 do not fit them and give way to blocks of 32.

This page is written by `python tools/measure_tiers.py`.
"""
_LLAMA = """
import ctypes, sys
import llama_cpp as api
source, folder, names = sys.argv[1], sys.argv[2], sys.argv[3:]
api.llama_backend_init()
for name in names:
    given = api.llama_model_quantize_default_params()
    given.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{name}")
    code = api.llama_model_quantize(
        source.encode(), f"{folder}/{name}.gguf".encode(), ctypes.byref(given)
    )
    assert code == 0, (name, code)
"""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """How the table calls it, what makes it, and whether it knows what the weights are used for."""

    name: str
    recipe: Recipe
    is_calibrated: bool = False
    average: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    tier: str
    formats: str
    bits: float
    num_bytes: int
    kl: float
    bits_per_byte: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Text:
    """Windows of held-out text, BS, the exact log probabilities behind each column but the last,
    and the bytes of the tokens that those predict."""

    ids_BS: Tensor
    exact_BSV: Tensor
    num_bytes: int


def held_out(model: Decoder, windows: int) -> Text:
    """So many windows of each domain, as long as the context."""
    assert model.tokenizer is not None
    size = model.config.max_context
    rows: list[list[int]] = []
    for domain in corpora.domains():
        ids = model.tokenizer.encode(corpora.held_out_text(domain)[: 8 * size * windows])
        rows += [ids[at : at + size] for at in range(0, len(ids) - size + 1, size)][:windows]
    num_bytes = sum(len(model.tokenizer.decode(row[1:]).encode()) for row in rows)
    ids_BS = torch.tensor(rows)
    return Text(ids_BS, torch.cat([*log_probs(model, ids_BS)]), num_bytes)


def log_probs(model: Decoder | NativeDecoder, ids_BS: Tensor) -> Iterator[Tensor]:
    """Window by window, of each next token."""
    for row_S in ids_BS:
        with torch.inference_mode():
            yield model(row_S[None]).logits[:, :-1].log_softmax(-1)


def score(model: Decoder | NativeDecoder, text: Text) -> tuple[float, float]:
    """Mean KL to the exact distribution in nats, and bits per byte."""
    divergence, nats = 0.0, 0.0
    for row_S, exact_SV, ours_1SV in zip(
        text.ids_BS, text.exact_BSV, log_probs(model, text.ids_BS), strict=True
    ):
        ours_SV = ours_1SV[0]
        divergence += float((exact_SV.exp() * (exact_SV - ours_SV)).double().sum())
        nats -= float(ours_SV.gather(1, row_S[1:, None]).double().sum())
    num_tokens = text.exact_BSV.shape[0] * text.exact_BSV.shape[1]
    return divergence / num_tokens, nats / math.log(2) / text.num_bytes


def tiers() -> list[Tier]:
    found = [
        Tier(name="bf16", recipe=recipe_of_type("bf16")),
        Tier(name="`--bits 8`", recipe=recipe_of_bits(8)),
    ]
    # with fewer bits, experts of this width are iq4_nl
    for bits in (5, 4, 3):
        found.append(Tier(name=f"`--bits {bits}`", recipe=recipe_of_bits(bits)))
        name = f"{found[-1].name}, calibrated"
        found.append(replace(found[-1], name=name, is_calibrated=True))
    for bits in (6.4, 6.0, 5.8, 5.6):
        by_use = Tier(name=f"`--average {bits}`, by use", recipe=recipe_of_bits(4), average=bits)
        found.append(replace(by_use, is_calibrated=True))
    kinds = [name for name in BLOCKS if name not in ("f32", "bf16")]
    return found + [Tier(name=f"`--type {kind}`", recipe=recipe_of_type(kind)) for kind in kinds]


def measure(tier: Tier, model: Path, text: Text, calibration: Calibration, has_speed: bool) -> Row:
    """Packs, loads and runs one tier."""
    threads = usable_cores()
    used = calibration if tier.is_calibrated else None
    with tempfile.TemporaryDirectory() as name, open_folder(model) as source:
        out = Path(name) / "packed"
        recipe = tier.recipe
        if tier.average is not None:
            recipe = with_average(recipe, source.config, source.rows, tier.average, used)
        report = save_packed(source, out, recipe, calibration=used, threads=threads)
        config, weights, _ = load_packed(out, threads)
        num_bytes = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    decoder = NativeDecoder(config, weights, threads)
    kl, bits_per_byte = score(decoder, text)
    return Row(
        tier=tier.name,
        formats=shares(report.weights),
        bits=report.bits_per_weight,
        num_bytes=num_bytes,
        kl=kl,
        bits_per_byte=bits_per_byte,
        tokens_per_second=speed(decoder) if has_speed else None,
    )


def shares(weights: dict[str, int]) -> str:
    """Formats by how many of the weights they hold, those of vectors and routers left out."""
    total = sum(weights.values())
    order = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {n / total:.0%}" for name, n in order if n / total > 0.02)


def speed(model: NativeDecoder) -> float:
    """Tokens a second, one stream, the best of three runs."""
    best = 0.0
    for _ in range(3):
        cache = model.new_cache()
        model(torch.ones(1, 32, dtype=torch.int64), cache=cache, logits="last")
        begun = time.perf_counter()
        for _ in range(_DECODE_STEPS):
            model(torch.ones(1, 1, dtype=torch.int64), cache=cache, logits="last")
        best = max(best, _DECODE_STEPS / (time.perf_counter() - begun))
    return best


def peer_rows(
    python: str, model: Path, config: ModelConfig, text: Text, has_speed: bool
) -> Iterator[Row]:
    """The same model quantised by llama.cpp, its files on our kernels."""
    from expertly.checkpoint.gguf_saving import save_gguf

    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source.gguf"
        save_gguf(model, source, "f16")
        command = [python, "-c", _LLAMA, str(source), name, *PEER_TYPES]
        subprocess.run(command, check=True, capture_output=True)
        for kind in PEER_TYPES:
            yield peer_row(kind, Path(name) / f"{kind}.gguf", config, text, has_speed)


def peer_row(kind: str, path: Path, config: ModelConfig, text: Text, has_speed: bool) -> Row:
    """`config`: the model's own, as its file may not be able to say all of it."""
    weights: dict[str, int] = {}
    file, _ = open_gguf(path)
    stored = file.tensors.values()
    for tensor in stored:
        count = math.prod(tensor.shape)
        weights[tensor.block.name] = weights.get(tensor.block.name, 0) + count
    threads = usable_cores()
    # what no head is stored for reads its embedding twice
    config = replace(config, is_tied="output.weight" not in file.tensors)
    decoder = NativeDecoder(config, load_gguf(file, config, "native", threads), threads)
    kl, bits_per_byte = score(decoder, text)
    num_bytes = sum(tensor.num_bytes for tensor in stored)
    return Row(
        tier=f"llama.cpp {kind}",
        formats=shares(weights),
        bits=8 * num_bytes / sum(weights.values()),
        num_bytes=path.stat().st_size,
        kl=kl,
        bits_per_byte=bits_per_byte,
        tokens_per_second=speed(decoder) if has_speed else None,
    )


def page(rows: Sequence[Row], text: Text) -> str:
    has_speed = rows[0].tokens_per_second is not None
    lines = [
        _START,
        f"{text.exact_BSV.shape[0]} windows of {text.ids_BS.shape[1]} tokens side by side, from "
        f"all {len(corpora.domains())} held-out texts; {CALIBRATION_TOKENS:,} tokens of "
        "calibration.",
    ]
    if has_speed:
        lines.append(f"\nTokens a second: one stream, {describe(_native.kernel_sets())}.")
    head = ["tier", "formats", "bits a weight", "bytes", "KL, nats", "bits per byte"]
    table = [head + ["tokens/s"] * has_speed]
    table.append(["---"] * len(table[0]))
    for row in rows:
        cells = [row.tier, row.formats, f"{row.bits:.2f}", f"{row.num_bytes:,}"]
        cells += [f"{row.kl:.5f}", f"{row.bits_per_byte:.4f}"]
        if row.tokens_per_second is not None:
            cells.append(f"{row.tokens_per_second:,.0f}")
        table.append(cells)
    return "\n".join([*lines, "", *("| " + " | ".join(cells) + " |" for cells in table)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--windows", type=int, default=8, help="windows of each domain")
    parser.add_argument("--speed", action="store_true", help="measure tokens a second too")
    parser.add_argument("--peer-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    model = load(options.model, "float32")
    assert model.tokenizer is not None
    text = held_out(model, options.windows)
    training = [corpora.training_text(domain) for domain in corpora.domains()]
    windows = draw_windows(model.config, model.tokenizer, training, CALIBRATION_TOKENS)
    calibration = calibrate(model, windows)
    rows = []
    for tier in tiers():
        rows.append(measure(tier, options.model, text, calibration, options.speed))
        print(rows[-1], file=sys.stderr, flush=True)
    if options.peer_python:
        rows += peer_rows(options.peer_python, options.model, model.config, text, options.speed)
    options.out.write_text(page(rows, text), encoding="utf-8")


if __name__ == "__main__":
    main()
