from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.errors import InputError
from expertly.train.pack import Packed, Span
from expertly.train.sampler import Sampler


def packed(*lengths: int, weights: tuple[float, ...] = ()) -> Packed:
    """Tokens that count up from 0, so that a token is its own place."""
    edges = np.cumsum([0, *lengths]).tolist()
    spans = tuple(
        Span(name=f"d{i}", start=edges[i], end=edges[i + 1], weight=weights[i] if weights else 1.0)
        for i in range(len(lengths))
    )
    tokens = np.arange(edges[-1], dtype=np.uint16)
    return Packed(tokens=tokens, spans=spans, fingerprint="")


def epoch_starts(sampler: Sampler, epoch: int) -> list[int]:
    rows = sampler.sequences(epoch * sampler.epoch_size, sampler.epoch_size)
    return rows[:, 0].tolist()


def test_a_sequence_is_a_run_of_neighbouring_tokens() -> None:
    rows = Sampler(packed(100), sequence=8, seed=0).sequences(0, 5)
    assert rows.shape == (5, 9)
    assert rows.dtype == torch.int64
    assert torch.equal(rows - rows[:, :1], torch.arange(9).expand(5, 9))


def test_an_epoch_sees_every_predicted_token_once() -> None:
    # 100 tokens predict 99: 12 blocks of 8 fit, one is given up for the random offset
    sampler = Sampler(packed(100), sequence=8, seed=0)
    assert sampler.epoch_size == 11
    targets = Counter(sampler.sequences(0, 11)[:, 1:].flatten().tolist())
    assert set(targets.values()) == {1}
    assert len(targets) == 88


def test_epochs_differ_in_order_and_offset() -> None:
    sampler = Sampler(packed(1000), sequence=8, seed=0)
    first, second = epoch_starts(sampler, 0), epoch_starts(sampler, 1)
    assert first != sorted(first)
    assert first[0] % 8 != second[0] % 8 or sorted(first) != sorted(second)
    assert len({epoch_starts(sampler, e)[0] % 8 for e in range(20)}) > 3


def test_a_sequence_depends_on_its_number_and_the_seed_alone() -> None:
    data = packed(500, 300)
    one = Sampler(data, sequence=8, seed=3)
    late = Sampler(data, sequence=8, seed=3).sequences(1234, 7)
    for number in (0, 90, 5000):
        one.sequences(number, 3)
    assert torch.equal(one.sequences(1234, 7), late)
    pairs = torch.cat([one.sequences(1234, 3), one.sequences(1237, 4)])
    assert torch.equal(pairs, late)
    assert not torch.equal(Sampler(data, sequence=8, seed=4).sequences(1234, 7), late)


def test_a_weight_is_how_often_an_epoch_goes_through_a_text() -> None:
    sampler = Sampler(packed(1000, 1000, 1000, weights=(1.0, 2.5, 0.25)), sequence=9, seed=0)
    # 999 // 9 = 111 blocks fit, 110 are used
    counted = Counter(start // 1000 for start in epoch_starts(sampler, 0))
    assert counted == {0: 110, 1: 275, 2: 28}


@given(
    st.lists(st.tuples(st.integers(9, 60), st.sampled_from([0.1, 1.0, 1.7, 3.0])), min_size=1),
    st.integers(0, 3),
)
def test_no_sequence_reaches_into_another_text(
    domains: list[tuple[int, float]], epoch: int
) -> None:
    lengths, weights = zip(*domains, strict=True)
    data = packed(*lengths, weights=weights)
    sampler = Sampler(data, sequence=8, seed=1)
    for start in epoch_starts(sampler, epoch):
        assert any(span.start <= start and start + 8 < span.end for span in data.spans)
    seen = {
        span.name
        for span in data.spans
        for start in epoch_starts(sampler, epoch)
        if span.start <= start < span.end
    }
    assert len(seen) == len(data.spans)


def test_a_text_shorter_than_a_sequence_is_named() -> None:
    with pytest.raises(
        InputError, match="the text d1 has 8 tokens to train on, a sequence needs 9"
    ):
        Sampler(packed(100, 8), sequence=8, seed=0)
    assert Sampler(packed(100, 9), sequence=8, seed=0).epoch_size == 12
