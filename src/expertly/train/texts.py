"""The texts of a recipe as domains: what to train on, and what to keep for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expertly.errors import InputError
from expertly.text import corpora

PACKAGED = "packaged:"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text by its file, or by its name when it is packaged; read when it is needed."""

    path: Path | None = None
    packaged: str = ""
    size_bytes: int

    def read(self) -> str:
        """The text; InputError names the file and the offset of a byte that is not UTF-8."""
        return corpora.whole_text(self.packaged) if self.path is None else read_text(self.path)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One entry of a recipe's texts: a file, every file of a folder, or a packaged text."""

    name: str
    documents: tuple[Document, ...]
    weight: float = 1.0
    held_out_share: float = 0.05

    def training(self) -> Iterator[str]:
        """The documents to train on; the last one may be the first part of a document."""
        for document, share in self._shares():
            if share < 1:
                text = document.read()
                first = corpora.split(text, share)[0]
                if first:
                    yield first

    def held_out(self) -> str:
        """The end of the domain's text: `held_out_share` of its bytes, a little more for whole
        lines."""
        parts = []
        for document, share in self._shares():
            if share >= 1:
                parts.append(document.read())
            elif share > 0:
                parts.append(corpora.split(document.read(), share)[1])
        return "\n".join(parts)

    def _shares(self) -> Iterator[tuple[Document, float]]:
        """Each document with the share at its end that is held out."""
        total = sum(document.size_bytes for document in self.documents)
        cut, end = total * (1 - self.held_out_share), 0
        for document in self.documents:
            end += document.size_bytes
            share = (end - cut) / document.size_bytes if self.held_out_share > 0 else 0.0
            yield document, min(max(share, 0.0), 1.0)


def read_text(path: Path) -> str:
    """A UTF-8 file; InputError names the file, and the offset of the first wrong byte."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the text {path}: {error.strerror}",
            hint="check the path; relative paths start at the recipe's folder",
        ) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            hint="convert it first, for example: iconv -f latin1 -t utf-8",
        ) from error


def open_domains(
    names: tuple[str, ...], weights: tuple[float, ...], held_out: float, folder: Path
) -> tuple[Domain, ...]:
    """The domains that a recipe in `folder` names; InputError when one is missing or empty."""
    domains = tuple(
        Domain(
            name=_short(name),
            documents=_documents(name, folder),
            weight=weight,
            held_out_share=held_out,
        )
        for name, weight in zip(names, weights or (1.0,) * len(names), strict=True)
    )
    short = [domain.name for domain in domains]
    for name in short:
        if short.count(name) > 1:
            raise InputError(
                f"two texts are called {name!r}",
                hint="rename one: evaluations are listed by these names",
            )
    return domains


def _short(name: str) -> str:
    return name.removeprefix(PACKAGED) if name.startswith(PACKAGED) else Path(name).stem


def _documents(name: str, folder: Path) -> tuple[Document, ...]:
    if name.startswith(PACKAGED):
        packaged = name.removeprefix(PACKAGED)
        size = len(corpora.whole_text(packaged).encode())
        return (Document(packaged=packaged, size_bytes=size),)
    path = folder / name
    files = _files_below(path) if path.is_dir() else [path]
    documents = [Document(path=file, size_bytes=_size(file)) for file in files]
    found = tuple(document for document in documents if document.size_bytes > 0)
    if not found:
        raise InputError(
            f"there is no text in {path}", hint="name a file or folder with UTF-8 text"
        )
    return found


def _files_below(folder: Path) -> list[Path]:
    """Every file under a folder in an order that does not change; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(
            f"cannot read the text {path}: {error.strerror}",
            hint="check the path; relative paths start at the recipe's folder",
        ) from error
