"""Small tokenizers of the kinds that the hub's models have, made in place."""

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

TEXTS = [
    "the quick brown fox jumps over the lazy dog and the cat",
    "Ünïcödé wörds, 数学 and 漢字, emoji 🙂🙃, naïve café",
    "def f(x):\n    return x * 2\n",
]


def byte_level(vocab_size: int = 320) -> Inner:
    """As GPT-2, Qwen, OLMoE, gpt-oss: tokens are runs of bytes."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    inner.add_tokens([AddedToken("<tool>", special=False)])
    return inner


def byte_fallback() -> Inner:
    """As Llama and Mixtral: words with a leading mark, bytes for what has no token."""
    words = ["▁", "▁the", "▁quick", "the", "quick", "a", "b", "c", "é", "▁▁", " ", "数"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocab = {name: i for i, name in enumerate(names)}
    inner = Inner(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return inner


def metaspace() -> Inner:
    """As converted SentencePiece models: the first word's mark is no space."""
    inner = Inner(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    return inner


def word_pieces() -> Inner:
    """As BERT: pieces that continue a word are marked, words are joined by spaces."""
    names = ["[UNK]", "the", "quick", "##er", "##s", ",", ".", "fox"]
    inner = Inner(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    return inner


KINDS = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "metaspace": metaspace,
    "word_pieces": word_pieces,
}
