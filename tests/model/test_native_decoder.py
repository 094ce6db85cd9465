"""The native decoder against the torch one: every family, every feature, every format."""

import dataclasses
import json
from pathlib import Path

import oracle
import pytest
import torch
from native_models import decoded, native_of
from small_models import EVERYTHING, LONG, PLAIN, build, config_of, draw_ids, relative_error
from torch import Tensor

from expertly import _native
from expertly.checkpoint import load
from expertly.config import Layer, Mixture, Rope, Router
from expertly.errors import ConfigError, InputError
from expertly.model import Decoder, NativeDecoder

# keys and values are float16 in the native cache: 11 bits
HALF_CACHE = 2e-2
# KL of int8 activations in groups of 32 to float32 ones, logits of a standard deviation of 1
INT8_ACTIVATIONS = 1e-3

FORMATS = [
    *("f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "q3_k"),
    *("q2_k", "iq4_nl", "mxfp4", "i4"),
]

WIDE = config_of(
    Layer(
        attention=dataclasses.replace(PLAIN, head_size=64),
        feed_forward=Mixture(
            num_experts=6, num_chosen=2, expert_size=256, router=Router(norm_p=1.0)
        ),
    ),
    hidden_size=256,
)


@pytest.fixture(scope="module")
def everything() -> tuple[Decoder, NativeDecoder]:
    model = build(EVERYTHING)
    return model, native_of(model)


@pytest.fixture(scope="module")
def quantised() -> NativeDecoder:
    return native_of(build(WIDE, seed=3), "q4_k", threads=2)


def logits(model: Decoder | NativeDecoder, ids_BS: Tensor, mask_BS: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(ids_BS, mask_BS).logits


def in_pieces(model: NativeDecoder, ids_BS: Tensor, sizes: list[int]) -> Tensor:
    cache = model.new_cache(ids_BS.shape[0])
    parts = [model(part_BS, cache=cache).logits for part_BS in ids_BS.split(sizes, dim=1)]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("family", "case"), oracle.names())
def test_every_family_of_safetensors_gives_the_torch_models_logits(
    family: str, case: int, tmp_path: Path
) -> None:
    oracle.build(family, case, tmp_path)
    ours, native = load(tmp_path), load(tmp_path, "native", threads=1)
    ids_BS, mask_BS = oracle.ragged(ours.config.vocab_size, seed=case)
    expected = logits(ours, ids_BS, mask_BS)[mask_BS]
    assert relative_error(logits(native, ids_BS, mask_BS)[mask_BS], expected) <= HALF_CACHE


def test_every_feature_of_a_config_is_computed(everything) -> None:
    model, native = everything
    ids_BS = draw_ids(EVERYTHING, 2, 40)
    assert relative_error(logits(native, ids_BS), logits(model, ids_BS)) <= HALF_CACHE


@pytest.mark.parametrize("kernels", _native.kernel_sets())
def test_every_instruction_set_computes_the_same_model(everything, kernels: str) -> None:
    model, _ = everything
    ids_BS = draw_ids(EVERYTHING, 1, 30, seed=4)
    native = native_of(model, kernels=kernels)
    assert native.runtime.kernels == kernels
    assert relative_error(logits(native, ids_BS), logits(model, ids_BS)) <= HALF_CACHE


def test_a_sequence_that_outgrows_its_original_context_equals_the_torch_model() -> None:
    config = config_of(
        Layer(
            attention=dataclasses.replace(PLAIN, rope=Rope(base=500.0, scaling=LONG)),
            feed_forward=Mixture(num_experts=3, num_chosen=2, expert_size=9, router=Router()),
        )
    )
    model, ids_BS = build(config), draw_ids(config, 2, 230)
    native = native_of(model)
    cache, ours = model.new_cache(2), native.new_cache(2)
    for part_BS in ids_BS.split([150, 45, 1, 34], dim=1):
        with torch.no_grad():
            expected = model(part_BS, cache=cache).logits
        found = native(part_BS, cache=ours).logits
        assert relative_error(found, expected) <= HALF_CACHE


def test_layers_with_two_original_contexts_are_refused() -> None:
    other = dataclasses.replace(LONG, original_context=100)
    layers = [
        Layer(
            attention=dataclasses.replace(PLAIN, rope=Rope(base=500.0, scaling=scaling)),
            feed_forward=Mixture(num_experts=3, num_chosen=2, expert_size=9, router=Router()),
        )
        for scaling in (LONG, other)
    ]
    with pytest.raises(ConfigError, match=r"\[100, 200\]"):
        native_of(build(config_of(*layers)))


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_logits_of_the_weights_that_it_keeps(format: str) -> None:
    model, ids_BS = build(WIDE, seed=1), draw_ids(WIDE, 4, 20)
    exact, found = logits(decoded(model, format), ids_BS), logits(native_of(model, format), ids_BS)
    # random weights give logits far wider than a trained model's
    p, q = (z.div(exact.std()).log_softmax(-1) for z in (exact, found))
    # the median, as a choice of experts that was nearly even falls the other way for some tokens
    assert 0 <= (p.exp() * (p - q)).sum(-1).median() <= INT8_ACTIVATIONS


@pytest.mark.parametrize("format", ["f32", "bf16", "q8_0", "q4_k"])
def test_a_stream_gives_the_same_bits_alone_and_in_any_batch(format: str) -> None:
    native = native_of(build(WIDE, seed=2), format, threads=2)
    ids_BS = draw_ids(WIDE, 64, 11, seed=5)
    alone = logits(native, ids_BS[:1])
    for batch in (2, 3, 16, 64):
        assert torch.equal(logits(native, ids_BS[:batch])[:1], alone)


@pytest.mark.parametrize("sizes", [[70], [1] * 70, [33, 37], [64, 6], [69, 1], [7] * 10])
def test_a_prompt_gives_the_same_bits_in_any_chunks(quantised, sizes: list[int]) -> None:
    ids_BS = draw_ids(WIDE, 2, 70, seed=6)
    assert torch.equal(in_pieces(quantised, ids_BS, sizes), logits(quantised, ids_BS))


def test_threads_change_no_bit(quantised) -> None:
    one = native_of(build(WIDE, seed=3), "q4_k", threads=1)
    ids_BS = draw_ids(WIDE, 3, 130, seed=7)
    assert torch.equal(logits(one, ids_BS), logits(quantised, ids_BS))


def test_every_feature_gives_the_same_bits_in_batches_and_chunks(everything) -> None:
    _, native = everything
    ids_BS = draw_ids(EVERYTHING, 5, 60, seed=8)
    whole = logits(native, ids_BS)
    assert torch.equal(logits(native, ids_BS[2:3]), whole[2:3])
    assert torch.equal(in_pieces(native, ids_BS, [13, 1, 46]), whole)


def test_padding_on_either_side_changes_no_bit_and_has_no_logits(quantised) -> None:
    ids_BS = draw_ids(WIDE, 2, 12, seed=9)
    mask_BS = torch.ones(2, 12, dtype=torch.bool)
    mask_BS[0, :5] = False
    mask_BS[1, 7:] = False
    found = logits(quantised, ids_BS, mask_BS)
    assert torch.equal(found[0, 5:], logits(quantised, ids_BS[:1, 5:])[0])
    assert torch.equal(found[1, :7], logits(quantised, ids_BS[1:, :7])[0])
    assert not found[~mask_BS].any()


def test_sequences_of_a_cache_grow_by_themselves(quantised) -> None:
    ids_BS = draw_ids(WIDE, 2, 10, seed=10)
    mask_BS = torch.ones(2, 6, dtype=torch.bool)
    mask_BS[0, :4] = False
    cache = quantised.new_cache(2)
    quantised(ids_BS[:, :6], mask_BS, cache=cache)
    assert cache.lengths == [2, 6]
    last = quantised(ids_BS[:, 6:], cache=cache, logits="last").logits
    short = logits(quantised, ids_BS[:1, 4:])[:, -1]
    assert torch.equal(last, torch.cat((short, logits(quantised, ids_BS[1:])[:, -1])))


def test_a_truncated_cache_goes_on_as_if_it_had_never_been_longer(quantised) -> None:
    ids_BS = draw_ids(WIDE, 1, 140, seed=11)
    cache = quantised.new_cache()
    quantised(ids_BS, cache=cache)
    pages = cache.pool.pages_in_use
    cache.truncate(65)
    assert cache.lengths == [65] and cache.pool.pages_in_use == 2 < pages
    again = quantised(ids_BS[:, 65:], cache=cache).logits
    assert torch.equal(again, logits(quantised, ids_BS)[:, 65:])


def test_only_the_last_logits_are_made_when_only_they_are_asked_for(quantised) -> None:
    ids_BS = draw_ids(WIDE, 3, 8, seed=12)
    last = quantised(ids_BS, logits="last").logits
    assert last.shape == (3, WIDE.vocab_size)
    assert torch.equal(last, logits(quantised, ids_BS)[:, -1])


def test_routings_equal_those_of_the_torch_model(everything) -> None:
    model, native = everything
    ids_BS = draw_ids(EVERYTHING, 2, 21, seed=13)
    mask_BS = torch.ones(2, 21, dtype=torch.bool)
    mask_BS[0, :6] = False
    with torch.no_grad():
        expected = model(ids_BS, mask_BS, routings=True).routings
    found = native(ids_BS, mask_BS, routings=True).routings
    assert len(found) == len(expected) == len(EVERYTHING.mixture_layers)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.mask_T, theirs.mask_T)
        assert torch.equal(ours.sequence_T, theirs.sequence_T)
        for name in ("logits_TE", "probs_TE", "scores_TE"):
            a, b = getattr(ours, name)[ours.mask_T], getattr(theirs, name)[ours.mask_T]
            assert relative_error(a, b) <= HALF_CACHE, name
        assert torch.equal(chosen(ours), chosen(theirs))


def chosen(routing) -> Tensor:
    """1 where a token that is no padding chose an expert."""
    expert_R = torch.repeat_interleave(torch.arange(len(routing.counts_E)), routing.counts_E)
    found_TE = torch.zeros_like(routing.logits_TE)
    found_TE[routing.token_R, expert_R] = 1
    return found_TE[routing.mask_T]


def test_what_does_not_fit_is_refused_before_the_cache_grows(quantised) -> None:
    cache = quantised.new_cache()
    with pytest.raises(InputError, match="token id 41 is outside the vocabulary of 41"):
        quantised(torch.tensor([[41]]), cache=cache)
    with pytest.raises(InputError, match="401 tokens do not fit the context of 400"):
        quantised(draw_ids(WIDE, 1, 401), cache=cache)
    assert cache.lengths == [0] and cache.pool.pages_in_use == 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_cache_of_another_number_of_sequences_is_refused_and_stays(quantised, batch_size) -> None:
    cache = quantised.new_cache(batch_size)
    with pytest.raises(ValueError):
        quantised(draw_ids(quantised.config, 2, 4), cache=cache)
    assert cache.lengths == [0] * batch_size


def test_a_native_model_knows_the_bytes_that_a_token_reads(tmp_path: Path) -> None:
    native = native_of(build(WIDE), "q8_0")
    blocks = {"q8_0": 34 / 32, "f32": 4.0}
    D, F, V, E, C = 256, 256, 41, 6, 64
    # rows come in tiles of 16
    head = 48 * D * blocks["q8_0"]
    attention = (4 + 2 + 2 + 4) * C * D * blocks["q8_0"]
    router, norms = 16 * D * 4, 3 * D * 4
    assert native.expert_bytes == [3 * D * F * blocks["q8_0"]]
    assert native.dense_bytes == head + attention + router + norms
    assert (WIDE.vocab_size, 6) == (V, E)


def test_the_native_type_keeps_what_is_stored_and_int8_and_int4_quantise(tmp_path: Path) -> None:
    oracle.build("mixtral", 0, tmp_path)
    kept, eight, four = (load(tmp_path, d, threads=1) for d in ("native", "int8", "int4"))
    assert kept.expert_bytes[0] > eight.expert_bytes[0] > four.expert_bytes[0]
    ids_BS = draw_ids(kept.config, 1, 12)
    exact = logits(load(tmp_path), ids_BS)
    assert relative_error(logits(eight, ids_BS), exact) < relative_error(
        logits(four, ids_BS), exact
    )


def test_a_dtype_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="dtype 'int5'") as refused:
        load(tmp_path, "int5")
    assert "native, int8, int4" in refused.value.hint


def test_kernels_that_the_processor_lacks_are_refused_with_those_that_it_has(tmp_path) -> None:
    with pytest.raises(InputError, match="no kernels 'sse9'") as refused:
        load(tmp_path, "native", kernels="sse9")
    assert "generic" in refused.value.hint
