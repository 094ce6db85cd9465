"""What the bundled model is worth on text that it never saw, as the README's table.

python tools/measure_bundled.py [FOLDER]
"""

import re
import sys
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


def main(folder: Path | None) -> None:
    model = load(folder or "")
    print("| held-out text | bits per byte | gzip -9 | xz -9e |")
    print("|---|---|---|---|")
    found = []
    for row in rows(model):
        found.append(row.model)
        print(f"| {row.domain} | {row.model:.3f} | {row.gzip:.3f} | {row.xz:.3f} |", flush=True)
    print(f"| mean | {sum(found) / len(found):.3f} | | |")
    print(f"dead experts: {dead_experts(model) or 'none'}")
    print(f"known words after 'Question:': {known_words(model):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
