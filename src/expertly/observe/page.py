"""The report as one HTML file that needs nothing else: no network, no other file."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from expertly.observe.information import information_by_chance, mutual_information
from expertly.observe.report import LayerReport, Report
from expertly.observe.sample import Reading

# shades of a picture, from nothing to `MOST_TIMES` its fair share or more
SHADES = 10
MOST_TIMES = 3.0
# what is said to be fine: a load this even, experts this busy
_EVEN_ENTROPY, _EVEN_VIOLATION = 0.9, 2.0
_PAIRS, _TOKENS_AN_EXPERT, _SPECIALISTS = 10, 8, 8
# layers whose pairs of experts are all drawn: more would make the file too large to open
_MOST_CELLS = 600_000


@dataclass(frozen=True, kw_only=True)
class Square:
    """A cell of a picture: where, how dark, what it says."""

    x: int
    y: int
    shade: int
    says: str


def page(report: Report, readings: Sequence[Reading], model: str) -> str:
    """HTML; everything from texts and vocabularies is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    source = files("expertly.observe").joinpath("page.html.j2").read_text("utf-8")
    drawn = _drawn_layers(report.layers)
    return environment.from_string(source).render(
        model=model,
        report=report,
        total=sum(report.tokens_by_domain.values()),
        domains=list(report.tokens_by_domain),
        findings=[(layer, findings(layer)) for layer in report.layers],
        loads=_loads(report),
        pairs={layer.layer: strongest_pairs(layer, report.min_count) for layer in report.layers},
        lifts={layer.layer: _lifts(layer) for layer in drawn},
        information=[(layer.layer, *information(layer, report)) for layer in report.layers],
        specialists=[(layer.layer, _specialists(layer, report)) for layer in report.layers],
        readings=readings,
        shades=range(SHADES),
        most_times=MOST_TIMES,
        fair_shade=shade_of(1.0) + 1,
        thresholds=(_EVEN_ENTROPY, _EVEN_VIOLATION),
    )


def shade_of(times_fair: float) -> int:
    """0 for nothing, at least 1 for something, the last for `MOST_TIMES` a fair share."""
    if times_fair <= 0:
        return 0
    return min(SHADES - 1, max(1, round(times_fair / MOST_TIMES * (SHADES - 1))))


def findings(layer: LayerReport) -> list[str]:
    """What is not as it should be, in words."""
    found = []
    if layer.dead_experts:
        names = ", ".join(map(str, layer.dead_experts))
        found.append(f"experts {names} get under 1% of a fair share of rows: dead on these texts")
    if layer.entropy < _EVEN_ENTROPY:
        found.append(f"the load is uneven: entropy {layer.entropy:.2f} of 1")
    if layer.max_violation > _EVEN_VIOLATION:
        busiest = layer.load.index(max(layer.load))
        times = 1 + layer.max_violation
        found.append(f"expert {busiest} gets {times:.1f} times its fair share")
    return found


def lift(layer: LayerReport, i: int, j: int) -> float:
    """How often tokens of expert i also choose j, as times what independent choices would give:
    the share of all tokens that choose j."""
    tokens = layer.num_rows / layer.num_chosen
    share = layer.tokens_by_expert[j] / tokens if tokens else 0.0
    return layer.coactivation[i][j] / share if share else 0.0


def strongest_pairs(layer: LayerReport, min_count: int) -> list[tuple[int, int, float, int]]:
    """Experts i < j, their lift and their common tokens, the strongest first."""
    found = []
    for i in range(layer.num_experts):
        for j in range(i + 1, layer.num_experts):
            common = round(layer.coactivation[i][j] * layer.tokens_by_expert[i])
            if common >= min_count:
                found.append((i, j, lift(layer, i, j), common))
    return sorted(found, key=lambda pair: -pair[2])[:_PAIRS]


def information(layer: LayerReport, report: Report) -> tuple[float, float, float, float]:
    """Bits between expert and domain, and between expert and token id, each with chance's."""
    rows = [
        [share * tokens * layer.num_chosen for share in shares]
        for shares, tokens in zip(
            layer.domain_row_share, report.tokens_by_domain.values(), strict=True
        )
    ]
    ids = layer.vocabulary_rows or [[0] * layer.num_experts]
    return (
        mutual_information(rows),
        information_by_chance(rows),
        mutual_information(ids),
        information_by_chance(ids),
    )


def _loads(report: Report) -> list[tuple[str, list[Square]]]:
    """A picture of all texts and one a domain: expert by layer."""
    pictures = [("all texts", [layer.load for layer in report.layers])]
    for n, name in enumerate(report.tokens_by_domain):
        pictures.append((name, [layer.domain_row_share[n] for layer in report.layers]))
    return [
        (name, [square for y, shares in enumerate(rows) for square in _strip(report, y, shares)])
        for name, rows in pictures
    ]


def _strip(report: Report, y: int, shares: Sequence[float]) -> list[Square]:
    layer, fair = report.layers[y].layer, report.layers[y].fair_row_share
    return [
        Square(
            x=x,
            y=y,
            shade=shade_of(share / fair),
            says=f"layer {layer}, expert {x}: {share:.1%} ({share / fair:.1f}x fair)",
        )
        for x, share in enumerate(shares)
    ]


def _drawn_layers(layers: Sequence[LayerReport]) -> list[LayerReport]:
    found: list[LayerReport] = []
    cells = 0
    for layer in layers:
        cells += layer.num_experts**2
        if cells > _MOST_CELLS:
            break
        found.append(layer)
    return found


def _lifts(layer: LayerReport) -> str:
    """A digit a pair, row by row: its shade."""
    size = range(layer.num_experts)
    return "".join("-" if i == j else str(shade_of(lift(layer, i, j))) for i in size for j in size)


def _specialists(layer: LayerReport, report: Report) -> list[dict[str, Any]]:
    """Of each domain the expert that most of its tokens consult against the fair share."""
    found = []
    for n, name in enumerate(report.tokens_by_domain):
        shares = layer.domain_token_share[n]
        expert = max(range(layer.num_experts), key=lambda e: shares[e])
        words = [report.vocabulary[u].text for u in layer.favourites[expert][:_TOKENS_AN_EXPERT]]
        found.append(
            {
                "domain": name,
                "expert": expert,
                "share": shares[expert],
                "times": shares[expert] / layer.fair_token_share,
                "tokens": words,
            }
        )
    return found[:_SPECIALISTS]
