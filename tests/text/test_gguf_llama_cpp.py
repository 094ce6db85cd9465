"""llama.cpp as the oracle: the same ids from the same file.

PEER_PYTHON names an interpreter that has llama-cpp-python, if this one has it not.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_gguf_text import TEXTS, llama_metadata, some_pieces

from expertly.formats import gguf_writer
from expertly.text import Tokenizer, corpora
from expertly.text.gguf_pretokenizers import WORDS_OF_PRE
from expertly.text.gguf_tokenizer import tokenizer_of
from expertly.text.gguf_vocabulary import vocabulary_of

pytestmark = pytest.mark.slow

BUNDLED = Path(__file__).parents[2] / "src/expertly/bundled"
PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
CHILD = """
import json, sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
texts = json.load(sys.stdin)
json.dump([model.tokenize(t.encode(), add_bos=True, special=True) for t in texts], sys.stdout)
"""
MODEL: dict[str, int | float | str] = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 64,
    "llama.block_count": 1,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
MARKED = ["<|end|>abc<|end|> d", "a\u00a0b", "'\u017f", "\u1680x", "a\x00b", "½²Ⅷ௧"]


@pytest.fixture(scope="module", autouse=True)
def peer() -> None:
    found = subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{PYTHON} has no llama_cpp")


def theirs(folder: Path, metadata: dict[str, object], texts: Sequence[str]) -> list[list[int]]:
    path = folder / "vocabulary.gguf"
    gguf_writer.write(path, {**MODEL, **metadata}, [])  # type: ignore[dict-item]
    done = subprocess.run(
        [PYTHON, "-c", CHILD, str(path)], input=json.dumps(texts).encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    ids: list[list[int]] = json.loads(done.stdout)
    return ids


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def test_the_bundled_tokenizer_gives_the_same_ids_on_all_packaged_texts(tmp_path: Path) -> None:
    bundled = Tokenizer.open(BUNDLED)
    metadata = dict(vocabulary_of(bundled, bundled.vocab_size).metadata)
    texts = [*TEXTS, *MARKED, *map(corpora.whole_text, corpora.domains())]
    for text, ids in zip(texts, theirs(tmp_path, metadata, texts), strict=True):
        assert bundled.encode(text) == ids


@pytest.mark.parametrize("pre", WORDS_OF_PRE)
def test_a_name_of_cuts_means_the_same(tmp_path: Path, pre: str) -> None:
    bundled = Tokenizer.open(BUNDLED)
    metadata = dict(vocabulary_of(bundled, bundled.vocab_size).metadata)
    metadata["tokenizer.ggml.pre"] = pre
    ours = tokenizer_of(metadata)
    assert ours is not None
    held_out = "".join(map(corpora.held_out_text, corpora.domains()))
    texts = [*TEXTS, *MARKED, *cut(held_out, 300)]
    for text, ids in zip(texts, theirs(tmp_path, metadata, texts), strict=True):
        assert ours.encode(text) == ids, text


@pytest.mark.parametrize("has_prefix", [True, False])
def test_pieces_join_the_same(tmp_path: Path, has_prefix: bool) -> None:
    metadata = llama_metadata(some_pieces(), add_space_prefix=has_prefix)
    ours = tokenizer_of(metadata)
    assert ours is not None
    held_out = "".join(map(corpora.held_out_text, corpora.domains()))
    texts = [*TEXTS, "a<s>b</s> c", *cut(held_out, 300)]
    for text, ids in zip(texts, theirs(tmp_path, metadata, texts), strict=True):
        assert ours.encode(text) == ids, text
