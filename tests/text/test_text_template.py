import json
import time

import pytest

from expertly.errors import InputError
from expertly.text import render
from expertly.text.sandbox import answer

HELLO = [{"role": "user", "content": "Hello <b> & 'you'"}]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def text_of(template: str, **variables: object) -> str:
    """Rendered in this process: quick, for what needs no limits."""
    said = answer(template, variables)
    assert "error" not in said, said
    return said["text"]


def error_of(template: str, **variables: object) -> str:
    said = answer(template, variables)
    assert "text" not in said, said
    return said["error"]


def test_a_chat_is_written_by_its_template() -> None:
    assert render(CHATML, HELLO) == (
        "<|im_start|>user\nHello <b> & 'you'<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_sees_special_tokens_and_whether_an_answer_follows() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ add_generation_prompt }}{{ tools }}"
    text = render(template, HELLO, add_generation_prompt=False, names={"bos_token": "<s>"})
    assert text == "<s>Hello <b> & 'you'FalseNone"


def test_the_template_agrees_with_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = (
        "{%- set ns = namespace(count=0) -%}\n"
        "{% for m in messages %}\n"
        "    {%- if m.role == 'system' %}{% continue %}{% endif %}\n"
        "    {%- set ns.count = ns.count + 1 %}\n"
        "[{{ m.role | upper }} {{ ns.count }}] {{ m.content | trim }}\n"
        "    {% generation %}{{ m | tojson }}{% endgeneration %}\n"
        "    {%- if ns.count == 2 %}{% break %}{% endif %}\n"
        "{% endfor %}\n"
        "{{ dict(a=1) | tojson(indent=2) }} {{ range(3) | list }}\n"
    )
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "  <1> & é  "},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "never shown"},
    ]
    theirs, _ = render_jinja_template([messages], chat_template=template)
    assert render(template, messages, add_generation_prompt=False) == theirs[0]


def test_tojson_escapes_neither_html_nor_unicode() -> None:
    value = {"a": "<é> & 'b'"}
    assert text_of("{{ value | tojson }}", value=value) == json.dumps(value, ensure_ascii=False)


def test_the_year_can_be_asked_for() -> None:
    assert text_of("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_a_refusal_carries_the_words_of_the_template() -> None:
    template = "{{ raise_exception('Roles must\n alternate') }}"
    with pytest.raises(InputError, match="the chat template failed: Roles must alternate") as info:
        render(template, HELLO)
    assert info.value.hint


def test_a_template_that_is_no_jinja_is_named() -> None:
    assert "Expected an expression" in error_of("{% if %}")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ ''|attr('__cl' ~ 'ass__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{% set f = ''.format %}{{ f('{0.__class__}', messages) }}",
    "{{ ('{0.__class__}' | attr('format'))(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ {}.update({'a': 1}) }}",
    "{% set ns = namespace(__class__=1) %}{{ ns }}",
    "{% set ns = namespace({'__class__': 1}) %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "{{ range.mro() }}",
    "{{ dict.mro() }}",
    "{{ range(10**9) | list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'other' %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_known_escapes_from_the_sandbox_come_to_nothing(template: str) -> None:
    said = answer(template, {"messages": [{"role": "user", "content": "x"}]})
    # jinja2 answers some attributes with an undefined value, and `map` with a list of them
    assert said.get("text", "") in ("", "[Undefined]"), said


@pytest.mark.parametrize(
    "template", [t for t in ESCAPES if "__init__" in t or "mro" in t or "ns" in t or "range" in t]
)
def test_escapes_that_reach_further_raise(template: str) -> None:
    assert error_of(template, messages=[])


def test_no_file_can_be_opened_while_a_template_renders() -> None:
    import subprocess
    import sys

    from expertly.text import sandbox

    program = (
        f"import sys; sys.path.insert(0, {str(sandbox.__file__).rpartition('/')[0]!r})\n"
        "import sandbox; sandbox.limit_process(); open('/etc/hostname')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Too many open files" in done.stderr


def test_a_template_that_multiplies_strings_is_stopped() -> None:
    with pytest.raises(InputError, match="256 MiB"):
        render("{{ 'x' * 10**9 }}", HELLO)


def test_a_template_that_writes_too_much_is_refused() -> None:
    with pytest.raises(InputError, match="9000000 characters"):
        render("{{ 'x' * 9000000 }}", HELLO)


def test_a_template_that_doubles_strings_is_stopped() -> None:
    doubling = "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
    doubling += "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
    with pytest.raises(InputError, match="256 MiB"):
        render(doubling, HELLO)


def test_a_template_that_loops_is_killed_in_seconds() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    start = time.monotonic()
    with pytest.raises(InputError, match="stopped after"):
        render(loop, HELLO)
    assert time.monotonic() - start < 11


def test_a_template_that_calls_itself_is_stopped() -> None:
    with pytest.raises(InputError, match="recurses without end"):
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", HELLO)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no messages"),
        ([{"content": "x"}], "message 0 of the chat has no role"),
        ([{"role": "user", "content": "x"}, "hello"], "message 1 of the chat has no role"),
        ([{"role": "user", "content": 3}], "message 0 has content of type int"),
        ([{"role": "user", "content": [{1, 2}]}], "not plain data"),
    ],
)
def test_messages_of_the_wrong_shape_are_refused(messages: list, words: str) -> None:
    with pytest.raises(InputError, match=words):
        render(CHATML, messages)
