"""Which numbers of a report become which heat map."""

from collections.abc import Sequence

from expertly.observe.page.maps import HeatMap, heat_map
from expertly.observe.report import LayerReport, Report

MAX_DOMAINS = 8  # with a picture of their own
MAX_PAIRED = 32  # experts of a layer in its picture of pairs
_DEAD = 0.01


def load_maps(report: Report) -> list[HeatMap]:
    """Experts by layers: all texts, then each of the first domains."""
    shares = {"all texts": [layer.load for layer in report.layers]}
    if len(report.tokens_by_domain) > 1:
        for m, name in enumerate(list(report.tokens_by_domain)[:MAX_DOMAINS]):
            shares[name] = [layer.domain_row_share[m] for layer in report.layers]
    return [_load_map(report.layers, name, rows) for name, rows in shares.items()]


def _load_map(
    layers: Sequence[LayerReport], name: str, shares: Sequence[Sequence[float]]
) -> HeatMap:
    times = [[share * len(row) for share in row] for row in shares]
    return heat_map(
        title=f"Load: {name}",
        alt=f"Share of the rows of {name} that went to each expert (columns) of each layer (rows)",
        row_name="layer",
        column_name="expert",
        rows=[str(layer.layer) for layer in layers],
        columns=_names(max(layer.num_experts for layer in layers)),
        times=times,
        texts=[[f"{share:.4f}" for share in row] for row in shares],
        crossed=[(y, x) for y, row in enumerate(times) for x, t in enumerate(row) if t < _DEAD],
    )


def pair_map(layer: LayerReport) -> HeatMap | None:
    """Experts by experts; None where no token chose two."""
    shown = _most_paired(layer)
    if not shown:
        return None
    lifts = [[layer.pair_lift[i][j] for j in shown] for i in shown]
    times = [[None if i == j else x for j, x in enumerate(row)] for i, row in enumerate(lifts)]
    some = "" if len(shown) == layer.num_experts else f", {len(shown)} of {layer.num_experts}"
    return heat_map(
        title=f"Chosen together: layer {layer.layer}{some}",
        alt="How often two experts (row and column) are chosen for one token, in multiples of "
        "chance",
        row_name="expert",
        column_name="expert",
        rows=[str(i) for i in shown],
        columns=[str(i) for i in shown],
        times=times,
        texts=[["-" if x is None else f"{x:.2f}" for x in row] for row in times],
    )


def strongest_pairs(
    layer: LayerReport, min_count: int, top: int
) -> list[tuple[int, int, int, float, float]]:
    """Two experts, their tokens, the share of the first's tokens and the lift; the highest lift
    first. Pairs of fewer tokens than `min_count` are left out."""
    found = [
        (i, j, _pairs(layer, i, j), layer.coactivation[i][j], layer.pair_lift[i][j])
        for i in range(layer.num_experts)
        for j in range(i + 1, layer.num_experts)
        if layer.pair_lift[i][j] > 0 and _pairs(layer, i, j) >= min_count
    ]
    # equal lifts differ in their last digits
    return sorted(found, key=lambda pair: (-round(pair[4], 6), pair[0], pair[1]))[:top]


def domain_map(report: Report, layer: LayerReport) -> HeatMap:
    """Domains by experts: how much more of a domain's rows an expert has than of all rows."""
    names = list(report.tokens_by_domain)
    times = [
        [share / load if load else 0.0 for share, load in zip(row, layer.load, strict=True)]
        for row in layer.domain_row_share
    ]
    return heat_map(
        title=f"Domains: layer {layer.layer}",
        alt="Share of a domain's rows (row) at each expert (column), in multiples of the "
        "expert's share of all rows",
        row_name="domain",
        column_name="expert",
        rows=names[: 4 * MAX_DOMAINS],
        columns=_names(layer.num_experts),
        times=times[: 4 * MAX_DOMAINS],
        texts=[[f"{x:.2f}" for x in row] for row in times[: 4 * MAX_DOMAINS]],
    )


def _names(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def _pairs(layer: LayerReport, i: int, j: int) -> int:
    return round(layer.coactivation[i][j] * layer.tokens_by_expert[i])


def _most_paired(layer: LayerReport) -> list[int]:
    """All experts with a partner, or those in the pairs with the highest lift."""
    if not any(map(any, layer.pair_lift)):
        return []
    if layer.num_experts <= MAX_PAIRED:
        return list(range(layer.num_experts))
    best = sorted(range(layer.num_experts), key=lambda i: (-max(layer.pair_lift[i]), i))
    return sorted(best[:MAX_PAIRED])
