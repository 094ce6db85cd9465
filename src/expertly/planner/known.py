"""Configs of published systems, kept in the package: their shapes are known without a network."""

import json
from pathlib import Path
from typing import Any

from expertly.errors import InputError

SYSTEMS = Path(__file__).parent / "systems"


def names() -> list[str]:
    return sorted(path.stem for path in SYSTEMS.glob("*.json"))


def name_of(text: str) -> str:
    """The one system whose name begins with `text`, whatever the case. Raises InputError."""
    wanted = text.casefold()
    found = [name for name in names() if name.casefold().startswith(wanted)]
    exact = [name for name in found if name.casefold() == wanted]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    what = (
        f"may be {' or '.join(found)}" if found and text else "is not a system whose shape is known"
    )
    raise InputError(f"{text!r} {what}", hint=f"use one of {', '.join(names())}")


def config(name: str) -> dict[str, Any]:
    """The config.json of one of `names`, as the hub has it."""
    content = json.loads((SYSTEMS / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content
