"""Our own family: whatever a `ModelConfig` can say, in its own words.

Sections `norm`, `attention`, `dense`, `mixture` and `soft` have the fields of `config` for keys.
`layers` lists runs of equal layers, {count, attention, and one of dense, mixture, soft}; what an
entry gives lies over the sections of the same name outside. Without it all layers are alike.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from expertly.config import (
    Attention,
    Dense,
    Layer,
    Mixture,
    ModelConfig,
    Norm,
    SoftMixture,
)
from expertly.errors import ConfigError
from expertly.families.common import assemble, read_num_layers
from expertly.families.naming import Names, whole
from expertly.families.parameters import parameters
from expertly.families.reading import Keys
from expertly.families.sections import read_fields

_FEED_FORWARDS = {"dense": Dense, "mixture": Mixture, "soft": SoftMixture}
_SECTIONS = ("attention", *_FEED_FORWARDS)


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    outside = {name: _values(keys, name) for name in _SECTIONS if not keys.is_null(name)}
    norm = keys.section("norm")
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=tuple(_layers(keys, outside)),
        norm=Norm(eps=1e-6) if norm is None else read_fields(norm, Norm),
        max_context=keys.size("max_position_embeddings"),
        has_head_bias=keys.flag("has_head_bias", default=False),
    )


def _values(keys: Keys, name: str) -> Mapping[str, Any]:
    section = keys.section(name)
    return {} if section is None else section.values()


def _layers(keys: Keys, outside: Mapping[str, Mapping[str, Any]]) -> Iterator[Layer]:
    entries = keys.sections("layers")
    if entries is None:
        yield from [_layer(outside, {}, "config.json")] * read_num_layers(keys)
        return
    num_layers = 0
    for entry in entries:
        entry.allow_only(["count", *_SECTIONS])
        inside = {name: _values(entry, name) for name in _SECTIONS if name in entry}
        count = read_num_layers(entry, "count")
        yield from [_layer(outside, inside, entry.where)] * count
        num_layers += count
    keys.must_be("num_hidden_layers", num_layers)


def _layer(
    outside: Mapping[str, Mapping[str, Any]], inside: Mapping[str, Mapping[str, Any]], where: str
) -> Layer:
    named = _FEED_FORWARDS.keys() & inside.keys() or _FEED_FORWARDS.keys() & outside.keys()
    if len(named) != 1:
        raise ConfigError(
            f"{where}: a layer has {' and '.join(sorted(named)) or 'no feed-forward'}",
            hint="layers name one of dense, mixture and soft each",
        )
    (feed_forward,) = named

    def keys_of(name: str) -> Keys:
        section = _laid_over(outside.get(name, {}), inside.get(name, {}))
        return Keys(section, f"{where}: {name}")

    return Layer(
        attention=read_fields(keys_of("attention"), Attention),
        feed_forward=read_fields(keys_of(feed_forward), _FEED_FORWARDS[feed_forward]),
    )


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the upper one's values where they meet; sections in them alike."""
    found = {**below, **above}
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping):
            found[name] = _laid_over(below[name], value)
    return found


def stored_tensors(config: ModelConfig) -> Names:
    """Each parameter under its own name."""
    return (whole(name, shape, name) for name, shape in parameters(config).items())
