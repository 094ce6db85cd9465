"""A machine's files in a folder of a test's own."""

from collections.abc import Mapping
from pathlib import Path


def machine_at(root: Path, files: Mapping[str, str]) -> Path:
    """Writes each file under `root`; names are paths without the leading slash."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return root


CGROUP = "sys/fs/cgroup"
V2 = {"proc/self/cgroup": "0::/a/b\n", f"{CGROUP}/cgroup.controllers": "cpu memory\n"}
V1 = {"proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/x\n"}
