"""The file: a template with its style and script in it, every text of others escaped."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from expertly.observe.page import maps, pictures
from expertly.observe.page.findings import findings, is_special
from expertly.observe.report import LayerReport, Report

MAX_BYTES = 10_000_000
_TOKENS = 240
_CHOICES = 100_000
_PAIRS = 8
_FAVOURITES = 8
_FEWEST_FAVOURITES = 3
_ALL_FAVOURITES = 50_000


def sample_size(num_layers: int, num_chosen: int, num_texts: int) -> int:
    """Tokens of each text that the page shows with their experts: fewer where each has many."""
    return max(8, min(_TOKENS, _CHOICES // (num_layers * num_chosen * num_texts)))


def to_html(report: Report, model: str) -> str:
    """The page; `model` is what its reader calls the model. A large model's maps of pairs show
    a part of its experts, and maps by domain are of the first few: the file stays below
    `MAX_BYTES` for 48 layers of 128 experts."""
    template = _environment().get_template("page.html")
    return template.render(
        model=model,
        report=report,
        tokens=sum(report.tokens_by_domain.values()),
        findings=findings(report),
        load_maps=pictures.load_maps(report),
        views=[_view(report, i) for i in range(len(report.layers))],
        has_domains=len(report.tokens_by_domain) > 1,
        levels=maps.LEVELS,
        per_time=maps.PER_TIME,
        max_domains=pictures.MAX_DOMAINS,
        num_experts=max(layer.num_experts for layer in report.layers),
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _view(report: Report, index: int) -> dict[str, object]:
    """What is shown when this layer is chosen."""
    layer = report.layers[index]
    return {
        "layer": layer,
        "is_special": is_special(layer),
        "pair_map": pictures.pair_map(layer),
        "pairs": pictures.strongest_pairs(layer, report.min_count, _PAIRS),
        "domain_map": pictures.domain_map(report, layer),
        "favourites": [_favourites(report, layer, e) for e in range(layer.num_experts)],
        "samples": {
            name: [(token.text, token.experts[index]) for token in tokens]
            for name, tokens in report.samples.items()
        },
    }


def _favourites(report: Report, layer: LayerReport, expert: int) -> list[tuple[str, float]]:
    """Tokens and the share of their rows that the expert took."""
    room = _ALL_FAVOURITES // sum(layer.num_experts for layer in report.layers)
    top = max(_FEWEST_FAVOURITES, min(_FAVOURITES, room))
    return [
        (report.vocabulary[u].text, rows[expert] / sum(rows))
        for u in layer.favourites[expert][:top]
        for rows in [layer.vocabulary_rows[u]]
    ]


def _spelled(value: object) -> object:
    """Control characters as python spells them: some are no HTML, some turn text around."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in value)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
