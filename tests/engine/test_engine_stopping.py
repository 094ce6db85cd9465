from hypothesis import given, settings
from hypothesis import strategies as st

from expertly.engine import StopStrings

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def run(stop: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    strings = StopStrings(stop)
    shown = [strings.push(piece) for piece in pieces]
    return [*shown, strings.flush()], strings.is_stopped


def first_stop(stop: list[str], text: str) -> str | None:
    """The definition: cut where the first stop string is complete; None if none ever is."""
    for end in range(1, len(text) + 1):
        whole = [s for s in stop if text[:end].endswith(s)]
        if whole:
            return text[: end - max(map(len, whole))]
    return None


@given(STOPS, st.lists(LETTERS, max_size=6))
@settings(max_examples=400, deadline=None)
def test_what_is_shown_is_the_text_before_the_first_stop(
    stop: list[str], pieces: list[str]
) -> None:
    shown, is_stopped = run(stop, pieces)
    expected = first_stop(stop, "".join(pieces))
    assert is_stopped == (expected is not None)
    assert "".join(shown) == ("".join(pieces) if expected is None else expected)


@given(STOPS, st.lists(LETTERS, max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_is_shown_never_has_to_be_taken_back(stop: list[str], pieces: list[str]) -> None:
    strings = StopStrings(stop)
    shown = ""
    for piece in pieces:
        shown += strings.push(piece)
        assert not any(s in shown for s in stop)


@given(STOPS, st.lists(LETTERS, max_size=6))
@settings(max_examples=200, deadline=None)
def test_nothing_is_held_back_that_cannot_become_a_stop(stop: list[str], pieces: list[str]) -> None:
    strings = StopStrings(stop)
    shown, given_ = "", ""
    for piece in pieces:
        shown += strings.push(piece)
        given_ += piece
        held = given_.removeprefix(shown)
        if strings.is_stopped:
            break
        assert held == "" or any(s.startswith(held) for s in stop)


def test_text_is_held_until_it_is_decided() -> None:
    assert run(["\n\n"], ["a\n", "b", "\n", "\nc"]) == (["a", "\nb", "", "", ""], True)


def test_a_false_start_is_shown_at_the_end() -> None:
    assert run(["<end>"], ["x<en"]) == (["x", "<en"], False)


def test_without_stop_strings_all_is_shown_at_once() -> None:
    assert run([], ["a", "b"]) == (["a", "b", ""], False)


def test_of_two_that_end_together_the_longest_counts() -> None:
    assert run(["c", "abc"], ["xabc"]) == (["x", ""], True)
