"""As `fuzz_gguf.py`, but coverage steers the mutants: minutes of libFuzzer, by way of atheris.

    pip install atheris
    python tools/fuzz_guided.py [--minutes 30] [--corpus FOLDER]

Ends with exit code 0, or with libFuzzer's account of the find and the file that holds it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["expertly.formats"]):
    from fuzz_gguf import check
    from fuzz_seeds import gguf_seeds

TIMEOUT_SECONDS = 1
MEMORY_MIB = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder)
        for number, data in enumerate(gguf_seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
        arguments = [
            f"-max_total_time={round(options.minutes * 60)}",
            f"-timeout={TIMEOUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            "-max_len=8192",
            "-print_final_stats=1",
        ]
        # never comes back
        atheris.Setup([sys.argv[0], *arguments, str(corpus)], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
