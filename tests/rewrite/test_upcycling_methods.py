"""Which choices go together, and what follows from them."""

import pytest

from expertly.errors import InputError
from expertly.rewrite import Upcycling
from expertly.rewrite.methods import METHODS

PARTS = {"method": "virtual-groups", "granularity": 4}


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"method": "clone"}, "method 'clone' is not known"),
        ({"num_chosen": 1}, "1 experts chosen out of 8"),
        ({"num_chosen": 9}, "9 experts chosen out of 8"),
        ({"every": 0}, "every is 0"),
        ({"redraw": 0.5}, "redraw is 0.5, and copies are not drawn anew"),
        ({"method": "drop", "redraw": 1.1}, "redraw is 1.1"),
        ({"method": "drop", "redraw": -0.1}, "redraw is -0.1"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": float("inf")}, "noise is inf"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"noise": 1.5}, "noise is 1.5"),
        ({"granularity": 2}, "granularity 2, and copy takes whole feed-forwards"),
        ({"method": "drop", "granularity": 2}, "granularity 2, and drop takes"),
        ({"shared": 2}, "shared is 2"),
        ({"method": "fine-grained"}, "granularity is 1"),
        ({"method": "virtual-groups"}, "granularity is 1"),
        ({**PARTS, "shared": 4}, "4 of 4 parts are shared"),
        ({**PARTS, "shared": -1}, "-1 of 4 parts are shared"),
        ({**PARTS, "num_experts": 6}, "num_experts is 6, and 4 parts are routed"),
        ({**PARTS, "num_chosen": 2}, "num_chosen is 2, and 4 parts are routed"),
        ({**PARTS, "shared": 1}, "num_experts is 8, and 3 parts are routed"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_values(choices: dict, told: str) -> None:
    with pytest.raises(InputError) as caught:
        Upcycling(**{"num_experts": 8, **choices})
    assert told in caught.value.message
    assert caught.value.hint


def test_one_expert_alone_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError) as caught:
        Upcycling(num_experts=8, num_chosen=1)
    assert "no gradient" in caught.value.hint


@pytest.mark.parametrize(
    ("choices", "chosen"),
    [
        ({}, 2),
        ({"method": "drop"}, 2),
        (PARTS, 4),
        ({**PARTS, "num_experts": 6, "shared": 1}, 3),
        ({**PARTS, "shared": 3}, 2),
        ({"method": "fine-grained", "granularity": 8}, 8),
        ({"method": "fine-grained", "granularity": 8, "num_chosen": 3}, 3),
    ],
)
def test_unless_it_is_said_as_many_are_chosen_as_make_one_whole(choices: dict, chosen: int) -> None:
    assert Upcycling(**{"num_experts": 8, **choices}).chosen == chosen


@pytest.mark.parametrize(
    ("choices", "scale"),
    [({}, 1.0), ({"shared": 1}, 0.5), (PARTS, 4.0), ({**PARTS, "shared": 2}, 2.0)],
)
def test_the_routed_experts_and_the_shared_one_make_one_whole(choices: dict, scale: float) -> None:
    assert Upcycling(**{"num_experts": 8, **choices}).routed_scale == scale


def test_methods_that_change_weights_draw_half_of_them_anew() -> None:
    cuts = {"fine-grained": 4, "virtual-groups": 4}
    found = {
        method: Upcycling(num_experts=8, method=method, granularity=cuts.get(method, 1)).redrawn
        for method in METHODS
    }
    assert found == {"copy": 0.0, "drop": 0.5, "fine-grained": 0.5, "virtual-groups": 0.0}


@pytest.mark.parametrize(
    ("choices", "is_exact"),
    [
        ({}, True),
        (PARTS, True),
        ({"noise": 0.1}, False),
        ({**PARTS, "redraw": 0.1}, False),
        ({"method": "drop"}, False),
        ({"method": "drop", "redraw": 0.0}, True),
        ({**PARTS, "method": "fine-grained", "redraw": 0.0}, False),
    ],
)
def test_only_copies_and_whole_groups_without_noise_are_called_exact(
    choices: dict, is_exact: bool
) -> None:
    assert Upcycling(**{"num_experts": 8, **choices}).is_exact is is_exact
