"""The page for a browser: whole, alone, escaped, with the numbers of hand-made routings."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hand_routing import routing_of

from expertly.config import Mixture, Router
from expertly.observe import Report
from expertly.observe.gather import count, nothing
from expertly.observe.page import MAX_BYTES, sample_size, to_html
from expertly.observe.page.findings import findings
from expertly.observe.page.maps import heat_map, level
from expertly.observe.page.pictures import MAX_PAIRED, pair_map, strongest_pairs
from expertly.observe.report import TokenChoices, TokenUse
from expertly.observe.sample import Sample
from expertly.observe.watch import _layer_report

VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = "</script></style></title>\"'><img src=x onerror=alert(1)>\x00\u202e"
MIXTURE = Mixture(num_experts=4, num_chosen=2, expert_size=6, router=Router(norm_p=1.0))
# tokens of two domains: the experts of each, the most wanted first
CHOSEN = ([[0, 1], [0, 1], [0, 2], [1, 0]], [[2, 0], [2, 1]])


class Page(HTMLParser):
    """Tags that are open, every attribute, the cells of every table by its caption's section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs] or [(tag, "", None)]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *heads: str) -> list[list[str]]:
        """The rows under the first table that begins with these heads."""
        return next(rows[1:] for rows in self.tables if rows[0][: len(heads)] == list(heads))


def report_of(
    *, chosen: tuple[list[list[int]], ...] = CHOSEN, names: tuple[str, ...] = ("verse", "sums")
) -> Report:
    """One layer that chose as `chosen` says; token ids are 0 to 3."""
    tracked_U, total = torch.arange(4), nothing(4, len(chosen), 4)
    samples = {}
    for domain, experts in enumerate(chosen):
        ids, routing = list(range(len(experts))), routing_of(experts, 4)
        seen = count(
            torch.tensor(ids), routing, domain=domain, num_domains=len(chosen), tracked_U=tracked_U
        )
        total = total.plus(seen)
        kept = Sample(size=9)
        kept.keep(ids, [routing])
        samples[names[domain]] = kept.tokens(Letters())  # type: ignore[arg-type]
    return Report(
        tokens_by_domain={name: len(x) for name, x in zip(names, chosen, strict=True)},
        min_count=1,
        vocabulary=[TokenUse(id=i, text="abcd"[i], count=1) for i in range(4)],
        layers=[_layer_report(3, MIXTURE, total)],
        samples=samples,
    )


class Letters:
    def token_text(self, token_id: int) -> str:
        return "abcd"[token_id]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(to_html(report_of(), "a model"))


def test_every_tag_is_closed_in_order(page: Page) -> None:
    assert page.open == []
    assert len(page.tables) > 6


def test_nothing_is_fetched_from_anywhere() -> None:
    html = to_html(report_of(), "a model")
    tags = {tag for tag, _, _ in Page(html).attributes}
    names = {name for _, name, _ in Page(html).attributes}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "video", "audio"}
    assert not names & {"src", "href", "srcset", "xlink:href", "action", "data", "style-src"}
    assert not any(word in html for word in ("http:", "https:", "url(", "@import", "fetch("))


def test_there_is_one_script_and_it_is_small() -> None:
    html = to_html(report_of(), "a model")
    assert html.count("<script") == 1
    assert len(html.partition("<script>")[2].partition("</script>")[0]) < 2000


def test_the_page_is_for_narrow_and_wide_and_for_light_and_dark(page: Page) -> None:
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert "prefers-color-scheme: dark" in "".join(page.texts)


def test_every_picture_says_in_words_what_it_is(page: Page) -> None:
    pictures = [name for tag, name, _ in page.attributes if tag == "svg"]
    assert pictures.count("role") == pictures.count("aria-label") == 5
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert all(labels)


def test_the_loads_are_those_of_the_routing(page: Page) -> None:
    # 12 rows: 5 of expert 0, 4 of 1, 3 of 2; verse 4, 3, 1 of 8; sums 1, 1, 2 of 4
    loads = [rows[1] for rows in page.tables if rows[0] == ["layer", "0", "1", "2", "3"]]
    assert loads == [
        ["3", "0.4167", "0.3333", "0.2500", "0.0000"],
        ["3", "0.5000", "0.3750", "0.1250", "0.0000"],
        ["3", "0.2500", "0.2500", "0.5000", "0.0000"],
    ]


def test_the_summary_has_the_measures_of_the_routing(page: Page) -> None:
    # the busiest has 5 of 12 rows, 5/3 of the fair share
    row = page.table("layer", "experts")[0]
    assert row[:5] == ["3", "4", "2", "12", "0.67"]
    assert row[7] == "3"


def test_pairs_are_counted_and_named(page: Page) -> None:
    pairs = {row[0]: row[1:3] for row in page.table("experts", "tokens with both")}
    assert pairs == {
        "0 and 1": ["3", "60.0%"],
        "0 and 2": ["2", "40.0%"],
        "1 and 2": ["1", "25.0%"],
    }


def test_pairs_of_few_tokens_are_not_called_strong() -> None:
    layer = report_of().layers[0]
    assert [pair[:3] for pair in strongest_pairs(layer, 2, 8)] == [(0, 1, 3), (0, 2, 2)]


def test_domains_are_held_against_all_texts(page: Page) -> None:
    # expert 2: 1/8 of the rows of verse and 2/4 of those of sums, over 3/12
    rows = page.table("domain", "0")
    assert [row[3] for row in rows] == ["0.50", "2.00"]


def test_information_is_beside_its_shuffles(page: Page) -> None:
    layer = report_of().layers[0]
    row = page.table("layer", "rows", "bits")[0]
    assert row[:3] == ["3", "12", f"{layer.information:.4f}"]
    assert row[4] == f"{max(layer.shuffled_information):.4f}"


def test_a_piece_of_text_has_its_first_expert_and_the_weights_of_all(page: Page) -> None:
    titles = [value for tag, name, value in page.attributes if (tag, name) == ("span", "title")]
    assert titles[:4] == [
        "0: 1.00, 1: 1.00",
        "0: 1.00, 1: 1.00",
        "0: 1.00, 2: 1.00",
        "1: 1.00, 0: 1.00",
    ]
    classes = [value for tag, name, value in page.attributes if (tag, name) == ("span", "class")]
    assert [c for c in classes if c and c.startswith("e")] == ["e0", "e0", "e0", "e1", "e2", "e2"]


def test_hostile_texts_names_and_models_stay_text() -> None:
    report = report_of(names=(HOSTILE, "sums"))
    hostile = replace(
        report,
        vocabulary=[TokenUse(id=i, text=HOSTILE, count=1) for i in range(4)],
        samples={HOSTILE: [TokenChoices(text=HOSTILE, experts=[[(0, 1.0)]])]},
    )
    html = to_html(hostile, HOSTILE)
    page = Page(html)
    assert page.open == []
    assert not {"img", "onerror"} & {x for tag, name, _ in page.attributes for x in (tag, name)}
    assert html.count("</script>") == html.count("</style>") == 1
    assert "\x00" not in html and "\u202e" not in html
    assert "<img src=x onerror=alert(1)>" in "".join(page.texts)


def test_one_text_has_no_domains_to_compare() -> None:
    page = Page(to_html(report_of(chosen=CHOSEN[:1], names=("verse",)), "a model"))
    assert "One text: there are no domains to compare." in " ".join(page.texts)
    assert not any(rows[0][0] == "domain" for rows in page.tables)


def test_a_layer_of_one_expert_a_token_has_no_pairs() -> None:
    report = report_of(chosen=([[0], [1]], [[2]]))
    assert pair_map(report.layers[0]) is None
    assert "No token chose two experts here." in to_html(report, "a model")


def test_findings_name_the_layers_beyond_a_threshold() -> None:
    layer = report_of().layers[0]
    fine = replace(layer, num_rows=4000, max_violation=1.0, entropy=0.9, dead_experts=[])
    bad = replace(layer, layer=5, num_rows=399, max_violation=1.01, entropy=0.89, dead_experts=[1])
    report = replace(report_of(), layers=[fine, bad])
    assert [finding.kind for finding in findings(report)[:4]] == ["look"] * 4
    assert all(finding.text.endswith(": layer 5.") for finding in findings(report)[:4])
    kinds = [finding.kind for finding in findings(replace(report, layers=[fine]))]
    assert kinds == ["fine"] * 4 + ["note"]


def test_information_within_the_shuffles_is_called_chance() -> None:
    layer = replace(report_of().layers[0], information=0.1, shuffled_information=[0.05, 0.1])
    said = findings(replace(report_of(), layers=[layer]))[-1].text
    assert said == "No layer's experts follow the domains by more than chance."
    layer = replace(layer, information=0.2, halves_information=0.0625)
    said = findings(replace(report_of(), layers=[layer]))[-1].text
    assert "1 of 1 layers" in said
    assert "0.200 bits of at most 0.918; shuffled at most 0.100; halves of one text 0.062" in said


@pytest.mark.parametrize(
    ("times", "expected"), [(0.0, 0), (0.33, 0), (0.34, 1), (0.99, 2), (1.0, 3), (3.0, 9), (50, 9)]
)
def test_colours_have_three_steps_a_multiple(times: float, expected: int) -> None:
    assert level(times) == expected


def test_a_cell_is_drawn_where_its_row_and_column_meet() -> None:
    drawn = heat_map(
        title="t",
        alt="a",
        row_name="r",
        column_name="c",
        rows=["0"],
        columns=["0", "1"],
        times=[[1.0, None]],
        texts=[["1", "-"]],
        crossed=[(0, 1)],
    )
    assert drawn.paths[3] == "M76 18h28v16h-28z"
    assert "".join(drawn.paths) == drawn.paths[3]
    assert drawn.crosses.startswith("M105 23")


def large_report(num_layers: int, num_experts: int) -> Report:
    small, wide = report_of(), [1 / num_experts] * num_experts
    shares = [[(i * j % 7) / 2 for j in range(num_experts)] for i in range(num_experts)]
    layer = replace(
        small.layers[0],
        num_experts=num_experts,
        load=wide,
        coactivation=shares,
        pair_lift=shares,
        tokens_by_expert=[100] * num_experts,
        domain_row_share=[[x * (1 + i % 3) for i, x in enumerate(wide)]] * 4,
        vocabulary_rows=[[5] * num_experts] * 4,
        favourites=[[0, 1, 2, 3] * 2] * num_experts,
    )
    names = ["drama", "code", "maths", "swahili"]
    size = sample_size(num_layers, 8, len(names))
    token = TokenChoices(text=" word", experts=[[(127, 0.125)] * 8] * num_layers)
    return replace(
        small,
        tokens_by_domain=dict.fromkeys(names, 4096),
        layers=[replace(layer, layer=i) for i in range(num_layers)],
        samples={name: [token] * size for name in names},
    )


def test_a_page_of_48_layers_of_128_experts_stays_below_the_limit() -> None:
    report = large_report(48, 128)
    assert len(to_html(report, "large").encode()) < MAX_BYTES
    shown = pair_map(report.layers[0])
    assert shown is not None and len(shown.rows) == MAX_PAIRED
    assert len(strongest_pairs(report.layers[0], 1, 8)) == 8


def test_fewer_tokens_are_shown_where_each_has_many_experts() -> None:
    assert sample_size(4, 2, 1) == 240
    assert sample_size(48, 8, 1) == 240
    assert sample_size(94, 8, 1) == 132
    assert sample_size(4, 2, 5) == 240
    assert sample_size(48, 8, 4) == 65
    assert sample_size(48, 8, 100) == 8


def test_the_templates_never_switch_escaping_off() -> None:
    folder = Path(__file__).parents[2] / "src" / "expertly" / "observe" / "page"
    for template in folder.glob("*.html"):
        text = template.read_text(encoding="utf-8")
        assert "safe" not in text and "autoescape" not in text
