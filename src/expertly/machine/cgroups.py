"""The control groups that this process is in, versions 1 and 2, as folders to read limits from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Group:
    """A folder of a control group; `version` says how its files are named."""

    folder: Path
    version: int


def groups(controller: str, root: Path) -> Iterator[Group]:
    """This process's groups under `controller` (cpu, memory) and all groups around them.

    A limit of any of them holds. In a container the path that the process is told may lie
    outside what is mounted; then only the mounted top is found.
    """
    mounted = root / "sys" / "fs" / "cgroup"
    for line in read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names == "":
            tops, version = [mounted, mounted / "unified"], 2
        elif controller in names.split(","):
            tops, version = [mounted / names, mounted / controller], 1
        else:
            continue
        top = next((top for top in tops if _is_top(top, version)), None)
        if top is not None:
            yield from (Group(folder, version) for folder in _upward(top, path))


def _is_top(folder: Path, version: int) -> bool:
    return (folder / "cgroup.controllers").is_file() if version == 2 else folder.is_dir()


def _upward(top: Path, path: str) -> Iterator[Path]:
    folder = top / path.strip("/")
    while folder != top and top in folder.parents:
        if ".." not in folder.parts and folder.is_dir():
            yield folder
        folder = folder.parent
    yield top


def read(path: Path) -> str:
    """The text of a file, or none where there is no such file or it is not for us."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The whole number that a file holds; None for `max`, for none and for no file."""
    text = read(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None
