"""The architectures of GGUF files that are built: what each of them fixes without saying it.

Facts of llama.cpp's graphs and converters; where these differ from the published model (phimoe's
router and norms, gpt-oss's untruncated YaRN), the published model is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from expertly.config import Glu, Router
from expertly.errors import ConfigError

_PLAIN, _NORMED, _SILU = Router(), Router(norm_p=1.0), Glu()


@dataclass(frozen=True, kw_only=True)
class Arch:
    """`router` is that of its mixtures, unless the key expert_weights_norm says otherwise;
    `is_permuted`: rows of q and k stand in pairs (2i, 2i + 1) instead of halves."""

    dense_family: str | None = None
    mixture_family: str | None = None
    router: Router = _PLAIN
    glu: Glu = _SILU
    norm: Literal["rms", "layer"] = "rms"
    has_norm_bias: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    has_merged_qkv: bool = False
    has_shared_gate: bool = False
    has_sinks: bool = False
    has_expert_bias: bool = False
    has_head_bias: bool = False
    is_permuted: bool = False
    is_truncated: bool = True  # of YaRN's ramp
    has_window_every_other: bool = False  # else a window is every layer's
    second_norm: str = "ffn_norm"
    eps_key: str = "attention.layer_norm_rms_epsilon"
    counts_shared: bool = False  # shared experts are counted, each as wide as a routed one
    divides_size: bool = False  # without a size of their own, experts share that of a layer
    # LongRoPE's factor of cos and sin, which converters compute otherwise
    long_scale: float | None = None
    # what llama.cpp takes
    has_own_head: bool = False  # output.weight must be there, in tied models too
    takes_divisors: bool = False  # tensors that divide rope's frequencies
    takes_any_width: bool = False  # of the heads together
    output_bias: Literal["never", "maybe", "always"] = "never"  # of attention


ARCHS: Mapping[str, Arch] = MappingProxyType(
    {
        "llama": Arch(
            dense_family="llama",
            mixture_family="mixtral",
            router=_NORMED,
            is_permuted=True,
            takes_divisors=True,
            takes_any_width=True,
            output_bias="maybe",
        ),
        "qwen2": Arch(dense_family="qwen2"),
        "qwen2moe": Arch(
            mixture_family="qwen2_moe", has_shared_gate=True, has_own_head=True, divides_size=True
        ),
        "qwen3": Arch(dense_family="qwen3", qk_norm="head", takes_any_width=True),
        "qwen3moe": Arch(
            mixture_family="qwen3_moe",
            qk_norm="head",
            router=_NORMED,
            takes_any_width=True,
            divides_size=True,
        ),
        "olmoe": Arch(mixture_family="olmoe", qk_norm="projection", has_own_head=True),
        "phimoe": Arch(
            mixture_family="phimoe",
            router=Router(rule="sparsemixer", jitter=0.01),
            norm="layer",
            has_norm_bias=True,
            has_head_bias=True,
            has_own_head=True,
            takes_divisors=True,
            output_bias="always",
            long_scale=1.243163121016122,
        ),
        "dbrx": Arch(
            mixture_family="dbrx",
            router=_NORMED,
            norm="layer",
            has_merged_qkv=True,
            second_norm="attn_output_norm",
            eps_key="attention.layer_norm_epsilon",
            has_own_head=True,
        ),
        "deepseek": Arch(mixture_family="deepseek", is_permuted=True, counts_shared=True),
        "gpt-oss": Arch(
            mixture_family="gpt_oss",
            router=Router(norm_p=1.0, has_bias=True),
            glu=Glu(alpha=1.702, limit=7.0, up_shift=1.0),
            has_sinks=True,
            has_expert_bias=True,
            is_truncated=False,
            has_window_every_other=True,
            second_norm="post_attention_norm",
            has_own_head=True,
            takes_any_width=True,
            output_bias="always",
        ),
    }
)

# families whose files are another family's architecture
_SHARED: Mapping[str, str] = MappingProxyType({"mistral": "llama", "grinmoe": "phimoe"})


def arch_of(name: object) -> Arch:
    """Raises ConfigError for an architecture that is not built."""
    if not isinstance(name, str) or name not in ARCHS:
        raise ConfigError(
            f"general.architecture is {name!r}, which is not built",
            hint=f"built are: {', '.join(ARCHS)}",
        )
    return ARCHS[name]


def arch_in(metadata: Mapping[str, object], shapes: Mapping[str, object]) -> Arch:
    """Of a file that has tensors of these names: queries, keys and values may be one of them."""
    arch = arch_of(metadata.get("general.architecture"))
    return replace(arch, has_merged_qkv="blk.0.attn_qkv.weight" in shapes)


def name_of(family: str) -> str:
    """The architecture's name for a family. Raises ConfigError where GGUF has none."""
    for name, arch in ARCHS.items():
        if family in (arch.dense_family, arch.mixture_family):
            return name
    if family in _SHARED:
        return _SHARED[family]
    raise ConfigError(
        f"GGUF has no architecture for the family {family}", hint="pack it into a folder instead"
    )
