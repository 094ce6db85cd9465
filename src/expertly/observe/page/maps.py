"""Heat maps: numbers as coloured cells, one path a colour, beside the table they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = 10
PER_TIME = 3  # colours from one multiple of what is expected to the next
_ROW_HEIGHT = 16
_LEFT = 76
_TOP = 18
_WIDTH = 768
_CHARACTER = 7


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """`texts` are the numbers as the table shows them; `paths` of each colour's cells."""

    title: str
    alt: str
    row_name: str
    column_name: str
    rows: list[str]
    columns: list[str]
    texts: list[list[str]]
    paths: list[str]
    crosses: str
    cell_width: int

    left: int = _LEFT
    top: int = _TOP
    row_height: int = _ROW_HEIGHT

    @property
    def width(self) -> int:
        return self.left + self.cell_width * len(self.columns) + 2

    @property
    def height(self) -> int:
        return self.top + self.row_height * len(self.rows) + 2

    @property
    def row_ticks(self) -> list[tuple[int, str]]:
        """Height and text of each row's name."""
        names = (_cut(name, self.left // _CHARACTER - 1) for name in self.rows)
        return [(self.top + self.row_height * y + 12, name) for y, name in enumerate(names)]

    @property
    def column_ticks(self) -> list[tuple[float, str]]:
        """Middle and text of those columns' names that have room."""
        room = (max(map(len, self.columns), default=1) + 1) * _CHARACTER
        step = -(-room // self.cell_width)
        return [
            (self.left + self.cell_width * (x + 0.5), name)
            for x, name in enumerate(self.columns)
            if x % step == 0
        ]


def heat_map(
    *,
    title: str,
    alt: str,
    row_name: str,
    column_name: str,
    rows: Sequence[str],
    columns: Sequence[str],
    times: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    crossed: Sequence[tuple[int, int]] = (),
) -> HeatMap:
    """`times` says how dark a cell is: its number as a multiple of what is expected, None for a
    cell that has none; `crossed` are (row, column) of cells with a cross."""
    width = max(6, min(28, _WIDTH // max(1, len(columns))))
    return HeatMap(
        title=title,
        alt=alt,
        row_name=row_name,
        column_name=column_name,
        rows=list(rows),
        columns=list(columns),
        texts=[list(row) for row in texts],
        paths=_paths(times, width),
        crosses="".join(_cross(x, y, width) for y, x in crossed),
        cell_width=width,
    )


def level(times: float) -> int:
    """The colour of a multiple of what is expected: three steps a multiple, the last for three
    times and more."""
    # 1.0 should not fall below its step for the last digit of a division
    return min(LEVELS - 1, int(times * PER_TIME + 1e-9))


def _paths(times: Sequence[Sequence[float | None]], width: int) -> list[str]:
    paths = [""] * LEVELS
    for y, row in enumerate(times):
        for x, value in enumerate(row):
            if value is not None:
                start = f"M{_LEFT + x * width} {_TOP + y * _ROW_HEIGHT}"
                paths[level(value)] += f"{start}h{width}v{_ROW_HEIGHT}h-{width}z"
    return paths


def _cross(x: int, y: int, width: int) -> str:
    left, top, size = _LEFT + x * width + 1, _TOP + y * _ROW_HEIGHT + 5, min(6, width - 2)
    return f"M{left} {top}l{size} {size}m0-{size}l-{size} {size}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
