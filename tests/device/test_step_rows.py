"""Rows that leave a native step for another's computing, and come back."""

import dataclasses

import numpy as np
import pytest
import torch
from native_models import native_of
from small_models import MIXTURE, PLAIN, build, config_of, draw_ids

from expertly import _native
from expertly.config import Layer
from expertly.model import NativeDecoder

CONFIG = config_of(Layer(attention=PLAIN, feed_forward=MIXTURE))


class Stopped:
    """A model's only layer at the moment when its experts have been chosen."""

    def __init__(self) -> None:
        self.model: NativeDecoder = native_of(build(CONFIG))
        self.step: _native.Step = self.model._step
        self.layer: _native.Layer = self.model._layers[0]
        self.ids_TK = np.zeros((0, 2), np.int32)
        self.model.watch = self._watch
        self.model(draw_ids(CONFIG, 1, 7))

    def _watch(self, layer, position_T, ids_TK, weight_TK) -> None:
        self.ids_TK = ids_TK.copy()


@pytest.fixture
def stopped() -> Stopped:
    found = Stopped()
    found.step.begin_experts(found.layer)
    return found


def test_an_expert_gets_a_row_for_each_token_that_chose_it(stopped: Stopped) -> None:
    counts = np.bincount(stopped.ids_TK.ravel(), minlength=4)
    for expert in range(4):
        x_RD = stopped.step.rows_of(stopped.layer, [expert])
        assert x_RD.shape == (counts[expert], CONFIG.hidden_size)
    assert stopped.step.rows_of(stopped.layer, []).shape == (0, CONFIG.hidden_size)


def test_rows_come_by_expert_and_within_an_expert_by_token(stopped: Stopped) -> None:
    whole_RD = stopped.step.rows_of(stopped.layer, [3, 0, 1, 2])
    rows = [stopped.step.rows_of(stopped.layer, [expert]) for expert in (3, 0, 1, 2)]
    assert np.array_equal(whole_RD, np.concatenate(rows))
    # a token that chose two experts has the same row in both
    token_of = {e: np.nonzero((stopped.ids_TK == e).any(1))[0] for e in range(4)}
    for t in range(7):
        mine = [
            stopped.step.rows_of(stopped.layer, [e])[list(token_of[e]).index(t)]
            for e in stopped.ids_TK[t]
        ]
        assert np.array_equal(mine[0], mine[1])


def test_a_row_is_a_copy(stopped: Stopped) -> None:
    x_RD = stopped.step.rows_of(stopped.layer, [0, 1, 2, 3])
    before = x_RD.copy()
    x_RD[:] = np.nan
    assert np.array_equal(stopped.step.rows_of(stopped.layer, [0, 1, 2, 3]), before)


def test_results_of_zero_leave_the_residual_as_it_was() -> None:
    model = native_of(build(CONFIG))

    class Nothing:
        """A tier whose every expert answers nothing."""

        def run(self, layer, rows, work, store, meanwhile) -> None:
            y_RD = np.zeros((sum(rows.values()), CONFIG.hidden_size), np.float32)
            work.put_rows(list(rows), y_RD)

    ids = draw_ids(CONFIG, 1, 7)
    model.tier = Nothing()  # type: ignore[assignment]
    found = model(ids).logits
    model.tier = None
    model.rechoose = lambda layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE: (
        np.full_like(ids_TK, -1),
        weight_TK.copy(),
    )
    assert torch.equal(found, model(ids).logits)


def test_results_of_another_shape_are_refused(stopped: Stopped) -> None:
    rows = len(stopped.step.rows_of(stopped.layer, [0, 1]))
    for shape in ((rows + 1, CONFIG.hidden_size), (rows, CONFIG.hidden_size + 1)):
        with pytest.raises(ValueError, match="a result for each row"):
            stopped.step.put_rows(stopped.layer, [0, 1], np.zeros(shape, np.float32))


def test_experts_that_there_are_not_are_refused(stopped: Stopped) -> None:
    for expert in (-1, 4):
        with pytest.raises(ValueError, match="no such expert"):
            stopped.step.rows_of(stopped.layer, [expert])
        with pytest.raises(ValueError, match="no such expert"):
            stopped.step.put_rows(stopped.layer, [expert], np.zeros((0, 1), np.float32))


def test_an_expert_is_given_as_it_lies_with_the_biases_that_it_has() -> None:
    mixture = dataclasses.replace(MIXTURE, has_expert_bias=True)
    decoder = build(config_of(Layer(attention=PLAIN, feed_forward=mixture)))
    own = dict(decoder.named_parameters())
    model = native_of(decoder)
    for e in range(4):
        found = model.host_expert(0, e)
        here = "layers.0.feed_forward.experts"
        for matrix, name in (
            (found.gate, "w_gate_EFD"),
            (found.up, "w_up_EFD"),
            (found.down, "w_down_EDF"),
        ):
            wanted = own[f"{here}.{name}"][e].detach().numpy()
            assert np.array_equal(matrix.unpack(0, matrix.rows), wanted)
        assert np.array_equal(found.gate_bias, own[f"{here}.b_gate_EF"][e].detach().numpy())
        assert np.array_equal(found.up_bias, own[f"{here}.b_up_EF"][e].detach().numpy())
        assert found.rule == mixture.glu
    assert native_of(build(CONFIG)).host_expert(0, 1).gate_bias is None


def test_an_expert_that_was_placed_elsewhere_is_given_from_there(stopped: Stopped) -> None:
    own = stopped.model.host_expert(0, 1)
    stopped.model.place_expert(0, 2, own.gate, own.up, own.down)
    found = stopped.model.host_expert(0, 2).gate.unpack(0, own.gate.rows)
    assert np.array_equal(found, own.gate.unpack(0, own.gate.rows))
    for expert in (-1, 4):
        with pytest.raises(ValueError, match="no such expert"):
            stopped.layer.expert(expert)


def test_a_layer_that_was_not_begun_has_no_rows() -> None:
    found = Stopped()
    with pytest.raises(ValueError, match="not begun"):
        found.step.rows_of(found.layer, [0])
    with pytest.raises(ValueError, match="not begun"):
        found.step.put_rows(found.layer, [0], np.zeros((1, CONFIG.hidden_size), np.float32))
