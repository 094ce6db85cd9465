import os
import sys
from pathlib import Path

import pytest

from expertly.bench import Peer, plan
from expertly.errors import InputError

MODEL = Path("model.gguf")
# answers as the real child does; the time is the number of calls
CHILD = """
import json, sys
print(json.dumps({"version": "1", "arguments": sys.argv[1:]}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "calls" in asked:
        print(json.dumps({"seconds": len(asked["calls"])}), flush=True)
    else:
        print(json.dumps({"streams": len(asked["prompts"])}), flush=True)
"""


def child_of(folder: Path, text: str) -> Path:
    path = folder / "child.py"
    path.write_text(text)
    return path


def test_a_child_is_asked_to_prepare_and_to_time(tmp_path: Path) -> None:
    prefill, decode = plan([8], [4], [3], vocab_size=9, max_context=100)
    with Peer(MODEL, 2, child=child_of(tmp_path, CHILD)) as peer:
        assert peer.about == {"version": "1", "arguments": ["model.gguf", "2"]}
        peer.prepare(decode)
        assert peer.seconds(decode) == 32.0 and peer.seconds(prefill) == 1.0


def test_closing_ends_the_child(tmp_path: Path) -> None:
    child = child_of(tmp_path, CHILD.replace('"version": "1"', '"pid": __import__("os").getpid()'))
    with Peer(MODEL, 2, child=child) as peer:
        os.kill(peer.about["pid"], 0)
    with pytest.raises(ProcessLookupError):
        os.kill(peer.about["pid"], 0)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('print(\'{"missing": "llama_cpp"}\')', "not installed", "pip install llama-cpp-python"),
        ('print(\'{"error": "cannot load"}\')', "cannot load", "leave out --peer"),
        ("import sys; sys.exit('broken library')", "code 1", "broken library"),
        ("", "code 0", "leave out --peer"),
    ],
)
def test_a_child_that_does_not_start_is_an_error_that_says_why(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        Peer(MODEL, 2, child=child_of(tmp_path, text))
    assert message in caught.value.message and hint in caught.value.hint


def test_a_child_that_dies_while_it_is_asked_is_an_error(tmp_path: Path) -> None:
    text = "import sys; print('{}', flush=True); input(); sys.exit('out of memory')"
    (work,) = plan([8], [], [1], vocab_size=9, max_context=100)
    with Peer(MODEL, 2, child=child_of(tmp_path, text)) as peer:
        for _ in range(2):
            with pytest.raises(InputError, match="code 1") as caught:
                peer.seconds(work)
            assert caught.value.hint == "out of memory"


def test_an_interpreter_that_is_none_is_named() -> None:
    with pytest.raises(InputError) as caught:
        Peer(MODEL, 2, python="/nowhere/python")
    assert "/nowhere/python" in caught.value.message and "--peer-python" in caught.value.hint


def test_the_peer_reads_gguf_files_only() -> None:
    with pytest.raises(InputError, match=r"not folder"):
        Peer(Path("folder"), 2)


LLAMA = '''
"""Writes what it is asked to a file beside it; fails where the model's name says so."""
import ctypes, os, pathlib, types
__version__ = "9"
log = pathlib.Path(__file__).with_name("log.txt")
os.write(1, b"noise on stdout\\n")
def say(*words): log.open("a").write(" ".join(map(str, words)) + "\\n")
class Batch:
    def __init__(self, n):
        self.n_tokens = 0
        self.token, self.pos, self.n_seq_id, self.logits = ([0] * n for _ in range(4))
        self.seq_id = [[0] for _ in range(n)]
llama_log_callback = lambda function: function
llama_log_set = lambda *_: None
llama_backend_init = lambda: None
llama_model_default_params = lambda: None
llama_context_default_params = types.SimpleNamespace
llama_model_load_from_file = lambda path, _: None if b"bad" in path else 1
def llama_init_from_model(model, given):
    say("context", given.n_ctx, given.n_seq_max, given.n_threads)
    return 1
llama_free = lambda context: say("free")
llama_batch_init = lambda n, embd, seqs: Batch(n)
llama_batch_free = lambda batch: None
def llama_decode(context, b):
    n = b.n_tokens
    say("decode", b.token[:n], b.pos[:n], [s[0] for s in b.seq_id[:n]], [int(x) for x in b.logits])
    return 0
llama_synchronize = lambda context: None
llama_get_memory = lambda context: 1
llama_memory_seq_rm = lambda memory, stream, start, end: say("rewind", stream, start, end)
llama_print_system_info = lambda: b"CPU : AVX2 = 1 | "
'''


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for llama_cpp on the path of the child; the file that it logs to."""
    (tmp_path / "llama_cpp.py").write_text(LLAMA)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "log.txt"


def test_the_program_fills_streams_one_by_one_and_steps_them_together(llama: Path) -> None:
    (work,) = plan([], [2], [2], vocab_size=9, max_context=100)
    with Peer(MODEL, 3) as peer:
        assert peer.about == {"version": "9", "features": "CPU : AVX2 = 1 |"}
        peer.prepare(work)
        assert peer.seconds(work) >= 0
    lines = llama.read_text().splitlines()
    (first, second), step = work.prompts, [ids[0] for ids in work.calls[0]]
    assert lines[:4] == [
        "context 512 2 3",
        f"decode {list(first)} [0, 1] [0, 0] [0, 1]",
        f"decode {list(second)} [0, 1] [1, 1] [0, 1]",
        f"decode {step} [2, 2] [0, 1] [1, 1]",
    ]
    assert lines[34].endswith("[33, 33] [0, 1] [1, 1]")
    assert lines[35:] == ["rewind 0 2 -1", "rewind 1 2 -1"]


def test_the_program_cuts_long_prompts_and_asks_for_the_last_logits(llama: Path) -> None:
    (work,) = plan([2050], [], [1], vocab_size=9, max_context=5000)
    with Peer(MODEL, 1) as peer:
        peer.prepare(work)
        peer.seconds(work)
        peer.prepare(work)
    context, first, second, rewind, free, again = llama.read_text().splitlines()
    assert context == again == "context 2304 1 1" and (rewind, free) == ("rewind 0 0 -1", "free")
    assert first.count("2047") == 1 and second.startswith("decode ")
    assert second.endswith("[2048, 2049] [0, 0] [0, 1]")


def test_the_program_says_what_is_wrong_with_a_model(llama: Path) -> None:
    with pytest.raises(InputError, match="cannot load bad"):
        Peer(Path("bad.gguf"), 1)


def test_without_the_library_the_program_says_so(tmp_path: Path) -> None:
    # an interpreter of its own that has no packages
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(InputError) as caught:
        Peer(MODEL, 1, python=str(bare))
    assert "llama_cpp" in caught.value.message and "--peer-python" in caught.value.hint
