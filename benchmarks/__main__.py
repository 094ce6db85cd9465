"""`python -m benchmarks [grouped|layer|step] [--dtype TYPE]`: a table, then one JSON line."""

import argparse
import json

import torch

from benchmarks import grouped, layer, step
from benchmarks.harness import machine
from expertly.machine import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=("grouped", "layer", "step"), nargs="?", default="grouped")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    # for all that is compared alike, as the trainer does
    keep_freed_memory()
    tables = {"grouped": lambda: _grouped(options.dtype), "layer": _layers, "step": _steps}
    found = tables[options.what]()
    print(json.dumps({"machine": machine(), "dtype": options.dtype, "rows": found}))


def _grouped(dtype: str) -> list[dict[str, object]]:
    found = []
    print(f"{'experts':>8}{'widths':>12}{'rows':>7} {'direction':10}{'loop ms':>9}{'torch ms':>10}"
          f"{'ratio':>7}  spread")  # fmt: skip
    for row in grouped.rows(getattr(torch, dtype)):
        found.append(row)
        widths = f"{row['width_in']}>{row['width_out']}"
        print(f"{row['experts']:>8}{widths:>12}{row['rows']:>7} {row['direction']:10}"
              f"{row['loop_ms']:>9}{row['torch_ms']:>10}{row['ratio']:>7}  {row['spread']}",
              flush=True)  # fmt: skip
    return found


def _layers() -> list[dict[str, object]]:
    found = []
    print("experts chosen size dtype: to dense (quartiles), milliseconds, kilobytes kept")
    for row in layer.rows():
        found.append(row)
        print(row["experts"], row["chosen"], row["expert_size"], row["dtype"])
        for name in row["milliseconds"]:  # type: ignore[attr-defined]
            ratio, spread, ms, kept = (
                row[key][name]  # type: ignore[index]
                for key in ("to_dense", "spread", "milliseconds", "kept_kilobytes")
            )
            print(f"  {name:13}{ratio:>6}  {spread}  {ms:>7} ms  {kept:>7} kB", flush=True)
    return found


def _steps() -> list[dict[str, object]]:
    found = []
    for row in step.rows():
        found.append(row)
        print(row["dtype"], row["optimiser"], row["tokens_per_second"],
              f"mixture {row['share_of_dense']} of dense, {row['spread']}", flush=True)  # fmt: skip
    return found


if __name__ == "__main__":
    main()
