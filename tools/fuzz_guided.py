"""As `fuzz_gguf.py` and `fuzz_packed.py`, but coverage steers the mutants: libFuzzer, by way of
atheris.

    pip install atheris
    python tools/fuzz_guided.py gguf|packed [--mutants 10000000] [--minutes 30] [--corpus FOLDER]

Ends with exit code 0, or with libFuzzer's account of the find and the file that holds it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris
import fuzz_gguf
import fuzz_packed
from fuzz_seeds import gguf_seeds

TIMEOUT_SECONDS = 1
MEMORY_MIB = 512


PARSERS = {
    "gguf": (fuzz_gguf.check, gguf_seeds),
    "packed": (fuzz_packed.check, fuzz_packed.packed_seeds),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parser", choices=PARSERS)
    parser.add_argument("--mutants", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    check, seeds = PARSERS[options.parser]

    def target(data: bytes) -> None:
        check(data)

    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder)
        for number, data in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
        arguments = [
            f"-runs={options.mutants}",
            f"-max_total_time={round(options.minutes * 60)}",
            f"-timeout={TIMEOUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            "-max_len=8192",
            "-print_final_stats=1",
        ]
        # an editable installation is found by a finder that import hooks do not see
        atheris.instrument_all()
        # never comes back
        atheris.Setup([sys.argv[0], *arguments, str(corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
