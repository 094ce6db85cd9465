"""Names of tensors in GGUF files: those of the public package, each parameter in one place."""

import re
from collections import Counter

import gguf
import numpy as np
import pytest
from gguf_configs import SAYABLE

from expertly.config import ModelConfig
from expertly.families import parameters, read_config, stored_tensors
from expertly.families.gguf_archs import ARCHS, name_of
from expertly.families.gguf_names import GgufStored, rows_in_order
from expertly.families.gguf_saying import say

ARCH_OF = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
SUFFIXES = (".weight", ".bias")
# whose architecture has no dense layers there
KNOWN = [name for name in SAYABLE if name != "qwen3_moe_dense_first"]


def known_names(config: ModelConfig) -> gguf.TensorNameMap:
    """The public package's names, by those of Hugging Face."""
    return gguf.get_tensor_name_map(ARCH_OF[name_of(config.family)], len(config.layers))


def merged(name: str) -> str:
    """A Hugging Face name as converters ask for it: experts are one tensor, which has a suffix."""
    name = re.sub(r"\.experts\.\d+\.", ".experts.", name)
    name = re.sub(r"_bias$", ".bias", name)
    return name if name.endswith(SUFFIXES) else f"{name}.weight"


def homes(config: ModelConfig) -> dict[str, set[str]]:
    """By parameter: the names that the public package has for the tensors that hold it."""
    known, found = known_names(config), {}
    for stored in stored_tensors(config):
        for part in stored.parts:
            asked = merged(stored.name)
            if ".experts.gate_up_proj" in asked:
                which = "up_proj" if "_up_" in part.parameter else "gate_proj"
                asked = asked.replace("gate_up_proj", which)
            name = known.get_name(asked, try_suffixes=SUFFIXES)
            found.setdefault(part.parameter, set()).add(name)
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_a_parameter_is_where_the_public_package_puts_it(name: str) -> None:
    config = read_config(SAYABLE[name])
    theirs, ours = homes(config), dict[str, set[str]]()
    for tensor in say(config).tensors:
        for part in tensor.parts:
            ours.setdefault(part.parameter, set()).add(tensor.name)
    if config.is_tied and ARCHS[name_of(config.family)].has_own_head:
        theirs["embed_VD"].add("output.weight")
    assert ours == theirs


@pytest.mark.parametrize("name", SAYABLE)
def test_every_parameter_is_stored_whole_and_once(name: str) -> None:
    config = read_config(SAYABLE[name])
    tensors = [tensor for tensor in say(config).tensors if tensor.name != "output.weight"]
    shapes = parameters(config)
    counts = Counter(part.parameter for tensor in tensors for part in tensor.parts)
    assert set(counts.values()) == {1} and set(counts) == set(shapes) - {"head_VD"}
    for tensor in tensors:
        sizes = [int(np.prod(shapes[part.parameter])) for part in tensor.parts]
        assert sum(sizes) == int(np.prod(tensor.shape))


@pytest.mark.parametrize("name", KNOWN)
def test_the_public_package_knows_the_architecture_and_all_of_its_tensors(name: str) -> None:
    config = read_config(SAYABLE[name])
    arch = ARCH_OF[name_of(config.family)]
    kinds = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[arch]}
    names = {tensor.name.rpartition(".")[0] for tensor in say(config).tensors}
    assert {re.sub(r"^blk\.\d+", "blk.{bid}", name) for name in names} <= kinds


def test_pairs_of_a_head_come_from_its_two_halves() -> None:
    # two heads of 6: stored row 0 is the first of the first half, row 1 of the second
    assert rows_in_order(12, 2) == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (3, 8), (2, 10)])
def test_the_order_undoes_what_converters_do(heads: int, size: int) -> None:
    rows = np.arange(heads * size)
    # as in convert_hf_to_gguf: halves of a head become neighbours
    stored = rows.reshape(heads, 2, size // 2).swapaxes(1, 2).reshape(-1)
    assert stored[rows_in_order(heads * size, heads)].tolist() == rows.tolist()


def test_rows_are_paired_where_llama_cpp_turns_neighbours() -> None:
    def paired(name: str) -> set[str]:
        tensors: tuple[GgufStored, ...] = say(read_config(SAYABLE[name])).tensors
        parts = [(tensor.name, part) for tensor in tensors for part in tensor.parts]
        return {name for name, part in parts if part.paired_heads and name.startswith("blk.1.")}

    weights = {"blk.1.attn_q.weight", "blk.1.attn_k.weight"}
    assert paired("mixtral") == paired("deepseek") == paired("mistral") == weights
    assert paired("llama_biased") == weights | {"blk.1.attn_q.bias", "blk.1.attn_k.bias"}
    for name in ("qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "dbrx", "gpt_oss"):
        assert paired(name) == set()
