"""How much the choice of an expert says about where a token is from, against what chance says."""

import math
from collections.abc import Sequence

Table = Sequence[Sequence[float]]


def mutual_information(counts: Table) -> float:
    """Bits that a row's expert (column) tells of its domain (row) and the other way round:
    sum of p(m, e) log2(p(m, e) / (p(m) p(e))), from counts."""
    total = sum(map(sum, counts))
    if not total:
        return 0.0
    of_row = [sum(row) / total for row in counts]
    of_column = [sum(column) / total for column in zip(*counts, strict=True)]
    bits = 0.0
    for row, p_row in zip(counts, of_row, strict=True):
        for n, p_column in zip(row, of_column, strict=True):
            if n:
                bits += n / total * math.log2(n / total / (p_row * p_column))
    return max(0.0, bits)


def information_by_chance(counts: Table) -> float:
    """Bits that independent draws would seem to tell on average in as many rows: (M - 1)(E - 1)
    / (2 N ln 2), of the rows and columns that occur (Miller, 1955)."""
    total = sum(map(sum, counts))
    rows = sum(any(row) for row in counts)
    columns = sum(any(column) for column in zip(*counts, strict=True))
    if not total:
        return 0.0
    return max(0, rows - 1) * max(0, columns - 1) / (2 * total * math.log(2))
