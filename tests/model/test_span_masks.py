"""Which keys a query sees: every mask against a loop over queries and keys."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import MIXTURE, PLAIN, build, config_of, draw_ids, relative_error

from expertly.config import Layer
from expertly.model import Cache
from expertly.model.span import Span

CONFIG = config_of()


@st.composite
def columns(draw: st.DrawFn) -> tuple[list[list[bool]], int]:
    """Masks of two sequences of equal length, and how many columns are cached already."""
    length = draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    return [draw(row), draw(row)], draw(st.integers(0, length - 1))


def span_of(mask: list[list[bool]], before: int) -> Span:
    mask_BN = torch.tensor(mask)
    cache = None
    if before:
        cache = Cache(CONFIG, batch_size=len(mask))
        cache.admit(mask_BN[:, :before])
    return Span(mask_BN[:, before:], torch.zeros(len(mask), len(mask[0]) - before), cache)


def sees(mask: list[bool], query: int, key: int, window: int | None) -> bool:
    """A token sees the tokens up to itself, the last `window` of them."""
    between = sum(mask[key + 1 : query + 1])
    is_near = window is None or between < window
    return mask[key] and key <= query and is_near


@given(columns(), st.one_of(st.none(), st.integers(1, 10)))
def test_a_token_sees_the_tokens_before_it_within_its_window(case, window) -> None:
    mask, before = case
    seen_BSN = span_of(mask, before).seen(window)
    for b, row in enumerate(mask):
        for query in range(before, len(row)):
            expected = [sees(row, query, key, window) for key in range(len(row))]
            if seen_BSN is None:
                assert expected == [key <= query for key in range(len(row))]
            elif row[query]:
                assert seen_BSN[b, query - before].tolist() == expected
            else:
                assert seen_BSN[b, query - before, query]


@given(columns(), st.one_of(st.none(), st.integers(1, 10)))
def test_there_is_no_mask_exactly_when_all_is_plainly_causal(case, window) -> None:
    mask, before = case
    length = len(mask[0])
    is_plain = all(map(all, mask)) and not before and (window is None or window >= length)
    assert (span_of(mask, before).seen(window) is None) == is_plain


def test_a_window_of_two_over_four_tokens_written_out() -> None:
    seen = span_of([[True] * 4], 0).seen(2)
    assert seen[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_a_window_counts_tokens_and_not_columns_of_padding() -> None:
    seen = span_of([[False, True, False, True, True]], 0).seen(2)
    assert seen[0, 3].tolist() == [False, True, False, True, False]
    assert seen[0, 4].tolist() == [False, False, False, True, True]


def test_positions_count_the_tokens_before() -> None:
    span = span_of([[False, False, True, True], [True, True, True, True]], 0)
    assert span.positions_BN.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_positions_go_on_from_the_cache() -> None:
    span = span_of([[False, True, True, True, True]], 3)
    assert span.positions_BN[:, span.before :].tolist() == [[2, 3]]
    assert span.mask_BS.tolist() == [[True, True]]


@pytest.mark.parametrize("window", [1, 3, None])
def test_a_layer_reaches_back_as_far_as_its_window(window) -> None:
    attention = dataclasses.replace(PLAIN, window=window)
    config = config_of(Layer(attention=attention, feed_forward=MIXTURE))
    model = build(config)
    ids_BS = draw_ids(config, 1, 8)
    with torch.no_grad():
        plain = model(ids_BS).logits[0, -1]
        for column in range(8):
            changed = ids_BS.clone()
            changed[0, column] = (changed[0, column] + 1) % config.vocab_size
            error = relative_error(model(changed).logits[0, -1], plain)
            is_seen = window is None or column > 7 - window
            assert error > 1e-3 if is_seen else error < 1e-5


@pytest.mark.parametrize("name", ["all", "last"])
def test_a_sequence_of_nothing_but_padding_is_not_nan(name) -> None:
    model = build(config_of())
    mask_BS = torch.tensor([[False] * 4, [True] * 4])
    with torch.no_grad():
        output = model(draw_ids(model.config, 2, 4), mask_BS, logits=name)
    assert output.logits.isfinite().all()
