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
from expertly.observe.sample import Sample
from expertly.text import Tokenizer

_FAVOURITES = 12
# tables of tokens are large, and vary little from shuffle to shuffle
_TOKEN_SHUFFLES = 3


def observe(
    model: Decoder,
    texts: dict[str, str],
    *,
    max_tokens: int = 4096,
    window: int = 1024,
    min_count: int = 16,
    sample: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Runs the first `max_tokens` of each text (a name and its text: a domain) through the model,
    in windows as long as the context or `window`, and reports on every mixture layer.

    Token ids that occur `min_count` times or more are told apart, and experts with fewer tokens
    stay out of the page's strongest co-activations. Of each text the first `sample` tokens, of one
    window at most, are kept with their experts. `progress(done, all)` is called after each
    window. InputError: nothing to observe, or no tokenizer.
    """
    mixtures, tokenizer = _mixtures(model.config), _tokenizer(model)
    ids_by_name = {name: ids[:max_tokens] for name, ids in _encode(tokenizer, texts).items()}
    uses = Counter(i for ids in ids_by_name.values() for i in ids)
    tracked = sorted(i for i, times in uses.items() if times >= min_count)
    samples = {name: Sample(size=sample) for name in ids_by_name}
    totals = _gather(
        model,
        list(ids_by_name.values()),
        list(samples.values()),
        torch.tensor(tracked, dtype=torch.int64),
        min(window, model.config.max_context),
        progress,
    )
    return Report(
        tokens_by_domain={name: len(ids) for name, ids in ids_by_name.items()},
        min_count=min_count,
        vocabulary=_vocabulary(tokenizer, tracked, uses),
        layers=[
            _layer_report(index, mixture, counts)
            for (index, mixture), counts in zip(mixtures.items(), totals, strict=True)
        ],
        samples={name: kept.tokens(tokenizer) for name, kept in samples.items()},
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


def _tokenizer(model: Decoder) -> Tokenizer:
    if model.tokenizer is None:
        raise InputError(
            "the model has no tokenizer", hint="put its tokenizer.json into the model's folder"
        )
    return model.tokenizer


def _encode(tokenizer: Tokenizer, texts: dict[str, str]) -> dict[str, list[int]]:
    if not texts:
        raise InputError("no text to observe", hint="give one with --text FILE")
    found = {name: tokenizer.encode(text) for name, text in texts.items()}
    for name, ids in found.items():
        if not ids:
            raise InputError(f"the text {name!r} has no tokens", hint="give a text that has some")
    return found


def _vocabulary(tokenizer: Tokenizer, tracked: list[int], uses: Counter[int]) -> list[TokenUse]:
    return [TokenUse(id=i, text=tokenizer.token_text(i), count=uses[i]) for i in tracked]


def _windows(domains: list[list[int]], length: int) -> Iterator[tuple[int, list[int], bool]]:
    """Domain, ids, and whether they are of the second half of the domain's text."""
    for domain, ids in enumerate(domains):
        for start in range(0, len(ids), length):
            yield domain, ids[start : start + length], 2 * start >= len(ids)


@torch.inference_mode()
def _gather(
    model: Decoder,
    domains: list[list[int]],
    samples: list[Sample],
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
    for domain, ids, is_later in _windows(domains, window):
        ids_T = torch.tensor(ids, device=device)
        # one window at a time: no padding, and no logits but the last token's
        routings = model(ids_T.unsqueeze(0), logits="last", routings=True).routings
        assert routings is not None
        samples[domain].keep(ids, routings)
        for i, routing in enumerate(routings):
            totals[i] = totals[i].plus(
                count(
                    ids_T,
                    routing,
                    domain=domain,
                    num_domains=len(domains),
                    tracked_U=tracked_U,
                    is_later=is_later,
                )
            )
        done += len(ids)
        if progress is not None:
            progress(done, everything)
    return totals


def _layer_report(index: int, mixture: Mixture, counts: LayerCounts) -> LayerReport:
    rows_E = counts.rows_ME.sum(dim=0)
    favourites = measure.favourites(counts.rows_UE, counts.uses_U, _FAVOURITES)
    neighbours = counts.neighbours
    shuffled_token = measure.shuffled_information(counts.rows_UE, _TOKEN_SHUFFLES)
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
        pair_lift=measure.lift(counts.pairs_EE).tolist(),
        tokens_by_expert=counts.pairs_EE.diagonal().tolist(),
        domain_rows=counts.rows_ME.tolist(),
        domain_row_share=measure.domain_row_share(counts.rows_ME).tolist(),
        domain_token_share=measure.domain_token_share(counts.rows_ME, counts.tokens_M).tolist(),
        domain_entropy=measure.domain_entropy(counts.rows_ME),
        information=measure.information(counts.rows_ME),
        shuffled_information=measure.shuffled_information(counts.rows_ME),
        token_information=measure.information(counts.rows_UE),
        shuffled_token_information=sum(shuffled_token) / _TOKEN_SHUFFLES,
        halves_information=measure.halves_information(counts.rows_ME, counts.later_ME),
        vocabulary_rows=counts.rows_UE.tolist(),
        favourites=favourites,
    )
