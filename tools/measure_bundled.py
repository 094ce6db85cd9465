"""What the bundled model is worth on text that it never saw, as the README's table.

python tools/measure_bundled.py [FOLDER] [--dense FOLDER]    (recipes/bundled_dense.toml makes one)
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expertly.checkpoint import load
from expertly.engine import Engine, Sampling
from expertly.model import Decoder
from expertly.observe import observe
from expertly.text import corpora
from expertly.train.evaluate import bits_per_byte, compressed_bits_per_byte

_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Bits per byte of one domain's held-out text."""

    domain: str
    model: float
    gzip: float
    xz: float


def rows(model: Decoder, max_bytes: int | None = None) -> Iterator[Row]:
    """A row a domain, over all of its held-out text or the first `max_bytes` of it. Windows as
    long as the context, moved on by half of it: a token is predicted from at least that much."""
    assert model.tokenizer is not None
    context = model.config.max_context
    for domain in corpora.domains():
        text = corpora.held_out_text(domain).encode()[:max_bytes].decode(errors="ignore")
        bits = bits_per_byte(model, model.tokenizer, text, context, stride=context // 2)
        yield Row(domain=domain, model=bits, **compressed_bits_per_byte(text))


def dead_experts(model: Decoder) -> dict[int, list[int]]:
    """Layer by layer, the experts that get less than 1% of their fair share of held-out text."""
    texts = {domain: corpora.held_out_text(domain) for domain in corpora.domains()}
    report = observe(model, texts)
    return {layer.layer: layer.dead_experts for layer in report.layers if layer.dead_experts}


def known_words(model: Decoder, prompt: str = "Question:", samples: int = 8) -> float:
    """The share of the words it writes after `prompt` that occur in the training texts."""
    vocabulary = {
        word.lower()
        for domain in corpora.domains()
        for word in _WORD.findall(corpora.training_text(domain))
    }
    written: list[str] = []
    with Engine(model) as engine:
        for seed in range(samples):
            sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=150, seed=seed)
            # the last word may be cut
            written += _WORD.findall(engine.generate(prompt, sampling).text)[:-1]
    return sum(word.lower() in vocabulary for word in written) / max(1, len(written))


def table(model: Decoder, dense: Decoder | None) -> Iterator[str]:
    """The README's, a line at a time; with a column for the dense twin if there is one."""
    heads = [
        "held-out text",
        "bits per byte",
        *["its dense twin"] * bool(dense),
        "gzip -9",
        "xz -9e",
    ]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    found: list[list[float]] = []
    twins = rows(dense) if dense is not None else None
    for row in rows(model):
        twin = [] if twins is None else [next(twins).model]
        found.append([row.model, *twin, row.gzip, row.xz])
        yield f"| {row.domain} | {' | '.join(f'{bits:.3f}' for bits in found[-1])} |"
    means = [sum(column) / len(found) for column in zip(*found, strict=True)]
    yield f"| mean | {' | '.join(f'{bits:.3f}' for bits in means)} |"


def main(folder: Path | None, twin: Path | None) -> None:
    model = load(folder or "")
    for line in table(model, None if twin is None else load(twin, "float32")):
        print(line, flush=True)
    print(f"dead experts: {dead_experts(model) or 'none'}")
    print(f"known words after 'Question:': {known_words(model):.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--dense", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    main(options.folder, options.dense)
