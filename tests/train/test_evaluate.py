import gzip
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from expertly.errors import InputError
from expertly.model import Decoder
from expertly.text import Tokenizer
from expertly.train.begin import make_model
from expertly.train.evaluate import Score, bits_per_byte, compressed_bits_per_byte, score
from expertly.train.recipe import Recipe
from expertly.train.texts import open_domains
from expertly.train.vocabulary import make_tokenizer, train_bpe

TEXT = "the owl and a cat went to sea, große See\n" * 3


@pytest.fixture
def tokenizer(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Tokenizer:
    recipe = make_recipe()
    return make_tokenizer(recipe, open_domains(("poem.txt",), (), 0.1, tmp_path), tmp_path)


@pytest.fixture
def model(make_recipe: Callable[..., Recipe], tokenizer: Tokenizer) -> Decoder:
    model = make_model(make_recipe(), tokenizer).eval()
    with torch.no_grad():  # far from uniform, so that context matters
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def nats_one_by_one(model: Decoder, ids: list[int], context: int, stride: int) -> float:
    """Each token from its own window, one call a token, in float64."""
    total, done = 0.0, 0
    while done < len(ids) - 1:
        end = min(len(ids) - 1, context if done == 0 else done + stride)
        for target in range(done + 1, end + 1):
            window = torch.tensor([ids[max(0, end - context) : target]])
            with torch.no_grad():
                logits_V = model(window).logits[0, -1].double()
            total -= float(logits_V.log_softmax(-1)[ids[target]])
        done = end
    return total


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5), (16, 1), (7, 7), (64, 64)])
def test_every_token_is_predicted_once_from_its_window(
    model: Decoder, tokenizer: Tokenizer, context: int, stride: int
) -> None:
    ids = [0, *tokenizer.encode(TEXT)]
    measured = score(model, tokenizer, TEXT, context, stride=stride)
    assert measured.num_tokens == len(ids) - 1
    assert measured.num_bytes == len(TEXT.encode()) == 126
    assert measured.nats == pytest.approx(nats_one_by_one(model, ids, context, stride), rel=1e-4)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token(
    model: Decoder, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        model.embed_VD.zero_()  # tied: all logits are 0
    tokens = len(tokenizer.encode(TEXT))
    expected = tokens * math.log2(tokenizer.vocab_size) / 126
    assert bits_per_byte(model, tokenizer, TEXT, 16) == pytest.approx(expected, rel=1e-6)


def test_windows_side_by_side_are_the_default(model: Decoder, tokenizer: Tokenizer) -> None:
    assert bits_per_byte(model, tokenizer, TEXT, 8) == bits_per_byte(
        model, tokenizer, TEXT, 8, stride=8
    )


def test_without_an_end_mark_the_first_token_only_predicts(model: Decoder, tmp_path: Path) -> None:
    bare = Tokenizer(train_bpe(["the owl and a cat"], 270))
    measured = score(model, bare, TEXT, 16)
    ids = bare.encode(TEXT)
    first = len(bare.decode(ids[:1]).encode())
    assert (measured.num_tokens, measured.num_bytes) == (len(ids) - 1, 126 - first)


def test_bits_are_nats_over_ln_2() -> None:
    assert Score(nats=8 * math.log(2), num_tokens=3, num_bytes=4).bits_per_byte == 2.0


def test_nothing_to_predict_and_bad_strides_are_refused(
    model: Decoder, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InputError, match="no text to evaluate on"):
        score(model, tokenizer, "", 16)
    for stride in (0, 17):
        with pytest.raises(InputError, match=f"stride {stride} with context 16"):
            score(model, tokenizer, TEXT, 16, stride=stride)


def test_the_rivals_are_gzip_and_xz() -> None:
    text = "ß" * 5000
    rivals = compressed_bits_per_byte(text)
    assert rivals["gzip"] == 8 * len(gzip.compress(text.encode(), 9)) / 10_000
    assert 0 < rivals["xz"] < 0.2
