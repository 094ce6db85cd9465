"""The native kernels under AddressSanitizer and UBSan: a build of their own, and the tests that
reach them.

    python tools/sanitize.py [PYTEST ARGUMENTS]

Ends with pytest's exit code; a finding of a sanitizer ends the run at once with its report.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize"
TESTS = (
    "tests/kernels",
    "tests/formats",
    "tests/model/test_native_decoder.py",
    "tests/plug",
)
_OPTIONS = {
    # python keeps what it allocates to the end, and torch's own pages are not ours to judge
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:abort_on_error=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
}


def main() -> int:
    if "expertly_child" in sys.argv[1:2]:
        return _run_tests(sys.argv[2:])
    _build()
    child = [sys.executable, __file__, "expertly_child", *sys.argv[1:]]
    env = {**os.environ, **_OPTIONS, "LD_PRELOAD": _runtime()}
    return subprocess.run(child, env=env, cwd=ROOT).returncode


def _build() -> None:
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    configure += ["-DEXPERTLY_SANITIZE=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([*configure, "-G", "Ninja"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(BUILD)], check=True)


def _runtime() -> str:
    """The sanitizer's library, which has to come before any other, and the one whose exceptions
    it wants to find when it starts."""
    names = ("libasan.so", "libstdc++.so.6")
    commands = (["g++", f"-print-file-name={name}"] for name in names)
    found = (subprocess.run(c, check=True, capture_output=True, text=True) for c in commands)
    return " ".join(done.stdout.strip() for done in found)


def _run_tests(arguments: list[str]) -> int:
    # the package's finder would take the installed build
    (path,) = BUILD.glob("_native*.so")
    spec = importlib.util.spec_from_file_location("expertly._native", path)
    assert spec is not None and spec.loader is not None
    sys.modules["expertly._native"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import pytest

    import expertly

    # these limit a process's memory, of which the sanitizer reserves terabytes
    chosen = arguments or [*TESTS, "--ignore=tests/formats/test_fuzz_gguf.py"]

    expertly._native = module
    return int(pytest.main(chosen))


if __name__ == "__main__":
    sys.exit(main())
