"""What the formats bring in when they are imported, in a Python of its own."""

import subprocess
import sys

MODULES = ["blocks", "gguf", "gguf_reader", "gguf_writer", "dequantise"]


def test_formats_need_no_torch_and_no_oracle() -> None:
    banned = ["torch", "transformers", "gguf"]
    imports = ", ".join(f"expertly.formats.{module}" for module in MODULES)
    code = f"import sys, {imports}; print([name for name in {banned} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_table_of_formats_needs_no_numpy_either() -> None:
    code = "import sys, expertly.formats.blocks; print('numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
