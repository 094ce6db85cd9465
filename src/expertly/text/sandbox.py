"""Renders one chat template in a process of its own: JSON in on stdin, JSON out on stdout.

A template is a program from a stranger. Jinja2's immutable sandbox keeps it from Python, and limits
on this process from the machine: 2 s of processor time, 256 MiB of memory, no file opened.
Run as a script, so that it imports nothing of the package.
"""

import json
import sys
from datetime import datetime
from typing import Any, NoReturn

import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

CPU_SECONDS = 2
MEMORY_BYTES = 256 << 20
MAX_CHARACTERS = 8 << 20


class GenerationBlock(jinja2.ext.Extension):
    """{% generation %} marks the assistant's text for trainers; rendered, it is its body."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own spelling

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PublicNamespace(Namespace):
    """A namespace without underscored names: through those a template could plant a __class__."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, names = args[0], dict(*args[1:], **kwargs)
        for name in names:
            _refuse_private(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on: jinja2's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def environment() -> ImmutableSandboxedEnvironment:
    """The one environment for chat templates, with the names that their authors count on."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, jinja2.ext.loopcontrols],
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    made.globals["namespace"] = PublicNamespace
    return made


# jinja2 and python import these only when a template first needs them
_WARM_UP = (
    "{{ lipsum() | wordwrap | striptags | pprint }}{{ strftime_now('%Z') }}"
    "{{ 'a\\n' }}{{ raise_exception('warm') }}"
)


def limit_process() -> None:
    """Hold this process to its limits; what rendering imports and opens must be there before."""
    answer(_WARM_UP, {})
    if sys.platform == "win32":
        return  # the parent's clock is the only limit there
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def answer(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, or {"error": ...} with what the template or jinja2 said."""
    try:
        text = environment().from_string(template).render(variables)
    except MemoryError:
        return {"error": f"it used more than {MEMORY_BYTES >> 20} MiB"}
    except RecursionError:
        return {"error": "it recurses without end"}
    # whatever a template provokes is the template's fault
    except Exception as error:
        return {"error": str(error) or type(error).__name__}
    if len(text) > MAX_CHARACTERS:
        return {"error": f"it wrote {len(text)} characters, more than {MAX_CHARACTERS}"}
    return {"text": text}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    limit_process()
    json.dump(answer(request["template"], request["variables"]), sys.stdout)
