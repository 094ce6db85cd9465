"""Tokenizers as a GGUF file's metadata spells them, written apart from the code under test."""

import json
from functools import cache
from itertools import pairwise

from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers, trainers

from expertly.text import corpora

TEXTS = [
    "",
    " ",
    "the quick brown fox",
    "  two leading, and trailing  ",
    "tabs\t\there\n\n\n  and lines\r\n\r\nthere",
    "I'll say we're done; DON'T you've it's 'Tis 'd",
    "12 123 1234 1,000.50 ½ Ⅷ ٣٤٥",
    "Ünïcödé wörds, naïve café",
    "数学 and 漢字, 한국어 かな カナ",
    "🙂🙃 👍🏽 🇺🇸",
    "no-break\u00a0space \u2003wide \u200bzero",
    "def f(x):\n    return x ** 2  # _x__y != {a: [1]}\n",
    "camelCaseWORDSAndLOUD iPhone URLs/paths/here",
    "مرحبا नमस्ते שלום",
]


@cache
def words() -> str:
    """Some of each packaged text, to train on."""
    return "".join(corpora.training_text(domain)[:30_000] for domain in corpora.domains())


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer, vocab_size: int = 700) -> Inner:
    """A byte-level BPE that cuts words so."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    inner.train_from_iterator([*TEXTS, words()], trainer)
    return inner


def gpt2_metadata(inner: Inner, pre: str, **more: object) -> dict[str, object]:
    """What a converter writes: tokens by id, merges as two words, control tokens as type 3."""
    vocab = inner.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    model = json.loads(inner.to_str())["model"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in ("<s>", "</s>") else 1 for t in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


def llama_metadata(pieces: dict[str, float], **more: object) -> dict[str, object]:
    """A SentencePiece vocabulary: three special tokens, 256 bytes, then the pieces."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


@cache
def some_pieces() -> dict[str, float]:
    """Pieces and scores as SentencePiece's trainer leaves them: minus the rank of their merge."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=900, limit_alphabet=150, show_progress=False)
    inner.train_from_iterator([words()], trainer)
    vocab = inner.get_vocab()
    ordered = sorted(vocab, key=vocab.__getitem__)
    pieces = [p for p in ordered if len(p) > 1] + [p for p in ordered if len(p) == 1]
    return {piece: -float(rank) for rank, piece in enumerate(pieces)}


def naive_pieces(text: str, pieces: dict[str, float]) -> list[str]:
    """SentencePiece's BPE by its definition: join the neighbours of the best score, the leftmost
    first, until none are a piece; what is no piece is bytes."""
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [(a + b, i) for i, (a, b) in enumerate(pairwise(parts))]
        known = [(pieces[pair], -i) for pair, i in pairs if pair in pieces]
        if not known:
            break
        at = -max(known)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    found: list[str] = []
    for part in parts:
        if part in pieces:
            found.append(part)
        else:
            found += [f"<0x{byte:02X}>" for byte in part.encode()]
    return found
