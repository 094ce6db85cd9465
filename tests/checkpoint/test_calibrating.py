"""What calibration sees of a model: held against the same sums taken by hand."""

import numpy as np
import pytest
import torch
from packing import DBRX, FAMILIES, GPT_OSS, MIXTRAL, TIED, WIDE, calibrated
from small_models import draw_ids
from tiny_checkpoints import tiny_model
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

from expertly.checkpoint.calibrating import WINDOW, calibrate, draw_windows
from expertly.errors import InputError
from expertly.families import parameters
from expertly.model import Decoder
from expertly.model.weights import Place, is_matrix, is_router, places
from expertly.text import Tokenizer

MIXTURES = {name: hf for name, hf in FAMILIES.items() if name != "tied"}
each_mixture = pytest.mark.parametrize("name", MIXTURES)
HERE = "layers.0.feed_forward.experts"


class Inputs:
    """What the modules of layer 0 were called with."""

    def __init__(self, model: Decoder, ids_BS: torch.Tensor) -> None:
        layer = model.layers[0]
        self.seen: dict[str, torch.Tensor] = {}
        hooks = [
            layer.attention.register_forward_pre_hook(self._keep("attention")),
            layer.feed_forward.register_forward_pre_hook(self._keep("feed_forward")),
        ]
        with torch.inference_mode():
            self.output = model(ids_BS, routings=True)
        for hook in hooks:
            hook.remove()

    def _keep(self, name: str):
        def keep(module, args) -> None:
            self.seen[name] = args[0].flatten(0, -2).clone()

        return keep


@each_mixture
def test_importance_is_the_mean_square_of_each_column_of_the_input(name: str) -> None:
    model = tiny_model(MIXTURES[name])
    ids_BS = draw_ids(model.config, 1, 20)
    found = calibrate(model, ids_BS.tolist())
    x_TD = Inputs(model, ids_BS).seen["attention"]
    for leaf in ("w_q_HCD", "w_k_GCD", "w_v_GCD"):
        place = Place(f"layers.0.attention.{leaf}", None, 1, x_TD.shape[1])
        np.testing.assert_allclose(
            found.importance(place), x_TD.square().mean(0), rtol=1e-5, atol=1e-12
        )


@each_mixture
def test_an_expert_is_measured_over_the_rows_that_chose_it(name: str) -> None:
    model = tiny_model(MIXTURES[name])
    ids_BS = draw_ids(model.config, 1, 20)
    found = calibrate(model, ids_BS.tolist())
    inputs = Inputs(model, ids_BS)
    routing, x_TD = inputs.output.routings[0], inputs.seen["feed_forward"]
    assert np.array_equal(found.rows[f"{HERE}.w_gate_EFD"], routing.counts_E)
    parts = torch.split(x_TD[routing.token_R], routing.counts_E.tolist())
    for expert, x_RD in enumerate(parts):
        for leaf in ("w_gate_EFD", "w_up_EFD"):
            squares_D = found.squares[f"{HERE}.{leaf}"][expert]
            np.testing.assert_allclose(squares_D, x_RD.square().sum(0), rtol=1e-4, atol=1e-9)


def test_the_input_of_down_is_what_gate_and_up_make_of_it() -> None:
    model = tiny_model(MIXTRAL)
    ids_BS = draw_ids(model.config, 1, 20)
    found = calibrate(model, ids_BS.tolist())
    inputs = Inputs(model, ids_BS)
    routing, x_TD = inputs.output.routings[0], inputs.seen["feed_forward"]
    experts = model.layers[0].feed_forward.experts
    rows = torch.split(x_TD[routing.token_R], routing.counts_E.tolist())
    for expert, x_RD in enumerate(rows):
        gate_RF, up_RF = x_RD @ experts.w_gate_EFD[expert].T, x_RD @ experts.w_up_EFD[expert].T
        hidden_RF = torch.nn.functional.silu(gate_RF) * up_RF
        squares_F = found.squares[f"{HERE}.w_down_EDF"][expert]
        np.testing.assert_allclose(squares_F, hidden_RF.square().sum(0).detach(), rtol=1e-4)


@pytest.mark.parametrize("hf", [MIXTRAL, GPT_OSS, DBRX, TIED, WIDE])
def test_every_matrix_is_seen_at_every_token(hf) -> None:
    model = tiny_model(hf)
    found = calibrated(model, num_windows=3, length=10)
    assert found.num_tokens == 30
    for name in parameters(model.config):
        if not is_matrix(name) or is_router(name):
            continue
        # an embedding that is not the head too is no product
        is_looked_up = name == "embed_VD" and not model.config.is_tied
        chosen = model.config.layers[0].feed_forward.num_chosen if ".experts." in name else 1
        assert found.rows[name].sum() == (0 if is_looked_up else 30 * chosen), name


def test_the_windows_that_text_is_cut_into_add_up() -> None:
    model = tiny_model(MIXTRAL)
    windows = draw_ids(model.config, 4, 9).tolist()
    whole = calibrate(model, windows)
    parts = [calibrate(model, [window]) for window in windows]
    for name, squares in whole.squares.items():
        expected = np.sum([part.squares[name] for part in parts], axis=0)
        np.testing.assert_allclose(squares, expected, rtol=1e-4, atol=1e-9)
    for layer, weight_E in whole.weights.items():
        np.testing.assert_allclose(
            weight_E, np.sum([part.weights[layer] for part in parts], axis=0), rtol=1e-4
        )


def test_an_expert_that_was_not_reached_has_its_layers_average() -> None:
    model = tiny_model(WIDE)
    found = calibrated(model, num_windows=1, length=1)
    layer, expert = found.unreached[0]
    name = f"layers.{layer}.feed_forward.experts.w_up_EFD"
    average_D = found.squares[name].sum(0) / found.rows[name].sum()
    got = found.importance(Place(name, expert, 256, 256))
    np.testing.assert_allclose(got, average_D, rtol=1e-6)
    assert found.use(layer, expert) == (0.0, 0.0)


def test_uses_are_shares_of_tokens_and_mean_weights() -> None:
    model = tiny_model(MIXTRAL)
    ids_BS = draw_ids(model.config, 1, 25)
    found = calibrate(model, ids_BS.tolist())
    routing = Inputs(model, ids_BS).output.routings[0]
    first = routing.weight_R[: routing.counts_E[0]]
    share, weight = found.use(0, 0)
    assert share == pytest.approx(len(first) / 25) and weight == pytest.approx(first.mean().item())
    assert sum(found.use(1, e)[0] for e in range(3)) == pytest.approx(2)
    assert found.unreached == ()


def test_importance_by_parameter_has_a_row_an_expert() -> None:
    model = tiny_model(GPT_OSS)
    found = calibrated(model).by_parameter(model.config)
    for name, shape in parameters(model.config).items():
        if is_matrix(name) and not is_router(name):
            wanted = [*places(name, shape)]
            columns = wanted[0].columns
            assert found[name].shape == ((3, columns) if ".experts." in name else (columns,))
    assert "layers.0.feed_forward.router.w_ED" not in found


def test_nothing_is_left_on_the_model_and_its_logits_are_the_same() -> None:
    model = tiny_model(WIDE)
    ids_BS = draw_ids(model.config, 1, 12)
    before, names = model(ids_BS).logits, set(vars(model))
    calibrate(model, ids_BS.tolist())
    assert torch.equal(model(ids_BS).logits, before) and set(vars(model)) == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_progress_counts_windows() -> None:
    seen: list[tuple[int, int]] = []
    model = tiny_model(TIED)
    calibrate(model, [[1, 2], [3]], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A token a letter."""
    inner = Inner(models.WordLevel({letter: i for i, letter in enumerate("abcdefgh")}, "a"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return Tokenizer(inner)


def test_windows_come_from_all_over_the_texts_as_many_of_each(tokenizer: Tokenizer) -> None:
    config = tiny_model(TIED).config
    texts = ["a" * 5000 + "b" * 5000, "c" * 10_000]
    windows = draw_windows(config, tokenizer, texts, max_tokens=64 * 8)
    assert [len(window) for window in windows] == [64] * 8
    assert [tokenizer.decode(window)[:1] for window in windows] == [*"aabbcccc"]


@pytest.mark.parametrize("max_tokens", [1, 10, 64, 100])
def test_no_more_tokens_are_drawn_than_asked_for(tokenizer: Tokenizer, max_tokens: int) -> None:
    config = tiny_model(TIED).config
    windows = draw_windows(config, tokenizer, ["abc" * 1000, "def" * 1000], max_tokens)
    assert 0 < sum(map(len, windows)) <= max_tokens
    assert all(len(window) <= min(WINDOW, config.max_context) for window in windows)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_a_text_without_tokens_is_refused(tokenizer: Tokenizer, texts: list[str]) -> None:
    with pytest.raises(InputError, match="the calibration text is empty"):
        draw_windows(tiny_model(TIED).config, tokenizer, texts, 100)
