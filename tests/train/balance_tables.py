"""The change of the tiny recipe that gives it a [balance] table."""

import json
from typing import Any


def balanced_by(**values: Any) -> tuple[str, str]:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    last = 'dtype = "float32"\n'
    return last, f"{last}\n[balance]\n{lines}"
