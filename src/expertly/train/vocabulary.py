"""The tokenizer of a run: a byte-level BPE trained on its texts, or one that a recipe names."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from expertly.errors import RecipeError
from expertly.text import Tokenizer
from expertly.train.files import write_whole
from expertly.train.recipe import Recipe
from expertly.train.texts import Domain

END = "<|end|>"
_BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)


def train_bpe(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Byte-level BPE with GPT-2's way of cutting words; id 0 ends a text. The same texts give the
    same tokenizer; texts with too few different words give a smaller one than asked for."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_tokenizer(recipe: Recipe, domains: tuple[Domain, ...], folder: Path) -> Tokenizer:
    """Writes tokenizer.json (and its small files) into `folder` and opens it."""
    if recipe.tokenizer.path is not None:
        _copy(recipe.folder / recipe.tokenizer.path, folder)
        return Tokenizer.open(folder)
    assert recipe.tokenizer.vocab_size is not None
    inner = train_bpe(_lines(domains), recipe.tokenizer.vocab_size)
    write_whole(folder / "tokenizer.json", inner.to_str(pretty=True).encode())
    settings = {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_whole(folder / "tokenizer_config.json", (json.dumps(settings, indent=2) + "\n").encode())
    return Tokenizer.open(folder)


def _lines(domains: tuple[Domain, ...]) -> Iterator[str]:
    # whole lines keep the trainer's memory small; a word never spans two of them
    for domain in domains:
        for text in domain.training():
            yield from text.splitlines(keepends=True)


def _copy(path: Path, folder: Path) -> None:
    source = path / "tokenizer.json" if path.is_dir() else path
    if not source.is_file():
        raise RecipeError(
            f"[tokenizer] path: there is no file {source}",
            hint="name a tokenizer.json, or give vocab_size to train one",
        )
    write_whole(folder / "tokenizer.json", source.read_bytes())
    for name in _BESIDE:
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, folder / name)
