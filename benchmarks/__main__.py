"""`python -m benchmarks [--dtype float32|bfloat16]`: a table, then one JSON line."""

import argparse
import json

import torch

from benchmarks import grouped
from benchmarks.harness import machine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=grouped.__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    dtype = parser.parse_args().dtype
    found = []
    print(f"{'experts':>8}{'widths':>12}{'rows':>7} {'direction':10}{'loop ms':>9}{'torch ms':>10}"
          f"{'ratio':>7}  spread")  # fmt: skip
    for row in grouped.rows(getattr(torch, dtype)):
        found.append(row)
        widths = f"{row['width_in']}>{row['width_out']}"
        print(f"{row['experts']:>8}{widths:>12}{row['rows']:>7} {row['direction']:10}"
              f"{row['loop_ms']:>9}{row['torch_ms']:>10}{row['ratio']:>7}  {row['spread']}",
              flush=True)  # fmt: skip
    print(json.dumps({"machine": machine(), "dtype": dtype, "rows": found}))


if __name__ == "__main__":
    main()
