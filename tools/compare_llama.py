"""Whether llama.cpp computes the same as we do from the same GGUF file: logits, and greedy text.

    python tools/compare_llama.py [--model FOLDER] [--type f16] [--tokens 200] [--peer-python PATH]

The model is exported after its config.json was changed in a copy, where llama.cpp has one way only
of what it says. --peer-python is an interpreter that has llama-cpp-python.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expertly.checkpoint import load
from expertly.checkpoint.gguf_saving import GgufReport, save_gguf
from expertly.checkpoint.locating import bundled
from expertly.families.gguf_archs import ARCHS, name_of
from expertly.model import NativeDecoder

PROMPTS = (
    "def main():\n    ",
    "The city of ",
    "ROMEO: ",
    "Question: What is the capital of France?\nAnswer:",
    '{"name": "',
    "In the beginning",
)
_CHILD = """
import json, sys
import numpy as np
import llama_cpp as lib

path, out, cache, ids, num_new = *sys.argv[1:4], json.loads(sys.argv[4]), int(sys.argv[5])
model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
if not model:
    sys.exit("it does not load")
settings = lib.llama_context_default_params()
settings.n_ctx, settings.n_threads, settings.n_threads_batch = len(ids) + num_new, 1, 1
settings.n_batch = settings.n_ubatch = len(ids)
settings.type_k = settings.type_v = getattr(lib, f"GGML_TYPE_{cache}")
settings.flash_attn_type = 0
context = lib.llama_init_from_model(model, settings)
size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
batch = lib.llama_batch_init(len(ids), 0, 1)

def logits_of(tokens, first):
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, first + i
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
    assert lib.llama_decode(context, batch) == 0
    rows = [lib.llama_get_logits_ith(context, i) for i in range(len(tokens))]
    return np.stack([np.ctypeslib.as_array(row, (size,)).copy() for row in rows])

found = logits_of(ids, 0)
np.save(out, found)
new, last = [], found[-1]
for step in range(num_new):
    new.append(int(last.argmax()))
    last = logits_of(new[-1:], len(ids) + step)[-1]
print(json.dumps(new))
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`same_tokens`: how many greedy tokens agree before the first that does not; `lead`: there,
    our first choice's logit above theirs. Both in standard deviations of the logits: `lead`, and
    `logit_error`, the largest over the prompt."""

    prompt: str
    num_tokens: int
    same_tokens: int
    lead: float
    logit_error: float


def theirs(
    python: str, path: Path, ids: Sequence[int], num_new: int = 0, cache: str = "F16"
) -> tuple[Tensor, list[int]]:
    """llama.cpp's logits of `ids`, SV, and its greedy tokens after them. `cache`: the type of keys
    and values, F32 or (as ours are, and as it has them by itself) F16. Raises RuntimeError with its
    last words."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        arguments = [str(path), str(out), cache, json.dumps(list(ids)), str(num_new)]
        done = subprocess.run([python, "-c", _CHILD, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return torch.from_numpy(np.load(out)), json.loads(done.stdout)


def ours(
    model: NativeDecoder, ids: Sequence[int], num_new: int
) -> tuple[Tensor, list[int], Tensor]:
    """Our logits of `ids`, SV, the greedy tokens after them, and the logits that each was chosen
    from."""
    cache = model.new_cache()
    logits_SV = model(torch.tensor([ids]), cache=cache).logits[0]
    rows, new = [logits_SV[-1]], list[int]()
    for _ in range(num_new):
        new.append(int(rows[-1].argmax()))
        rows.append(model(torch.tensor([new[-1:]]), cache=cache, logits="last").logits[0])
    return logits_SV, new, torch.stack(rows)


def compare(python: str, path: Path, prompts: Sequence[str], num_new: int) -> list[Comparison]:
    """One file in both engines, prompt by prompt."""
    model = load(path, "native", threads=1)
    assert model.tokenizer is not None
    found = []
    for prompt in prompts:
        ids = model.tokenizer.encode(prompt)
        their_SV, their_new = theirs(python, path, ids, num_new)
        our_SV, our_new, rows_SV = ours(model, ids, num_new)
        same = next((i for i in range(num_new) if our_new[i] != their_new[i]), num_new)
        row, scale = rows_SV[same], our_SV.std()
        lead = row.max() - row[their_new[same]] if same < num_new else torch.tensor(0.0)
        found.append(
            Comparison(
                prompt=prompt,
                num_tokens=num_new,
                same_tokens=same,
                lead=float(lead / scale),
                logit_error=float((their_SV - our_SV).abs().max() / scale),
            )
        )
    return found


def export(folder: Path, out: Path, kind: str) -> GgufReport:
    """A file of the model as llama.cpp computes its architecture."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "model"
        shutil.copytree(folder, copy)
        config: dict[str, Any] = json.loads((copy / "config.json").read_text())
        if "norm_topk_prob" in config:
            router = ARCHS[name_of(config["model_type"])].router
            config["norm_topk_prob"] = router.norm_p is not None
        (copy / "config.json").write_text(json.dumps(config))
        return save_gguf(copy, out, kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=bundled())
    parser.add_argument("--type", default="f16")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompt", action="append", help="repeatable; six of our own if none")
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.gguf"
        for difference in export(options.model, path, options.type).differences:
            print(f"note: {difference}", file=sys.stderr)
        prompts = options.prompt or PROMPTS
        rows = compare(options.peer_python, path, prompts, options.tokens)
    for row in rows:
        print(
            f"{row.prompt!r}: {row.same_tokens} of {row.num_tokens} tokens the same, "
            f"logits within {row.logit_error:.1e}, lead {row.lead:.1e}",
            file=sys.stderr,
        )
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
