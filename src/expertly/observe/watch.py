"""Runs a model over texts and reports what its routers chose."""

from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from expertly.config import Mixture, ModelConfig
from expertly.errors import InputError
from expertly.mixture import measures
from expertly.model import Decoder
from expertly.observe import measure
from expertly.observe.gather import LayerCounts, count, nothing
from expertly.observe.report import LayerReport, Report, TokenUse

_FAVOURITES = 12


def observe(
    model: Decoder,
    texts: dict[str, str],
    *,
    max_tokens: int = 4096,
    window: int = 1024,
    min_count: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Runs the first `max_tokens` of each text (a name and its text: a domain) through the model,
    in windows as long as the context or `window`, and reports on every mixture layer.

    Token ids that occur `min_count` times or more are told apart, and experts with fewer tokens
    stay out of the page's strongest co-activations. `progress(done, all)` is called after each
    window. InputError: nothing to observe, or no tokenizer.
    """
    mixtures = _mixtures(model.config)
    ids_by_name = {name: ids[:max_tokens] for name, ids in _encode(model, texts).items()}
    uses = Counter(i for ids in ids_by_name.values() for i in ids)
    tracked = sorted(i for i, times in uses.items() if times >= min_count)
    totals = _gather(
        model,
        list(ids_by_name.values()),
        torch.tensor(tracked, dtype=torch.int64),
        min(window, model.config.max_context),
        progress,
    )
    return Report(
        tokens_by_domain={name: len(ids) for name, ids in ids_by_name.items()},
        min_count=min_count,
        vocabulary=_vocabulary(model, tracked, uses),
        layers=[
            _layer_report(index, mixture, counts)
            for (index, mixture), counts in zip(mixtures.items(), totals, strict=True)
        ],
    )


def _mixtures(config: ModelConfig) -> dict[int, Mixture]:
    found = {
        i: layer.feed_forward
        for i, layer in enumerate(config.layers)
        if isinstance(layer.feed_forward, Mixture)
    }
    if not found:
        raise InputError(
            f"the {config.family} model has no mixture layer", hint="observe a model with experts"
        )
    return found


def _encode(model: Decoder, texts: dict[str, str]) -> dict[str, list[int]]:
    if model.tokenizer is None:
        raise InputError(
            "the model has no tokenizer", hint="put its tokenizer.json into the model's folder"
        )
    if not texts:
        raise InputError("no text to observe", hint="give one with --text FILE")
    found = {name: model.tokenizer.encode(text) for name, text in texts.items()}
    for name, ids in found.items():
        if not ids:
            raise InputError(f"the text {name!r} has no tokens", hint="give a text that has some")
    return found


def _vocabulary(model: Decoder, tracked: list[int], uses: Counter[int]) -> list[TokenUse]:
    assert model.tokenizer is not None
    return [TokenUse(id=i, text=model.tokenizer.token_text(i), count=uses[i]) for i in tracked]


def _windows(domains: list[list[int]], length: int) -> Iterator[tuple[int, list[int]]]:
    for domain, ids in enumerate(domains):
        for start in range(0, len(ids), length):
            yield domain, ids[start : start + length]


@torch.inference_mode()
def _gather(
    model: Decoder,
    domains: list[list[int]],
    tracked_U: Tensor,
    window: int,
    progress: Callable[[int, int], None] | None,
) -> list[LayerCounts]:
    device = next(model.parameters()).device
    totals = [
        nothing(mixture.num_choices, len(domains), len(tracked_U))
        for mixture in _mixtures(model.config).values()
    ]
    done, everything = 0, sum(map(len, domains))
    for domain, ids in _windows(domains, window):
        ids_T = torch.tensor(ids, device=device)
        # one window at a time: no padding, and no logits but the last token's
        routings = model(ids_T.unsqueeze(0), logits="last", routings=True).routings
        assert routings is not None
        for i, routing in enumerate(routings):
            totals[i] = totals[i].plus(
                count(ids_T, routing, domain=domain, num_domains=len(domains), tracked_U=tracked_U)
            )
        done += len(ids)
        if progress is not None:
            progress(done, everything)
    return totals


def _layer_report(index: int, mixture: Mixture, counts: LayerCounts) -> LayerReport:
    rows_E = counts.rows_ME.sum(dim=0)
    favourites = measure.favourites(counts.rows_UE, counts.uses_U, _FAVOURITES)
    neighbours = counts.neighbours
    return LayerReport(
        layer=index,
        num_experts=mixture.num_choices,
        num_chosen=mixture.num_chosen,
        num_rows=int(rows_E.sum()),
        load=measure.load(counts.rows_ME).tolist(),
        entropy=measures.load_entropy(rows_E),
        max_violation=measures.max_violation(rows_E),
        gini=measures.gini(rows_E),
        dead_experts=measures.dead_experts(rows_E),
        token_entropy=counts.entropy_sum / int(counts.tokens_M.sum()),
        repeat_share=counts.repeats / neighbours if neighbours else None,
        coactivation=measure.coactivation(counts.pairs_EE).tolist(),
        tokens_by_expert=counts.pairs_EE.diagonal().tolist(),
        domain_row_share=measure.domain_row_share(counts.rows_ME).tolist(),
        domain_token_share=measure.domain_token_share(counts.rows_ME, counts.tokens_M).tolist(),
        vocabulary_rows=counts.rows_UE.tolist(),
        favourites=favourites,
    )
