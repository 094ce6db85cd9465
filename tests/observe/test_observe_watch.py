"""A real small decoder watched over texts, against its own routings looked at one by one."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from expertly.config import Attention, Dense, Layer, Mixture, ModelConfig, Norm, Rope, Router
from expertly.errors import InputError
from expertly.model import Decoder, initialise
from expertly.observe import Report, measure, observe

TEXTS = {"letters": "abcabcabdd abcab " * 3, "digits": "1213121 1213" * 4}


class ByteTokenizer:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_text(self, token_id: int) -> str:
        return chr(token_id)


def small_config(*, mixtures: int = 2) -> ModelConfig:
    attention = Attention(num_heads=2, num_kv_heads=1, head_size=4, rope=Rope(base=1e4))
    mixture = Mixture(num_experts=5, num_chosen=2, expert_size=6, router=Router(norm_p=1.0))
    dense = Layer(attention=attention, feed_forward=Dense(size=8))
    mixed = Layer(attention=attention, feed_forward=mixture)
    return ModelConfig(
        family="test",
        vocab_size=128,
        hidden_size=8,
        max_context=20,
        layers=(dense, *[mixed] * mixtures),
        norm=Norm(eps=1e-5),
    )


def small_model(*, mixtures: int = 2) -> Decoder:
    model = Decoder(small_config(mixtures=mixtures))
    initialise(model, seed=3, std=0.5)
    model.tokenizer = ByteTokenizer()  # type: ignore[assignment]
    return model


@pytest.fixture(scope="module")
def report() -> Report:
    return observe(small_model(), TEXTS, min_count=4)


def chosen_experts(layer: int) -> list[tuple[str, int, list[int]]]:
    """Domain, id and experts (by slot) of every token, straight from the model."""
    model, found = small_model(), []
    for name, text in TEXTS.items():
        ids = list(text.encode())
        for start in range(0, len(ids), 20):
            window = ids[start : start + 20]
            with torch.inference_mode():
                routings = model(torch.tensor([window]), routings=True).routings
            assert routings is not None
            for t, token_id in enumerate(window):
                experts = routings[layer].scores_TE[t].topk(2).indices.tolist()
                found.append((name, token_id, experts))
    return found


def test_only_mixture_layers_are_reported_under_their_index_in_the_decoder(report: Report) -> None:
    assert [layer.layer for layer in report.layers] == [1, 2]
    assert {(layer.num_experts, layer.num_chosen) for layer in report.layers} == {(5, 2)}


def test_every_token_is_counted_in_its_domain(report: Report) -> None:
    assert report.tokens_by_domain == {"letters": 51, "digits": 48}
    assert all(layer.num_rows == 2 * 99 for layer in report.layers)


def test_the_load_is_what_the_routings_say(report: Report) -> None:
    for place, layer in enumerate(report.layers):
        rows = Counter(e for _, _, experts in chosen_experts(place) for e in experts)
        assert layer.load == pytest.approx([rows[e] / 198 for e in range(5)], abs=1e-12)


def test_coactivation_is_what_the_routings_say(report: Report) -> None:
    for place, layer in enumerate(report.layers):
        chosen = [experts for _, _, experts in chosen_experts(place)]
        for i in range(5):
            with_i = [experts for experts in chosen if i in experts]
            assert layer.tokens_by_expert[i] == len(with_i)
            for j in range(5):
                share = sum(j in experts for experts in with_i) / max(1, len(with_i))
                assert layer.coactivation[i][j] == pytest.approx(share, abs=1e-12)


def test_domain_specialisation_is_what_the_routings_say(report: Report) -> None:
    for place, layer in enumerate(report.layers):
        for n, (name, tokens) in enumerate(report.tokens_by_domain.items()):
            rows = Counter(
                e for d, _, experts in chosen_experts(place) if d == name for e in experts
            )
            by_row = [rows[e] / (2 * tokens) for e in range(5)]
            by_token = [rows[e] / tokens for e in range(5)]
            assert layer.domain_row_share[n] == pytest.approx(by_row, abs=1e-12)
            assert layer.domain_token_share[n] == pytest.approx(by_token, abs=1e-12)


def test_the_vocabulary_is_the_ids_above_the_floor_with_their_rows(report: Report) -> None:
    uses = Counter(i for text in TEXTS.values() for i in text.encode())
    frequent = sorted(i for i, times in uses.items() if times >= 4)
    assert [(use.id, use.text, use.count) for use in report.vocabulary] == [
        (i, chr(i), uses[i]) for i in frequent
    ]
    for place, layer in enumerate(report.layers):
        rows = Counter((i, e) for _, i, experts in chosen_experts(place) for e in experts)
        assert layer.vocabulary_rows == [[rows[i, e] for e in range(5)] for i in frequent]


def test_repeats_compare_first_experts_within_a_window(report: Report) -> None:
    for place, layer in enumerate(report.layers):
        first = [experts[0] for _, _, experts in chosen_experts(place)]
        windows = [first[:20], first[20:40], first[40:51], first[51:71], first[71:91], first[91:]]
        pairs = [pair for part in windows for pair in pairwise(part)]
        share = sum(a == b for a, b in pairs) / len(pairs)
        assert layer.repeat_share == pytest.approx(share, abs=1e-12)


def test_at_most_the_tokens_asked_for_are_read_from_each_text() -> None:
    short = observe(small_model(), TEXTS, max_tokens=7)
    assert short.tokens_by_domain == {"letters": 7, "digits": 7}


def test_a_window_narrower_than_the_context_is_kept_to() -> None:
    steps: list[tuple[int, int]] = []
    observe(
        small_model(),
        {"x": "abcdefgh"},
        window=3,
        progress=lambda done, all: steps.append((done, all)),
    )
    assert steps == [(3, 8), (6, 8), (8, 8)]


def test_a_window_of_one_token_has_no_repeats_to_speak_of() -> None:
    report = observe(small_model(), {"x": "abc"}, window=1)
    assert [layer.repeat_share for layer in report.layers] == [None, None]


def test_a_model_without_a_mixture_is_refused() -> None:
    with pytest.raises(InputError, match="the test model has no mixture layer"):
        observe(small_model(mixtures=0), TEXTS)


def test_a_model_without_a_tokenizer_is_refused() -> None:
    model = small_model()
    model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        observe(model, TEXTS)


def test_no_text_and_a_text_without_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="no text"):
        observe(small_model(), {})
    with pytest.raises(InputError, match="the text 'void' has no tokens"):
        observe(small_model(), {"full": "abc", "void": ""})


def test_the_page_of_a_real_report_has_a_line_for_every_layer(report: Report) -> None:
    page = report.to_text(top=1)
    lines = [line.split() for line in page.splitlines()]
    assert [line[0] for line in lines if line and line[-1].endswith("|")] == ["1", "2"]


def test_the_beginning_of_each_text_keeps_its_experts_and_weights() -> None:
    report = observe(small_model(), TEXTS, sample=7)
    assert ["".join(x.text for x in kept) for kept in report.samples.values()] == [
        text[:7] for text in TEXTS.values()
    ]
    for name, kept in report.samples.items():
        of_domain = [experts for domain, _, experts in chosen_experts(1) if domain == name]
        assert [[e for e, _ in x.experts[1]] for x in kept] == of_domain[:7]
        assert all(sum(w for _, w in x.experts[1]) == pytest.approx(1) for x in kept)


def test_no_more_than_a_window_is_kept_and_nothing_unless_asked() -> None:
    long = observe(small_model(), TEXTS, sample=99).samples
    assert [len(kept) for kept in long.values()] == [20, 20]
    assert observe(small_model(), TEXTS).samples == {"letters": [], "digits": []}


def test_information_is_of_the_rows_that_the_report_has(report: Report) -> None:
    for layer in report.layers:
        rows_ME = torch.tensor(layer.domain_rows)
        assert layer.information == measure.information(rows_ME)
        assert layer.domain_entropy == pytest.approx(measure.domain_entropy(rows_ME))
        assert len(layer.shuffled_information) == 20
        rows_UE = torch.tensor(layer.vocabulary_rows)
        assert layer.token_information == measure.information(rows_UE) > 0
        assert 0 < layer.shuffled_token_information < layer.token_information


def test_halves_are_told_apart_by_the_windows_they_start_in(report: Report) -> None:
    # windows of 20 begin at 0, 20 and 40; the texts have 51 and 48 tokens
    for index, layer in enumerate(report.layers):
        later_ME = torch.zeros(2, 5, dtype=torch.int64)
        for m, name in enumerate(TEXTS):
            of_domain = [experts for domain, _, experts in chosen_experts(index) if domain == name]
            chosen = torch.tensor(of_domain[40:])
            later_ME[m] = chosen.flatten().bincount(minlength=5)
        expected = measure.halves_information(torch.tensor(layer.domain_rows), later_ME)
        assert layer.halves_information == pytest.approx(expected)


def test_a_text_of_one_window_has_no_halves() -> None:
    report = observe(small_model(), {"short": "abcabc"})
    assert report.layers[0].halves_information is None
