"""Passes of one native decoder from several threads, and passes that end early."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from native_models import native_of
from small_models import EVERYTHING, LONG, PLAIN, build, config_of, draw_ids

from expertly.config import Layer, Mixture, Rope, Router
from expertly.model import NativeDecoder

TURNING = config_of(
    Layer(
        attention=dataclasses.replace(PLAIN, rope=Rope(base=500.0, scaling=LONG)),
        feed_forward=Mixture(num_experts=3, num_chosen=2, expert_size=9, router=Router()),
    )
)


class Stopped(BaseException):
    """As KeyboardInterrupt, which would end the tests."""


def stop(*_: object) -> None:
    raise Stopped


@pytest.fixture(scope="module")
def model() -> NativeDecoder:
    return native_of(build(EVERYTHING), threads=2)


@pytest.mark.parametrize("before", [[0, 0], [70, 3]])
def test_a_pass_that_ends_early_leaves_the_cache_as_it_was(
    model: NativeDecoder, before: list[int]
) -> None:
    ids_BS = draw_ids(EVERYTHING, 2, 90)
    caches = [model.new_cache(2), model.new_cache(2)]
    mask_BS = torch.arange(max(before)) < torch.tensor(before)[:, None]
    for cache in caches if any(before) else []:
        model(ids_BS[:, : max(before)], mask_BS, cache=cache)
    pages = caches[0].pool.pages_in_use
    model.watch = stop
    with pytest.raises(Stopped):
        model(ids_BS, cache=caches[0])
    model.watch = None
    assert caches[0].lengths == before and caches[0].pool.pages_in_use == pages
    ours, other = (model(ids_BS[:, :20], cache=cache).logits for cache in caches)
    assert torch.equal(ours, other)


def test_keys_that_were_turned_for_a_pass_that_ends_early_are_forgotten() -> None:
    native, ids_BS = native_of(build(TURNING)), draw_ids(TURNING, 1, 230)
    cache = native.new_cache()
    native(ids_BS[:, :150], cache=cache)
    native.watch = stop
    with pytest.raises(Stopped):
        native(ids_BS[:, 150:], cache=cache)
    native.watch = None
    assert cache.lengths == [0] and cache.pool.pages_in_use == 0
    assert torch.equal(native(ids_BS, cache=cache).logits, native(ids_BS).logits)


def test_threads_that_share_a_model_wait_for_each_other(model: NativeDecoder) -> None:
    given = [draw_ids(EVERYTHING, 1, length) for length in (3, 40, 77)]
    expected = [model(ids_BS).logits for ids_BS in given]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda ids_BS: [model(ids_BS).logits for _ in range(8)], given))
    for logits, alone in zip(found, expected, strict=True):
        assert all(torch.equal(one, alone) for one in logits)
