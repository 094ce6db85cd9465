"""What rules for cheaper answers cost and bring, as docs/budgeted.md.

    python tools/measure_budgeted.py [MODEL ...] [--tokens 400] [--share 0.4]

Each model (the bundled one, and folders that are named) is packed at 8 bits and run with a share of
its experts in memory, token by token, over held-out texts that are the same for every rule. The
lower copy is packed at 4 bits.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from expertly import _native
from expertly.checkpoint import load
from expertly.checkpoint.apart import experts_at, packed_apart
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.checkpoint.streamed_loading import num_experts, stream
from expertly.cli.approximating import approximated
from expertly.machine import describe
from expertly.model import NativeDecoder
from expertly.model.approximate import FORMS
from expertly.text import corpora

PAGE = Path(__file__).parents[1] / "docs" / "budgeted.md"
# {half}: of the K experts of a token
RULES = ("top:{half}", "ser:{half},0.3", "naee:0.5", "top-p:0.8", "cold:0.5", "cold:1",
         "cached:0.2", "cached:0.5", "lower:1", "lower:2", "lower:1000")  # fmt: skip
PAIRS = 3

_START = """# Budgeted answers

`--approximate RULE` of `expertly run` and `expertly bench` trades answers for speed: a token is
computed with fewer experts than its router chose, or with others. Nothing of this happens unless it
is asked for, and `run` ends with how many choices were left out, exchanged or computed from a lower
copy.

| rule | a token's experts |
|---|---|
{forms}

A weight is a share of the token's chosen experts' weights. What is left out is also not read, so on
a model larger than memory `cold` and `cached` save what costs most there. They heed what is in
memory, so the same question may be answered otherwise the next time.

`lower` leaves nothing out. The same model is there twice, at more bits and at fewer, as packed
folders or GGUF files:

```
expertly pack MODEL full --bits 8
expertly pack MODEL smaller --bits 4
expertly run full --memory 8GB --lower smaller --approximate lower:1
```

An expert that is not in memory is then read from the smaller one if its weight is under F / K for
every token that chose it: fewer bytes for a miss that matters little. At F = 1 that is less than an
even share, at F = 1000 every miss. What is in memory at full precision is used as it is, and a
lower copy that is in memory is used again where it would be read. Both copies share the room for
experts, and either takes as much of it as the larger, so a lower copy saves reading, not memory:
where more experts at fewer bits would do, run the smaller model alone. A full copy stays in memory
by all uses of its expert, and a lower one goes first while the full one is there.

Where the disk is what bounds: a model of OLMoE-1B-7B's shape at 8 bits (random weights, 4 GB for
7.4 GB of it, 2 cores) decoded 8.2 tokens a second and read 183 MB a token; with a copy at 4 bits
9.8 and 125 MB by `lower:1`, 10.6 and 99 MB by `lower:1000`. The first two commands write the models
(and measure them with drawn choices), the last two measure these figures, with the router's own:

```
expertly bench --synthetic OLMoE-1B-7B-0924 --bits 8 --out full --memory 4GB
expertly bench --synthetic OLMoE-1B-7B-0924 --bits 4 --out smaller --memory 4GB
expertly bench full --memory 4GB
expertly bench full --memory 4GB --lower smaller --approximate lower:1
```

Measured on {machine}, with {share:.0%} of the experts in memory, token by token over
held-out text of five kinds; KL is of the next token's distribution from that of the same weights
with every expert in its place, in nats; speed beside the router's own choice, in turns. The disk is
not what bounds a model this small: on a large one, speed goes by the bytes read. Full copies are of
8 bits a weight, lower ones of 4.

This page is written by `python tools/measure_budgeted.py`.
"""


@dataclass(frozen=True)
class Found:
    rule: str
    kl: float
    read_bytes: float  # a token
    left_out: float
    exchanged: float
    lowered: float
    tokens_per_second: float


class Passes:
    """The same text through one model, again and again."""

    def __init__(self, folder: Path, lower: Path, share: float, ids: list[list[int]]) -> None:
        self._folder, self._share, self._ids = folder, share, ids
        self._lower = experts_at(lower)
        self.full = self._logits(load(folder, "native", threads=2))[0]

    def run(self, rule: str | None) -> Found:
        lower = self._lower if (rule or "").startswith("lower") else None
        model = stream(packed_apart(self._folder, 2), self._slots(), 2, lower=lower)
        assert model.store is not None
        how = None if rule is None else approximated(model, rule)
        model.store.tally.read_bytes = 0
        logits, seconds = self._logits(model)
        tokens = sum(map(len, self._ids))
        read = model.store.tally.read_bytes / tokens
        model.store.close()
        kl = (self.full.exp() * (self.full - logits)).sum(-1).mean().item()
        choices = 1 if how is None else how.choices
        exchanged = 0.0 if how is None else how.exchanged / choices
        left_out = 0.0 if how is None else 1.0 - (how.kept + how.exchanged) / choices
        lowered = 0.0 if how is None else how.lowered / choices
        name = rule or "the router's own"
        return Found(name, kl, read, left_out, exchanged, lowered, tokens / seconds)

    def _slots(self) -> int:
        return int(self._share * sum(num_experts(load(self._folder, threads=2).config)))

    def _logits(self, model: NativeDecoder) -> tuple[Tensor, float]:
        found, began = [], time.perf_counter()
        for text in self._ids:
            cache = model.new_cache()
            for token in text:
                output = model(torch.tensor([[token]]), cache=cache, logits="last")
                found.append(output.logits.double().log_softmax(-1))
        return torch.cat(found), time.perf_counter() - began


def texts(model: NativeDecoder, tokens: int) -> list[list[int]]:
    """Of every kind as many tokens, none longer than the model's context."""
    assert model.tokenizer is not None
    count = min(tokens // len(corpora.domains()), model.config.max_context)
    tokenizer = model.tokenizer
    return [
        tokenizer.encode(corpora.held_out_text(name)[-16 * count :])[:count]
        for name in corpora.domains()
    ]


def measured(path: Path, folder: Path, tokens: int, share: float) -> Iterator[str]:
    """A section of the page."""
    lower = folder.with_name(f"{folder.name}-lower")
    for bits, out in ((8, folder), (4, lower)):
        with open_folder(path) as source:
            save_packed(source, out, recipe_of_bits(bits))
    model = load(folder, "native", threads=2)
    first = model.config.layers[model.config.mixture_layers[0]].feed_forward
    num_chosen: int = first.num_chosen  # type: ignore[union-attr]
    passes = Passes(folder, lower, share, texts(model, tokens))
    name = "The bundled model" if path == bundled() else path.parent.name
    experts = first.num_experts  # type: ignore[union-attr]
    yield f"\n## {name}: {experts} experts a layer, {num_chosen} a token\n"
    yield "| rule | KL | left out | exchanged | lowered | KB read a token | speed |"
    yield "|---|---|---|---|---|---|---|"
    passes.run(None)
    for rule in (None, *(rule.format(half=max(1, num_chosen // 2)) for rule in RULES)):
        pairs = [(passes.run(None), passes.run(rule)) for _ in range(PAIRS)]
        ratio = sorted(there.tokens_per_second / own.tokens_per_second for own, there in pairs)
        one = pairs[0][1]
        yield (
            f"| {one.rule} | {one.kl:.4f} | {one.left_out:.0%} | {one.exchanged:.0%} | "
            f"{one.lowered:.0%} | {one.read_bytes / 1000:.0f} | {ratio[PAIRS // 2]:.2f}x |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.4)
    options = parser.parse_args()
    forms = "\n".join(f"| `{form}` | {what} |" for form, what in FORMS.items())
    machine = describe(_native.kernel_sets())
    page = [_START.format(forms=forms, machine=machine, share=options.share)]
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate([bundled(), *options.models]):
            place = Path(folder) / str(number)
            for line in measured(path, place, options.tokens, options.share):
                print(line, flush=True)
                page.append(line + "\n")
    PAGE.write_text("".join(page))


if __name__ == "__main__":
    main()
