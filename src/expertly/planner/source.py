"""Finds the config.json of a local folder, a file or a hub id; nothing else is fetched."""

import json
import re
from pathlib import Path
from typing import Any

from expertly.errors import ConfigError, InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LARGEST_BYTES = 16 * 2**20
_HINT = "give a folder with a config.json, the file itself, or a hub id such as owner/name"


def open_config(model: str | Path) -> dict[str, Any]:
    """The parsed config.json of `model`.

    Raises InputError when there is none to be found, ConfigError when it is not a JSON object.
    """
    path = find_config(model)
    try:
        # once, as a pipe can be read
        with path.open("rb") as file:
            text = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from None
    if text.startswith(b"GGUF"):
        raise InputError(f"{path} is a GGUF file, and a plan needs a config.json", hint=_HINT)
    if len(text) > _LARGEST_BYTES:
        raise ConfigError(f"{path} is larger than 16 MiB, too large for a config", hint=_HINT)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid JSON: {error}", hint="download the file again"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object", hint="download the file again")
    return content


def find_config(model: str | Path) -> Path:
    """Where the file is; a hub id's is fetched into the hub's cache."""
    if str(model) == "":
        raise InputError("no model is named", hint=_HINT)
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise InputError(f"the folder {path} holds no config.json", hint=_HINT)
        return path / "config.json"
    if path.exists():
        return path
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        return _fetch(model)
    raise InputError(f"{str(model)!r} is neither a folder, a file nor a hub id", hint=_HINT)


def _fetch(hub_id: str) -> Path:
    # half a second to import, and only hub ids need it
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(hf_hub_download(hub_id, "config.json"))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        why = "the hub cannot be reached, and its cache holds no copy"
    except EntryNotFoundError:
        why = "it has no config.json"
    except HfHubHTTPError as error:
        why = f"the hub answers {error.response.status_code}"
    except Exception as error:  # the hub's transport has errors of its own, outside this tree
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    raise InputError(
        f"the config of {hub_id!r} cannot be fetched: {why}",
        hint="check the id and the connection, or give a local folder",
    )
