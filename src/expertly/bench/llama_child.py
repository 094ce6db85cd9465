"""A program: llama.cpp behind lines of JSON. It imports nothing of this package, as the
interpreter that runs it may not have it; `peer.py` starts it and says what it is asked.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

_MAX_BATCH = 2048
# its threads spin for some milliseconds after their last work, and would be measured with others
_REST_SECONDS = 0.05

Call = Sequence[Sequence[int]]


class Llama:
    """A model, and a context as large as what is measured in it."""

    def __init__(self, path: str, threads: int) -> None:
        self.api: Any = import_module("llama_cpp")
        self._log = self.api.llama_log_callback(_discard)
        self.api.llama_log_set(self._log, None)
        self.api.llama_backend_init()
        self._threads = threads
        self._model = self.api.llama_model_load_from_file(
            path.encode(), self.api.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"cannot load {path}")
        self._context: Any = None
        self._prompt_length = 0
        self._streams = 0

    def prepare(self, prompts: Call, room: int) -> None:
        if self._context:
            self.api.llama_free(self._context)
        self._streams, self._prompt_length = len(prompts), len(prompts[0])
        self._context = self._new_context(room)
        for stream, ids in enumerate(prompts):
            for start in range(0, len(ids), _MAX_BATCH):
                batch = self._batch([(stream, ids[start : start + _MAX_BATCH])], start)
                self._decode(batch)
                self.api.llama_batch_free(batch)

    def _new_context(self, room: int) -> Any:
        given = self.api.llama_context_default_params()
        given.n_ctx = self._streams * -(-(self._prompt_length + room) // 256) * 256
        given.n_seq_max = self._streams
        given.n_batch = _MAX_BATCH
        given.n_threads = given.n_threads_batch = self._threads
        context = self.api.llama_init_from_model(self._model, given)
        if not context:
            raise SystemExit(f"no memory for a context of {given.n_ctx} tokens")
        return context

    def seconds(self, calls: Sequence[Call]) -> float:
        """The time of all calls; what they added to the cache is taken out again."""
        batches = list(self._batches(calls))
        began = time.perf_counter()
        for batch in batches:
            self._decode(batch)
        took = time.perf_counter() - began
        memory = self.api.llama_get_memory(self._context)
        for stream in range(self._streams):
            self.api.llama_memory_seq_rm(memory, stream, self._prompt_length, -1)
        for batch in batches:
            self.api.llama_batch_free(batch)
        return took

    def _batches(self, calls: Sequence[Call]) -> Iterator[Any]:
        position = self._prompt_length
        for call in calls:
            for start in range(0, len(call[0]), _MAX_BATCH):
                parts = [(s, ids[start : start + _MAX_BATCH]) for s, ids in enumerate(call)]
                yield self._batch(parts, position + start)
            position += len(call[0])

    def _batch(self, parts: Sequence[tuple[int, Sequence[int]]], position: int) -> Any:
        """Ids of streams from one position on; logits are asked of each stream's last."""
        total = sum(len(ids) for _, ids in parts)
        batch = self.api.llama_batch_init(total, 0, 1)
        batch.n_tokens = total
        at = 0
        for stream, ids in parts:
            for offset, token in enumerate(ids):
                batch.token[at] = token
                batch.pos[at] = position + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = stream
                batch.logits[at] = offset == len(ids) - 1
                at += 1
        return batch

    def _decode(self, batch: Any) -> None:
        code = self.api.llama_decode(self._context, batch)
        self.api.llama_synchronize(self._context)
        if code != 0:
            raise SystemExit(f"llama_decode answered {code}")

    def about(self) -> dict[str, Any]:
        features = self.api.llama_print_system_info().decode()
        return {"version": self.api.__version__, "features": " ".join(features.split())}


def _discard(level: int, text: ctypes.c_char_p, data: ctypes.c_void_p) -> None:
    pass


def main() -> None:
    # what the library prints must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    try:
        llama = Llama(sys.argv[1], int(sys.argv[2]))
        answer(llama.about())
        for line in sys.stdin:
            asked = json.loads(line)
            if "calls" in asked:
                found = {"seconds": llama.seconds(asked["calls"])}
            else:
                llama.prepare(asked["prompts"], asked["room"])
                found = {}
            time.sleep(_REST_SECONDS)
            answer(found)
    except ModuleNotFoundError as error:
        answer({"missing": error.name})
    except SystemExit as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main()
