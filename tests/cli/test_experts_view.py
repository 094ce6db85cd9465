import json
import re
import subprocess
import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from expertly.cli.experts_view import Consulted, Share, View, colour_of, to_json

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def consulted(text: str, *layers: list[tuple[int, float]]) -> Consulted:
    shares = tuple(tuple(Share(*share) for share in layer) for layer in layers)
    return Consulted(label=text, text=text, token_id=7, shares=shares)


THE = consulted(" the", [(3, 0.6), (1, 0.4)], [(0, 0.9), (2, 0.1)])
NEW = consulted("\n", [(3, 0.5), (0, 0.5)], [(12, 0.75), (1, 0.25)])
PLAIN = View(layers=[1, 3], width=60, has_colour=False)
BRIGHT = View(layers=[1, 3], width=60, has_colour=True)


def test_a_line_has_the_token_and_a_column_a_layer() -> None:
    assert PLAIN.line(THE) == "' the'            3:60% 1              0:90% 2"
    assert PLAIN.line(NEW) == "'\\n'              3:50% 0              12:75% 1"


def test_the_header_says_what_the_columns_are() -> None:
    first, second = PLAIN.header().split("\n")
    assert "2 mixture layers (strongest:share, then as many others as fit)" in first
    assert second.index("layer 1") == PLAIN.line(THE).index("3:60%")
    assert second.index("layer 3") == PLAIN.line(THE).index("0:90%")


def test_a_narrow_view_shows_the_strongest_experts_only() -> None:
    token = consulted("x", [(12, 0.5), (3, 0.2), (104, 0.2), (4, 0.1)])
    # 16 cells of token, a margin of 2, and one of 2 after the column
    for cells, experts in (
        (7, "12:50%"),
        (8, "12:50% 3"),
        (12, "12:50% 3 104"),
        (13, "12:50% 3 104"),
    ):
        view = View(layers=[0], width=16 + 2 + cells + 2, has_colour=False)
        assert view.line(token).split(maxsplit=1)[1] == experts
    assert View(layers=[0], width=34, has_colour=False).line(token).endswith("12:50% 3 104 4")


def test_a_model_of_many_layers_shows_some_evenly_spread() -> None:
    view = View(layers=range(48), width=100, has_colour=False)
    token = consulted("x", *[[(layer, 1.0)] for layer in range(48)])
    assert "8 mixture layers of 48; --json has all" in view.header()
    assert re.findall(r"layer (\d+)", view.header()) == [
        "0",
        "7",
        "13",
        "20",
        "27",
        "34",
        "40",
        "47",
    ]
    shown = re.findall(r"(\d+):100%", view.line(token))
    assert shown == ["0", "7", "13", "20", "27", "34", "40", "47"]


def test_the_dominant_expert_has_the_largest_share_of_any_layer() -> None:
    assert THE.dominant() == (1, 0)
    assert NEW.dominant() == (1, 12)
    # of equal shares the first layer's
    assert consulted("x", [(4, 0.5)], [(5, 0.5)]).dominant() == (0, 4)
    assert consulted("x").dominant() is None


def test_a_token_of_unknown_experts_is_shown_alone() -> None:
    assert PLAIN.line(consulted("end")) == "'end'"
    assert BRIGHT.line(consulted("end")) == "'end'"


def test_colours_add_nothing_but_colour() -> None:
    for token in (THE, NEW):
        assert ESCAPE.sub("", BRIGHT.line(token)) == PLAIN.line(token)
    tokens = [THE, NEW, THE]
    assert ESCAPE.sub("", BRIGHT.text("I say", tokens)) == PLAIN.text("I say", tokens)
    assert ESCAPE.sub("", BRIGHT.legend(tokens)) == PLAIN.legend(tokens)


def test_a_token_has_the_colour_of_its_dominant_expert() -> None:
    colour = f"48;5;{colour_of(1, 0)}m"
    assert colour in BRIGHT.line(THE).partition("3:60%")[0]
    assert BRIGHT.text("", [THE]) == f"\x1b[30;{colour} the\x1b[0m"


def test_no_colour_runs_on_over_a_line_break() -> None:
    token = consulted("a\n\nb", [(1, 1.0)])
    for line in View(layers=[0], width=80, has_colour=True).text("", [token]).split("\n"):
        assert line == "" or (line.startswith("\x1b[30;") and line.endswith("\x1b[0m"))


def test_the_legend_counts_the_dominant_experts() -> None:
    tokens = [THE, NEW, THE, consulted("end")]
    assert PLAIN.legend(tokens) == (
        "strongest expert of most tokens: layer 3 expert 0 (2), layer 3 expert 12 (1)"
    )
    assert PLAIN.legend([]) == ""
    many = [consulted("x", [(e, 1.0)]) for e in range(11)]
    assert View(layers=[0], width=80, has_colour=False).legend(many).endswith(", 3 others")


def test_text_that_would_steer_the_terminal_is_spelled_out() -> None:
    token = consulted("\x1b[2J", [(1, 1.0)], [(1, 1.0)])
    for shown in (PLAIN.line(token), PLAIN.text("\x07", [token])):
        assert "\x1b" not in shown and "\x07" not in shown


def test_colours_are_stable_and_readable_on_black_text() -> None:
    assert [colour_of(0, e) for e in range(4)] == [colour_of(0, e) for e in range(4)]
    for layer in range(6):
        colours = [colour_of(layer, e) for e in range(64)]
        assert all(16 <= c <= 231 for c in colours)
        # one channel at its fullest keeps black text readable
        assert all(5 in divmod((c - 16) // 6, 6) or (c - 16) % 6 == 5 for c in colours)
        assert all(a != b for a, b in pairwise(colours))
        assert len(set(colours)) >= 30


@given(
    st.text(max_size=30),
    st.lists(st.lists(st.tuples(st.integers(0, 127), st.floats(0, 1)), min_size=8, max_size=8)),
    st.integers(20, 200),
)
def test_a_line_fits_its_width_and_its_own_header(text: str, layers: list, width: int) -> None:
    token = consulted(text, *layers)
    if not layers:
        return
    view = View(layers=range(len(layers)), width=width, has_colour=False)
    line = view.line(token)
    assert "\n" not in line
    assert cell_len(line) <= max(width, 28)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(20, 200))
def test_each_title_stands_over_its_column(num_layers: int, num_chosen: int, width: int) -> None:
    view = View(layers=range(num_layers), width=width, has_colour=False)
    token = consulted("x", *[[(layer, 0.5)] * num_chosen for layer in range(num_layers)])
    titles = view.header().split("\n")[1]
    found = list(re.finditer(r"layer (\d+)", titles))
    assert found
    for title in found:
        assert view.line(token)[title.start() :].startswith(f"{title[1]}:50%")


def test_json_has_all_layers_and_experts() -> None:
    value = to_json(NEW, [1, 3])
    assert json.loads(json.dumps(value)) == {
        "token": "\n",
        "experts": [
            {"layer": 1, "experts": [3, 0], "weights": [0.5, 0.5]},
            {"layer": 3, "experts": [12, 1], "weights": [0.75, 0.25]},
        ],
    }


def test_the_text_is_what_tokens_add_and_the_lines_what_they_are() -> None:
    part = Consulted(label="\N{REPLACEMENT CHARACTER}", text="", token_id=1, shares=())
    last = Consulted(label="\N{REPLACEMENT CHARACTER}", text="é", token_id=2, shares=())
    assert PLAIN.text("caf", [part, last]) == "café"
    assert PLAIN.line(part) == PLAIN.line(last) == "'\N{REPLACEMENT CHARACTER}'"


def test_the_view_needs_no_torch() -> None:
    program = "import sys, expertly.cli.experts_view; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
