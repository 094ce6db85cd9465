"""The exception tree: one line that names the thing, then what to do."""

import inspect

import pytest

from expertly import errors
from expertly.errors import ExpertlyError

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ExpertlyError)
]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_says_what_happened_and_then_what_to_do(kind: type[ExpertlyError]) -> None:
    error = kind("width 3 is odd", hint="use 4")
    assert str(error) == "width 3 is odd\nhint: use 4"
    assert (error.message, error.hint) == ("width 3 is odd", "use 4")


@pytest.mark.parametrize("kind", ALL)
def test_an_error_without_a_hint_cannot_be_made(kind: type[ExpertlyError]) -> None:
    with pytest.raises(TypeError, match="hint"):
        kind("width 3 is odd")  # type: ignore[call-arg]


def test_every_error_is_a_value_error_for_callers_that_know_no_more() -> None:
    assert issubclass(ExpertlyError, ValueError)
    assert {kind.__base__ for kind in ALL} == {ValueError, ExpertlyError}


def test_the_tree_drawn_at_the_top_of_the_module_is_complete() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in ALL if f"{kind.__name__} " not in drawn] == []
