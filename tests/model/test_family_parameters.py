"""For every family's configs: what the config lists, what the decoder has, what files fill."""

import json
import math

import oracle
import pytest
import transformers
from oracle_cases import CASES

from expertly.config import ModelConfig
from expertly.families import parameters, read_config, stored_tensors
from expertly.model import Decoder

every_case = pytest.mark.parametrize(
    ("family", "case"), oracle.names(), ids=[f"{family}-{case}" for family, case in oracle.names()]
)


def config_of(family: str, case: int) -> ModelConfig:
    theirs = transformers.CONFIG_MAPPING[family](**json.loads(json.dumps(CASES[family][case])))
    return read_config(json.loads(theirs.to_json_string()))


@every_case
def test_a_decoder_has_exactly_what_its_config_lists(family, case) -> None:
    config = config_of(family, case)
    found = {name: tuple(p.shape) for name, p in Decoder(config).named_parameters()}
    assert found == parameters(config)


@every_case
def test_the_files_tensors_fill_every_parameter_once(family, case) -> None:
    config = config_of(family, case)
    shapes = parameters(config)
    filled: dict[str, list[int | None]] = {}
    numel = 0
    for stored in stored_tensors(config):
        numel += math.prod(stored.shape)
        for part in stored.parts:
            filled.setdefault(part.parameter, []).append(part.expert)
    assert filled.keys() == shapes.keys()
    for name, experts in filled.items():
        if experts != [None]:
            assert sorted(experts) == list(range(shapes[name][0])), name
    assert numel == sum(math.prod(shape) for shape in shapes.values())
