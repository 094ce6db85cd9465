from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from engine_models import END, Script, bytes_tokenizer, script, small_decoder

from expertly.config import LongScaling
from expertly.engine import Engine, Piece, Sampling
from expertly.engine.engine import _chunks
from expertly.errors import InputError

GREEDY = Sampling(temperature=0.0, max_tokens=24)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def greedy_by_hand(model, ids: list[int], count: int) -> list[int]:
    """Each token from a pass over the whole text, without a cache."""
    written = []
    for _ in range(count):
        logits_BSV = model(torch.tensor([ids + written])).logits
        written.append(int(logits_BSV[0, -1].argmax()))
        if written[-1] == END:
            break
    return written


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 6, 30])
def test_greedy_tokens_are_those_of_full_passes(seed: int, length: int) -> None:
    model = small_decoder(seed=seed)
    ids = torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    expected = greedy_by_hand(model, ids, 24)
    assert list(Engine(model).generate(ids, GREEDY).token_ids) == expected
    assert len(set(expected)) > 3


def test_pieces_join_to_the_completion() -> None:
    model = small_decoder()
    sampling = Sampling(seed=5, max_tokens=30)
    pieces = list(Engine(model).stream("Once upon", sampling))
    whole = Engine(model).generate("Once upon", sampling)
    assert text_of(pieces) == whole.text
    assert tuple(piece.token_id for piece in pieces) == whole.token_ids
    assert pieces[-1].finish_reason == whole.finish_reason
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert whole.num_prompt_tokens == 9


def test_a_seed_fixes_the_text_and_another_changes_it() -> None:
    engine = Engine(small_decoder())
    first, again, other = (engine.generate("a", Sampling(seed=s)).token_ids for s in (1, 1, 2))
    assert first == again != other


def test_without_a_seed_texts_differ() -> None:
    engine = Engine(small_decoder())
    texts = {engine.generate("a", Sampling(max_tokens=20)).token_ids for _ in range(5)}
    assert len(texts) > 1


def test_the_end_token_stops_and_is_not_text() -> None:
    pieces = list(Engine(script("hello")).stream("?", GREEDY))
    assert text_of(pieces) == "hello"
    assert pieces[-1] == Piece(text="", token_id=END, finish_reason="stop")


def test_ignore_eos_goes_on() -> None:
    sampling = replace(GREEDY, ignore_eos=True, max_tokens=8)
    done = Engine(script("hello")).generate("?", sampling)
    assert done.token_ids[-3:] == (END, END, END)
    assert (done.text, done.finish_reason) == ("hello", "length")


def test_max_tokens_ends_the_text() -> None:
    done = Engine(script("hello")).generate("?", replace(GREEDY, max_tokens=3))
    assert (done.text, done.finish_reason, len(done.token_ids)) == ("hel", "length", 3)


def test_the_end_of_the_context_ends_the_text() -> None:
    model = script("hello world", prompt="???", max_context=6)
    done = Engine(model).generate("???", replace(GREEDY, max_tokens=None))
    # three tokens fit, and one more is written though it could not be read
    assert (done.text, done.finish_reason) == ("hell", "length")


def test_a_prompt_that_fills_the_context_gets_one_token() -> None:
    done = Engine(script("hello", prompt="?????", max_context=5)).generate("?????", GREEDY)
    assert (done.text, done.finish_reason) == ("h", "length")


def test_a_stop_string_ends_the_text_before_it() -> None:
    pieces = list(Engine(script("one, two\n\nthree")).stream("?", replace(GREEDY, stop="\n\n")))
    assert text_of(pieces) == "one, two"
    assert pieces[-1].finish_reason == "stop"
    assert len(pieces) == len("one, two\n\n")


def test_what_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    for sampling in (GREEDY, replace(GREEDY, max_tokens=4)):
        done = Engine(script("abc<")).generate("?", replace(sampling, stop="<end>"))
        assert done.text == "abc<"


def test_a_character_of_several_tokens_is_not_split() -> None:
    texts = [piece.text for piece in Engine(script("é🙂")).stream("?", GREEDY)]
    assert texts == ["", "é", "", "", "", "🙂", ""]


def test_a_character_cut_by_max_tokens_is_shown_as_broken() -> None:
    done = Engine(script("a🙂")).generate("?", replace(GREEDY, max_tokens=3))
    assert done.text == "a�"


def test_a_stop_string_may_be_completed_by_the_end() -> None:
    done = Engine(script("a🙂")).generate("?", replace(GREEDY, max_tokens=3, stop="�"))
    assert (done.text, done.finish_reason) == ("a", "stop")


def test_a_long_prompt_is_read_in_chunks() -> None:
    model = Script(1100, [65, END], max_context=2000)
    Engine(model).generate([1] * 1100, GREEDY)
    assert model.widths == [512, 512, 76, 1]


def test_chunks_change_no_tokens() -> None:
    model = small_decoder()
    ids = list(range(30))
    whole = Engine(model).generate(ids, GREEDY)
    model.prompt_chunk = 7
    assert Engine(model).generate(ids, GREEDY) == whole


def test_a_prompt_beyond_the_original_length_is_read_at_once() -> None:
    config = small_decoder(2000).config
    scaling = LongScaling(
        short_factors=(1.0,) * 4,
        long_factors=(2.0,) * 4,
        short_scale=1.0,
        long_scale=1.0,
        original_context=600,
    )
    attention = config.layers[0].attention
    attention = replace(attention, rope=replace(attention.rope, scaling=scaling))
    long = replace(config, layers=(replace(config.layers[0], attention=attention),))
    model = SimpleNamespace(config=long, prompt_chunk=512)
    assert [len(c) for c in _chunks([1] * 601, model)] == [601]
    assert [len(c) for c in _chunks([1] * 600, model)] == [512, 88]


def test_a_model_with_room_for_less_than_its_context_keeps_texts_to_that() -> None:
    model = small_decoder()
    model.context = 10
    with Engine(model) as engine:
        assert len(engine.generate([1] * 4, Sampling(max_tokens=100)).token_ids) == 7
        with pytest.raises(InputError, match="11 tokens, the memory budget has room for 10"):
            engine.encode([1] * 11)


def test_routings_are_those_of_the_pass_that_reads_the_token() -> None:
    model = small_decoder()
    with Engine(model, routings=True) as engine:
        pieces = list(engine.stream("Hello", GREEDY))
    ids = [*bytes_tokenizer().encode("Hello"), *(piece.token_id for piece in pieces)]
    whole = model(torch.tensor([ids]), routings=True).routings
    assert len(whole) == 2
    for number, piece in enumerate(pieces, start=5):
        for layer, own in zip(whole, piece.routings, strict=True):
            assert own.token_R.tolist() == [0, 0]
            torch.testing.assert_close(own.logits_TE[0], layer.logits_TE[number])
            rows = layer.token_R == number
            torch.testing.assert_close(own.weight_R, layer.weight_R[rows])
            assert torch.equal(own.slot_R, layer.slot_R[rows])


def test_routings_change_no_text() -> None:
    model = small_decoder()
    plain = list(Engine(model).stream("Hello", GREEDY))
    rich = list(Engine(model, routings=True).stream("Hello", GREEDY))
    assert [replace(piece, routings=None) for piece in rich] == plain
    assert all(piece.routings is None for piece in plain)


def test_a_token_beyond_the_context_has_no_routings() -> None:
    engine = Engine(small_decoder(max_context=8), routings=True)
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    pieces = list(engine.stream("Hello", sampling))
    assert [piece.routings is None for piece in pieces] == [False, False, False, True]


def test_a_prompt_can_be_read_for_its_routings() -> None:
    model = small_decoder()
    pieces = Engine(model, routings=True).read("Hello")
    assert [piece.text for piece in pieces] == list("Hello")
    ids = bytes_tokenizer().encode("Hello")
    whole = model(torch.tensor([ids]), routings=True).routings
    for number, piece in enumerate(pieces):
        for layer, own in zip(whole, piece.routings, strict=True):
            expert_R = torch.arange(5).repeat_interleave(layer.counts_E)
            experts = expert_R[layer.token_R == number]
            assert own.counts_E.tolist() == torch.bincount(experts, minlength=5).tolist()
            assert torch.equal(own.probs_TE[0], layer.probs_TE[number])
            assert own.token_R.tolist() == [0, 0]
    assert all(piece.routings is None for piece in Engine(model).read("Hello"))


def test_a_batch_writes_what_each_prompt_alone_would() -> None:
    engine = Engine(small_decoder())
    prompts = ["a", "Once upon a time", [7, 8, 9]]
    samplings = [
        Sampling(temperature=0.0, max_tokens=20),
        Sampling(seed=3, max_tokens=9),
        Sampling(seed=4, top_k=5, stop="e"),
    ]
    together = engine.generate_batch(prompts, samplings)
    assert together == [engine.generate(p, s) for p, s in zip(prompts, samplings, strict=True)]


def test_a_short_prompt_of_a_batch_may_fill_its_own_context() -> None:
    engine = Engine(small_decoder(max_context=20))
    sampling = Sampling(temperature=0.0, max_tokens=None, ignore_eos=True)
    prompts = [[1], [2] * 18]
    together = engine.generate_batch(prompts, [sampling, sampling])
    assert [len(done.token_ids) for done in together] == [20, 3]
    assert together == [engine.generate(prompt, sampling) for prompt in prompts]


def test_a_batch_of_none_is_none() -> None:
    assert Engine(small_decoder()).generate_batch([], []) == []
    with pytest.raises(InputError, match="1 prompts and 0 samplings"):
        Engine(small_decoder()).generate_batch(["a"], [])


def test_a_stream_left_early_leaves_the_engine_well() -> None:
    engine = Engine(small_decoder())
    whole = engine.generate("Hello", GREEDY)
    stream = engine.stream("Hello", GREEDY)
    next(stream)
    stream.close()
    assert engine.generate("Hello", GREEDY) == whole


def test_two_streams_take_turns_without_mixing() -> None:
    engine = Engine(small_decoder())
    alone = [engine.generate(prompt, GREEDY).text for prompt in ("Hello", "Bye")]
    pairs = zip(engine.stream("Hello", GREEDY), engine.stream("Bye", GREEDY), strict=False)
    left, right = zip(*pairs, strict=True)
    assert alone[0].startswith(text_of(left)) and alone[1].startswith(text_of(right))


def test_a_stream_leaves_gradients_of_the_caller_alone() -> None:
    stream = Engine(small_decoder()).stream("Hello", GREEDY)
    next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_closed_engine_says_so() -> None:
    with Engine(small_decoder()) as engine:
        stream = engine.stream("Hello", GREEDY)
        next(stream)
    with pytest.raises(InputError, match="closed"):
        next(stream)
    with pytest.raises(InputError, match="closed"):
        engine.generate("Hello")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "the prompt is empty: 0 tokens"),
        ([], "the prompt is empty: 0 tokens"),
        ("x" * 65, "the prompt has 65 tokens, the model's context 64"),
        ([0] * 70, "the prompt has 70 tokens, the model's context 64"),
        ([1, 257], "token id 257 is outside the vocabulary of 257"),
        ([-1], "token id -1 is outside the vocabulary"),
        ([1.5], "neither ids nor messages"),
        ([True, 1], "neither ids nor messages"),
        ([{"role": "user", "content": "hi"}], "no chat template"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_at_once(prompt: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Engine(small_decoder()).stream(prompt, GREEDY)


def test_a_model_without_a_tokenizer_takes_ids_only() -> None:
    model = small_decoder()
    text_ids = Engine(model).generate([1, 2], GREEDY).token_ids
    model.tokenizer = None
    engine = Engine(model)
    done = engine.generate([1, 2], GREEDY)
    assert (done.text, done.token_ids) == ("", text_ids)
    with pytest.raises(InputError, match="no tokenizer"):
        engine.generate("text")
    with pytest.raises(InputError, match="stop strings"):
        engine.generate([1], Sampling(stop="x"))
