"""All that is asked of transformers; the one module that imports it, and only when it is called."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from expertly.errors import InputError

_DECORATOR = "use_experts_implementation"


def register(name: str, implementation: Callable[..., Any]) -> None:
    """Offer `implementation` as `experts_implementation=name`, by transformers' own interface.

    torch.compile leaves it alone: it is called between two compiled pieces.
    """
    alone: Any = torch.compiler.disable(implementation)  # type: ignore[no-untyped-call]
    _interface().register(name, alone)


@dataclass(frozen=True)
class Declared:
    """A class of experts that transformers lets others run, and the folder it stands in."""

    family: str
    experts: str


def declared() -> list[Declared]:
    """Every such class of the installed transformers, read from its source: none is imported."""
    models = Path(_library().__file__ or "").parent / "models"
    files = sorted(models.glob("*/modeling_*.py"))
    return [Declared(path.parent.name, name) for path in files for name in _decorated(path)]


def version() -> str:
    return str(_library().__version__)


def experts_class(which: Declared) -> Any:
    return getattr(_module(which.family, "modeling"), which.experts)


def default_configs(family: str) -> Iterator[Any]:
    """The family's configs as they are without any argument, parts of bigger ones too; of one
    whose layers differ, that of its last layer."""
    library = _library()
    base = library.PretrainedConfig
    module = _module(family, "configuration")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    own = [k for k in kinds if issubclass(k, base) and k.__module__ == module.__name__]
    for kind in own:
        config = kind()
        is_uneven = getattr(config, "is_heterogeneous", False)
        yield config.per_layer_config[-1] if is_uneven else config


def _library() -> ModuleType:
    _interface()
    return import_module("transformers")


def _interface() -> Any:
    try:
        from transformers.integrations.moe import ExpertsInterface
    except ImportError as error:
        raise InputError(
            "no transformers whose models let others run their experts is installed",
            hint="pip install 'transformers>=5'",
        ) from error
    return ExpertsInterface


def _module(family: str, kind: str) -> ModuleType:
    return import_module(f"transformers.models.{family}.{kind}_{family}")


def _decorated(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    if f"@{_DECORATOR}" not in source:
        return
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and any(map(_is_the_decorator, node.decorator_list)):
            yield node.name


def _is_the_decorator(node: ast.expr) -> bool:
    named = node.func if isinstance(node, ast.Call) else node
    return isinstance(named, ast.Name) and named.id == _DECORATOR
