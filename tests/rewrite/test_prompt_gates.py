"""Router rows made of prompts, against a plain recomputation, and blind to padding."""

from pathlib import Path

import pytest
import torch
from dense_folders import parameters_of, save_dense
from hypothesis import given
from hypothesis import strategies as st
from small_models import build, config_of, draw_ids

import expertly
from expertly.config import Attention, Dense, Layer, Rope
from expertly.errors import InputError
from expertly.mixture import Tokens
from expertly.rewrite import MergeExpert, MergeRecipe, merge
from expertly.rewrite.gates import mean_inputs, prompt_gates

DENSE_LAYER = Layer(
    attention=Attention(num_heads=2, num_kv_heads=1, head_size=6, rope=Rope(base=100.0)),
    feed_forward=Dense(size=9),
)
MODEL = build(config_of(DENSE_LAYER, DENSE_LAYER))


def mean_alone(ids_S: torch.Tensor) -> torch.Tensor:
    """mean_LD of one sequence, layer by layer, as the decoder is described."""
    from expertly.model.span import Span

    span = Span(None, ids_S[None], None)
    tokens = Tokens(torch.ones(len(ids_S), dtype=torch.bool), torch.zeros_like(ids_S))
    x_BSD = MODEL.embed_VD[ids_S][None]
    means = []
    for layer in MODEL.layers:
        x_BSD = x_BSD + layer.attention(layer.attention_norm(x_BSD), span, None, tokens)[0]
        normed_BSD = layer.feed_forward_norm(x_BSD)
        means.append(normed_BSD[0].mean(0))
        x_BSD = x_BSD + layer.feed_forward(normed_BSD)
    return torch.stack(means).detach()


def test_the_mean_is_of_what_enters_each_feed_forward() -> None:
    ids_BS = draw_ids(MODEL.config, 2, 7)
    found_BLD = mean_inputs(MODEL, ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))
    for ids_S, found_LD in zip(ids_BS, found_BLD, strict=True):
        torch.testing.assert_close(found_LD.float(), mean_alone(ids_S), atol=1e-6, rtol=1e-5)


@given(left=st.integers(0, 9), right=st.integers(0, 9), length=st.integers(1, 8))
def test_padding_on_either_side_does_not_move_a_mean(left: int, right: int, length: int) -> None:
    ids_S = draw_ids(MODEL.config, length, seed=length)
    ids_BS = torch.cat((torch.zeros(left), ids_S, torch.full((right,), 3.0))).long()[None]
    mask_BS = torch.zeros_like(ids_BS, dtype=torch.bool)
    mask_BS[:, left : left + length] = True
    found_BLD = mean_inputs(MODEL, ids_BS, mask_BS)
    torch.testing.assert_close(found_BLD[0].float(), mean_alone(ids_S), atol=1e-6, rtol=1e-5)


def test_watching_leaves_nothing_on_the_model() -> None:
    ids_BS = draw_ids(MODEL.config, 1, 4)
    mean_inputs(MODEL, ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))
    assert all(not layer.feed_forward._forward_pre_hooks for layer in MODEL.layers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates") / "dense"
    save_dense(folder)
    return folder


def gates(folder: Path, *experts: MergeExpert) -> torch.Tensor:
    return prompt_gates(expertly.load(folder, "float32"), experts)


def test_a_row_points_from_the_negative_prompts_to_the_positive_ones(folder: Path) -> None:
    model = expertly.load(folder, "float32")

    def mean(text: str) -> torch.Tensor:
        ids_BS = torch.tensor([model.tokenizer.encode(text)])
        return mean_inputs(model, ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))[0]

    want_LD = (mean("sum") + mean("prove it")) / 2 - mean("a poem")
    want_LD = want_LD / want_LD.norm(dim=-1, keepdim=True)
    expert = MergeExpert(source="x", positive=("sum", "prove it"), negative=("a poem",))
    torch.testing.assert_close(gates(folder, expert)[:, 0].double(), want_LD, atol=1e-6, rtol=1e-5)


def test_rows_have_length_one(folder: Path) -> None:
    experts = [MergeExpert(source="x", positive=("one",)), MergeExpert(source="y", positive=("2",))]
    gates_LED = gates(folder, *experts)
    assert gates_LED.shape == (3, 2, 16)
    torch.testing.assert_close(gates_LED.norm(dim=-1), torch.ones(3, 2))


def test_a_row_does_not_depend_on_the_lengths_of_the_prompts_beside_it(folder: Path) -> None:
    # the mean of three prompts in one batch is that of their means one by one
    prompts = ("a", "a long prompt, much longer than the other two", "two words")
    together = gates(folder, MergeExpert(source="x", positive=prompts))
    model = expertly.load(folder, "float32")
    alone = []
    for prompt in prompts:
        ids_BS = torch.tensor([model.tokenizer.encode(prompt)])
        alone.append(mean_inputs(model, ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))[0])
    mean_LD = torch.stack(alone).mean(0)
    want = (mean_LD / mean_LD.norm(dim=-1, keepdim=True)).float()
    torch.testing.assert_close(together[:, 0], want, atol=1e-6, rtol=1e-5)


def test_more_prompts_than_a_batch_holds_count_alike(folder: Path) -> None:
    prompts = tuple(f"prompt {i}" * (i + 1) for i in range(5))
    once = gates(folder, MergeExpert(source="x", positive=prompts))
    four_times = gates(folder, MergeExpert(source="x", positive=prompts * 4))
    torch.testing.assert_close(once, four_times, atol=1e-6, rtol=1e-5)


def test_prompts_that_cancel_out_are_refused_by_the_experts_name(folder: Path) -> None:
    expert = MergeExpert(source="maths", positive=("a", "b"), negative=("a", "b"))
    with pytest.raises(InputError, match="prompts of the expert maths cancel out"):
        gates(folder, expert)


def test_a_prompt_longer_than_the_context_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="70 tokens do not fit the context of 64"):
        gates(folder, MergeExpert(source="x", positive=("a" * 70,)))


def test_a_base_without_a_tokenizer_cannot_read_prompts(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", has_tokenizer=False)
    with pytest.raises(InputError, match="the base has no tokenizer"):
        gates(tmp_path / "dense", MergeExpert(source="x", positive=("a",)))


def test_a_merged_mixture_routes_prompts_to_the_experts_that_they_were_given_for(
    folder: Path, tmp_path: Path
) -> None:
    texts = ("0123456789", "abcdefgh")
    experts = tuple(
        MergeExpert(source=str(folder), positive=(one,), negative=(other,))
        for one, other in (texts, texts[::-1])
    )
    written = merge(MergeRecipe(experts=experts, gate="hidden"), tmp_path / "out")
    model = expertly.load(written.folder, "float32")
    rows_ED = parameters_of(written.folder)["layers.0.feed_forward.router.w_ED"]
    torch.testing.assert_close(rows_ED[0], -rows_ED[1])
    for expert, text in enumerate(texts):
        ids_BS = torch.tensor([model.tokenizer.encode(text)])
        for routing in model(ids_BS, routings=True).routings:
            assert int(routing.probs_TE.mean(0).argmax()) == expert
