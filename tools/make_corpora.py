"""Makes the packaged texts: one xz file a domain under src/expertly/text/corpora.

    python tools/make_corpora.py TEXTS [--stdlib FOLDER]

TEXTS holds drama.txt, encyclopedia.txt, swahili.txt, maths.train.txt and maths.test.txt (NOTICE
says where they come from); the standard library is that of CPython 3.11.
"""

import argparse
import hashlib
import lzma
import sysconfig
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src" / "expertly" / "text" / "corpora"
HELD_OUT = 0.05

# plain code that people read; no tests, no tables, nothing generated
MODULES = """
_weakrefset abc argparse ast base64 bdb bisect calendar cmd code codecs configparser contextlib
copy csv dataclasses datetime difflib enum filecmp fileinput fnmatch fractions functools getopt
gettext glob graphlib gzip heapq hmac linecache numbers operator os pathlib posixpath pprint queue
random reprlib sched secrets selectors shelve shlex shutil socket socketserver statistics string
subprocess tempfile textwrap threading timeit tokenize trace traceback types typing warnings weakref
zipfile
"""
PACKAGES = ["collections", "concurrent", "json", "logging", "tomllib"]


def maths(train: str, test: str) -> str:
    """The first 95% of the training problems, then so many of the last test problems that the
    last 5% of the whole are test problems, and none of them is in what is trained on."""
    problems = train.split("\n\n")
    kept = "\n\n".join(problems[: round(len(problems) * (1 - HELD_OUT))]) + "\n\n"
    room = len(kept.encode()) * HELD_OUT / (1 - HELD_OUT)
    tail: list[str] = []
    for problem in reversed(test.rstrip("\n").split("\n\n")):
        room -= len(problem.encode()) + 2
        if room < 0:
            break
        tail.append(problem)
    return kept + "\n\n".join(reversed(tail)) + "\n"


def python(stdlib: Path) -> str:
    """Sources in an order that is random but always the same, each under its path."""
    files = [stdlib / f"{name}.py" for name in MODULES.split()]
    for package in PACKAGES:
        files += (stdlib / package).rglob("*.py")
    files.sort(key=lambda path: hashlib.sha256(str(path.relative_to(stdlib)).encode()).digest())
    return "\n".join(f"# {path.relative_to(stdlib)}\n{path.read_text('utf-8')}" for path in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--stdlib", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    options = parser.parse_args()
    read = {path.name: path.read_text("utf-8") for path in options.texts.glob("*.txt")}
    domains = {name: read[f"{name}.txt"] for name in ("drama", "encyclopedia", "swahili")}
    domains["maths"] = maths(read["maths.train.txt"], read["maths.test.txt"])
    domains["python"] = python(options.stdlib)
    TARGET.mkdir(exist_ok=True)
    for name, text in domains.items():
        packed = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
        (TARGET / f"{name}.txt.xz").write_bytes(packed)
        print(f"{name}: {len(text.encode()):,} bytes, {len(packed):,} packed")


if __name__ == "__main__":
    main()
