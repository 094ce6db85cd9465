"""What the small files beside tokenizer.json say: special tokens, ends of text, chat template."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertly.errors import CheckpointError

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True, kw_only=True)
class Settings:
    names: Mapping[str, str] = field(default_factory=dict)  # bos_token and so on, as text
    eos_ids: frozenset[int] = frozenset()
    template: str | None = None


def read_settings(folder: Path) -> Settings:
    """Every file is optional. Raises CheckpointError for one that is not JSON of its kind."""
    tokenizer = _object(folder / "tokenizer_config.json")
    special = _object(folder / "special_tokens_map.json")
    generation = _object(folder / "generation_config.json")
    names = {**_texts(special), **_texts(tokenizer)}
    return Settings(
        names=names,
        eos_ids=_ids(folder, generation.get("eos_token_id")),
        template=_template(folder, tokenizer.get("chat_template")),
    )


def write_settings(folder: Path, settings: Settings) -> None:
    """The files that `read_settings` reads as these; none for what they do not say."""
    tokenizer = dict(settings.names)
    if settings.template is not None:
        tokenizer["chat_template"] = settings.template
    if tokenizer:
        _write(folder / "tokenizer_config.json", tokenizer)
    if settings.eos_ids:
        _write(folder / "generation_config.json", {"eos_token_id": sorted(settings.eos_ids)})


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds a {type(value).__name__}, not an object")
    return value


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {what}", hint="download that file again")


def _texts(source: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _NAMES:
        value = source.get(name)
        # older files spell a token as an object with its flags
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _ids(folder: Path, value: Any) -> frozenset[int]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and i >= 0 for i in values):
        raise _damaged(folder / "generation_config.json", f"eos_token_id is {value!r}")
    return frozenset(values)


def _template(folder: Path, inline: Any) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(path, str(error)) from error
    if isinstance(inline, list):
        named = {t.get("name"): t.get("template") for t in inline if isinstance(t, dict)}
        inline = named.get("default")
    return inline if isinstance(inline, str) else None
