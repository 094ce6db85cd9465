"""Cache policies on routing that models were seen to do, and what a budget changes of the answer.

    python tools/compare_policies.py [MODEL ...] [--tokens 2000]

For each model (the bundled one, and folders that are named) and each packaged text: the misses of
the default policy against the best of LRU, LFU and decayed frequency, with 10% to 50% of the
experts in memory, and its regret against Belady's, who may bypass or not. Then a curve: tokens a
second with 25% to 100% in memory, where logits have to be the resident model's to the bit. Ends
with one line of JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from expertly.checkpoint import load
from expertly.checkpoint.apart import packed_apart
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.checkpoint.streamed_loading import num_chosen, num_experts, stream
from expertly.model import NativeDecoder
from expertly.store.replay import Visit, belady, policies, replay
from expertly.text import corpora

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
BUDGETS = (0.25, 0.5, 0.75, 1.0)
RIVALS = ("lru", "lfu", "decayed")
_CURVE_TOKENS = 256


def packed(model: Path, folder: Path) -> Path:
    with open_folder(model) as source:
        save_packed(source, folder, recipe_of_bits(8))
    return folder


def visits_of(model: NativeDecoder, ids: list[int]) -> list[Visit]:
    """What each layer chose for each token, one token after the other."""
    found: list[Visit] = []
    model.watch = lambda layer, _, ids_TK, __: found.append(
        (layer, tuple(sorted(ids_TK[0].tolist())))
    )
    cache = model.new_cache()
    for token in ids:
        if cache.lengths[0] + 1 >= model.config.max_context:
            cache = model.new_cache()
        model(torch.tensor([[token]]), cache=cache, logits="last")
    model.watch = None
    return found


def compare(model: NativeDecoder, visits: list[Visit]) -> list[dict[str, Any]]:
    """A row a share of memory."""
    counts = num_experts(model.config), num_chosen(model.config)
    rows = []
    for share in SHARES:
        capacity = max(1, round(share * sum(counts[0])))
        made = policies(*counts, capacity)
        misses = {name: replay(visits, make(), capacity).misses for name, make in made.items()}
        best = belady(visits, capacity).misses
        forced = belady(visits, capacity, may_bypass=False).misses
        rival = min(misses[name] for name in RIVALS)
        rows.append(
            {
                "share": share,
                "over_best": misses["expected"] / rival - 1,
                "regret": misses["expected"] / max(1, best) - 1,
                "regret_forced": misses["expected"] / max(1, forced) - 1,
                "misses": misses,
            }
        )
    return rows


def curve(folder: Path, ids: list[int]) -> list[dict[str, Any]]:
    """Tokens a second by share of memory; AssertionError for a logit that differs by a bit."""
    resident = load(folder, threads=2)
    expected = _logits(resident, ids)[0]
    total, rows = sum(num_experts(resident.config)), []
    for share in BUDGETS:
        model = stream(packed_apart(folder, 2), max(1, int(share * total)), 2)
        found, seconds = _logits(model, ids)
        assert torch.equal(found, expected), f"logits differ with {share:.0%} in memory"
        assert model.store is not None
        rows.append({"share": share, "tokens_per_second": len(ids) / seconds})
        model.store.close()
    return rows


def _logits(model: Any, ids: list[int]) -> tuple[torch.Tensor, float]:
    cache, found, began = model.new_cache(), [], time.perf_counter()
    for token in ids:
        found.append(model(torch.tensor([[token]]), cache=cache, logits="last").logits)
    return torch.cat(found), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--tokens", type=int, default=2000)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate([bundled(), *options.models]):
            name = path.parent.name if path.name == "final" else path.name
            found[name] = _measure(packed(path, Path(folder) / str(number)), name, options.tokens)
    print(json.dumps(found))


def _measure(folder: Path, name: str, tokens: int) -> dict[str, Any]:
    model, worst = load(folder, threads=2), {}
    assert isinstance(model, NativeDecoder) and model.tokenizer is not None
    for domain in corpora.domains():
        ids = model.tokenizer.encode(corpora.held_out_text(domain)[: 16 * tokens])[:tokens]
        rows = compare(model, visits_of(model, ids))
        worst[domain] = rows
        over = max(rows, key=lambda row: row["over_best"])
        regrets = [row["regret"] for row in rows]
        forced = [row["regret_forced"] for row in rows]
        print(
            f"{name} {domain}: at most {over['over_best']:+.1%} misses over the best rival (with "
            f"{over['share']:.0%} in memory); regret {min(regrets):.0%} to {max(regrets):.0%}, "
            f"{min(forced):.0%} to {max(forced):.0%} where Belady must admit",
            flush=True,
        )
    lines = curve(folder, ids[: min(_CURVE_TOKENS, model.config.max_context)])
    print(
        f"{name}: logits equal to the bit; tokens/s "
        + ", ".join(f"{row['share']:.0%} {row['tokens_per_second']:.0f}" for row in lines),
        flush=True,
    )
    return {"policies": worst, "curve": lines}


if __name__ == "__main__":
    main()
