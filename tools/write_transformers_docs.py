"""Writes docs/transformers.md: how our experts are plugged into transformers, and into which."""

from pathlib import Path

from expertly.plug import supported_families, theirs
from expertly.plug.families import table

PATH = Path(__file__).parents[1] / "docs" / "transformers.md"

_START = """# Our experts in models of transformers

One call offers the native kernels to transformers, by its own interface for experts:

```python
import expertly, transformers

expertly.plug_into_transformers()
model = transformers.AutoModelForCausalLM.from_pretrained(
    "allenai/OLMoE-1B-7B-0924", experts_implementation="expertly_int4"
)
```

`expertly_bf16`, `expertly_int8` and `expertly_int4` are the names;
`model.set_experts_implementation` takes them too. The experts of a model then run on our kernels,
everything else of it stays as it was.

- A module's weights are packed at its first call, beside those that transformers holds: the plug
  makes no model smaller. To hold the packed weights alone, use `expertly.load`.
- Weights that are replaced or changed in place are packed again. Writes through `.data`, and to
  tensors made under `torch.inference_mode()`, cannot be seen.
- It is for inference on the processor: where gradients are wanted, on other devices, and for
  experts that are split over processes, the call ends with an error that says what to do instead.
- What experts do between their products is measured from their own code. What the kernels do not
  compute is refused by name.

A row's result depends on that row alone, to the bit, whatever else is in the batch.

This page is written by `python tools/write_transformers_docs.py`; `python -m expertly.plug` prints
the table for the version that is installed. The tests hold every row that runs against the family's
own eager code, in all three types.

"""


def transformers_docs() -> str:
    families = supported_families()
    taken = [family for family in families if family.is_supported]
    counted = (
        f"transformers {theirs.version()} lets others run {len(families)} kinds of experts; "
        f"{len(taken)} of them run here, of {len({f.name for f in taken})} families.\n\n"
    )
    return f"{_START}{counted}{table(families)}\n"


if __name__ == "__main__":
    PATH.write_text(transformers_docs(), encoding="utf-8")
