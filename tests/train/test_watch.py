import pytest

from expertly.train.watch import Reading, is_collapsing, warnings


def reading(step: int, layer: int = 0, entropy: float = 0.9, dead: tuple[int, ...] = ()) -> Reading:
    return Reading(
        step=step,
        layer=layer,
        num_experts=8,
        load_entropy=entropy,
        max_violation=1.0,
        token_entropy=1.0,
        dead=dead,
        busiest=(5, 2),
    )


@pytest.mark.parametrize(
    ("entropy", "dead", "expected"),
    [(0.9, (), False), (0.59, (), True), (0.6, (), False), (0.9, (1, 2), False),
     (0.9, (1, 2, 3), True)],
)  # fmt: skip
def test_low_entropy_or_more_than_a_quarter_dead_is_a_collapse(
    entropy: float, dead: tuple[int, ...], expected: bool
) -> None:
    assert is_collapsing(reading(1, entropy=entropy, dead=dead)) is expected


def test_one_or_two_bad_readings_are_no_collapse() -> None:
    history = [reading(1, entropy=0.1), reading(2, entropy=0.1)]
    assert warnings(history) == []
    assert warnings([*history, reading(3), reading(4, entropy=0.1)]) == []


def test_the_third_bad_reading_names_layer_and_experts() -> None:
    history = [reading(step, layer=3, entropy=0.4, dead=(0, 6, 7)) for step in (10, 20, 30)]
    (text,) = warnings(history)
    assert "layer 3 is collapsing since step 10" in text
    assert "load entropy 0.40" in text
    assert "3 of 8 experts dead (0, 6, 7)" in text
    assert "most rows go to 5, 2" in text


def test_a_warning_comes_again_every_ten_readings_not_every_time() -> None:
    history = [reading(step, entropy=0.1) for step in range(1, 40)]
    warned = [n for n in range(1, 40) if warnings(history[:n])]
    assert warned == [3, 13, 23, 33]


def test_layers_are_watched_apart() -> None:
    history = [
        reading(step, layer=layer, entropy=0.1 if layer == 1 else 0.9)
        for step in (1, 2, 3)
        for layer in (0, 1, 2)
    ]
    (text,) = warnings(history)
    assert "layer 1" in text


def test_a_recovery_starts_the_count_anew() -> None:
    history = [reading(s, entropy=0.1) for s in (1, 2, 3)]
    history += [reading(4), *(reading(s, entropy=0.1) for s in (5, 6))]
    assert warnings(history) == []
    (text,) = warnings([*history, reading(7, entropy=0.1)])
    assert "since step 5" in text


def test_nothing_read_is_nothing_to_warn_of() -> None:
    assert warnings([]) == []


def test_a_long_list_of_dead_experts_is_cut() -> None:
    history = [reading(s, dead=tuple(range(20))) for s in (1, 2, 3)]
    (text,) = warnings(history)
    assert "10, 11 and 8 more" in text
