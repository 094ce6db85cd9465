"""Models for the engine's tests: a small real decoder, and one that says what it is told."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from expertly.config import Attention, Dense, Layer, Mixture, ModelConfig, Norm, Rope, Router
from expertly.model import Cache, Decoder, Output, initialise
from expertly.text import Tokenizer


def bytes_tokenizer() -> Tokenizer:
    """A token a byte; 256 is the control token </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["</s>"])
    return Tokenizer(inner)


END = 256


def small_config(max_context: int = 64) -> ModelConfig:
    attention = Attention(num_heads=2, num_kv_heads=1, head_size=8, rope=Rope(base=10_000.0))
    mixture = Mixture(num_experts=5, num_chosen=2, expert_size=12, router=Router(norm_p=1.0))
    return ModelConfig(
        family="mixtral",
        vocab_size=257,
        hidden_size=16,
        max_context=max_context,
        layers=(
            Layer(attention=attention, feed_forward=mixture),
            Layer(attention=replace(attention, window=7), feed_forward=Dense(size=20)),
            Layer(attention=attention, feed_forward=mixture),
        ),
        norm=Norm(eps=1e-5),
        eos_ids=(END,),
    )


def small_decoder(max_context: int = 64, seed: int = 0) -> Decoder:
    model = Decoder(small_config(max_context))
    # wide weights, so that greedy texts do not settle on one token
    initialise(model, seed, std=0.4)
    model.tokenizer = bytes_tokenizer()
    return model


class Script:
    """After any prompt of `prompt_length` tokens its logits choose `reply`, token by token."""

    def __init__(self, prompt_length: int, reply: list[int], max_context: int = 1000) -> None:
        self.config = small_config(max_context)
        self.tokenizer = bytes_tokenizer()
        self.prompt_chunk = 512
        self.context = self.config.max_context
        self.prompt_length = prompt_length
        self.reply = reply
        self.widths: list[int] = []

    def new_cache(self, batch_size: int = 1) -> Cache:
        return Cache(self.config, batch_size)

    def __call__(
        self, ids_BS, mask_BS=None, *, cache: Cache, logits: str, routings: bool
    ) -> Output:
        assert logits == "last" and not routings
        self.widths.append(ids_BS.shape[1])
        cache.admit(torch.ones_like(ids_BS, dtype=torch.bool))
        step = max(0, cache.length - self.prompt_length)
        logits_BV = torch.zeros(ids_BS.shape[0], self.config.vocab_size)
        logits_BV[:, self.reply[min(step, len(self.reply) - 1)]] = 9.0
        return Output(logits_BV, None)


def script(reply: str, prompt: str = "?", **sizes: int) -> Script:
    """Says `reply` and then the end token."""
    tokenizer = bytes_tokenizer()
    return Script(len(tokenizer.encode(prompt)), [*tokenizer.encode(reply), END], **sizes)
