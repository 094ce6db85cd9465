"""Where a model's files are: the bundled one, a local folder, or a snapshot of a hub id.

Only configs, tokenizers, templates and safetensors are ever fetched: no code, no pickles.
"""

import errno
import os
import re
from importlib import resources
from pathlib import Path

from expertly.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
)
# other layouts of the same weights, in folders or under their makers' names
_UNWANTED = ("*/*", "consolidated*")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_HINT = "give a .gguf file, a model's folder or a hub id such as owner/name"


def bundled() -> Path:
    """The folder of the model that comes with the package."""
    folder = Path(str(resources.files("expertly").joinpath("bundled")))
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "this installation has no bundled model", hint="install expertly again, or " + _HINT
        )
    return folder


def is_hub_id(text: str) -> bool:
    """Whether it looks like owner/name; a folder of that name goes first in `locate`."""
    return _HUB_ID.fullmatch(text) is not None


def locate(model: str | Path | None) -> Path:
    """The folder with the model's files; None or "" is the bundled model, a hub id is fetched
    into the hub's cache (or only looked up there when HF_HUB_OFFLINE is set).

    Raises CheckpointError that says what is wrong with the path, the id or the files.
    """
    if model is None or str(model) == "":
        return bundled()
    path = Path(model)
    # these two take any text, Path's own raise for some
    if os.path.isdir(path):
        return _checked(path)
    if os.path.exists(path):
        raise _not_a_folder(path)
    if is_hub_id(str(model)):
        return _checked(_fetch(str(model)))
    raise CheckpointError(f"{str(model)!r} does not exist", hint=_HINT)


def _not_a_folder(path: Path) -> CheckpointError:
    if path.suffix in _PICKLES:
        return _pickled(path.parent, [path.name])
    if path.suffix in (".safetensors", ".json"):
        return CheckpointError(f"{path} is a file", hint=f"give its folder, {path.parent}")
    if path.suffix == ".gguf":
        return CheckpointError(
            f"{path} is a GGUF file, which run and bench alone read",
            hint="give the folder or hub id that it was made from",
        )
    return CheckpointError(f"{path} is a file of a kind that is not read", hint=_HINT)


def _checked(folder: Path) -> Path:
    names = sorted(path.name for path in folder.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if pickles:
            raise _pickled(folder, pickles)
    if "config.json" not in names:
        raise CheckpointError(f"the folder {folder} holds no config.json", hint=_HINT)
    return folder


def _pickled(folder: Path, names: list[str]) -> CheckpointError:
    command = (
        'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}-safe'); "
        f"T.from_pretrained('{folder}').save_pretrained('{folder}-safe')\""
    )
    return CheckpointError(
        f"{folder} has its weights in {names[0]}, a pickle, which can run code when it is read",
        hint=f"if you trust it, convert it to safetensors: {command}",
    )


def _fetch(hub_id: str) -> Path:
    # half a second to import, and only hub ids need it
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=[*_WANTED], ignore_patterns=[*_UNWANTED])
        )
    except errors.GatedRepoError:
        why = "its owners ask you to agree to their terms"
        hint = f"agree at huggingface.co/{hub_id}, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = "the hub has no such model, or not for you, and there is no folder of that name"
        hint = "check the spelling, or log in with `hf auth login`"
    except errors.LocalEntryNotFoundError:
        why = "the hub cannot be reached, and its cache has no copy"
        hint = "check the connection and HF_HUB_OFFLINE, or give a local folder"
    # the hub's client lets errors of several libraries through
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        hint = "try again, or give a local folder"
    raise CheckpointError(f"the model {hub_id!r} cannot be fetched: {why}", hint=hint)
