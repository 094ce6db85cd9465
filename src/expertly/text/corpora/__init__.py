"""The texts that come with the package, one a domain; NOTICE names their sources and licences."""

import lzma
from importlib import resources

from expertly.errors import InputError

_DOMAINS = ("drama", "encyclopedia", "maths", "python", "swahili")
HELD_OUT = 0.05  # the share of each text, at its end, that nothing trains on


def domains() -> tuple[str, ...]:
    """The names of the packaged texts."""
    return _DOMAINS


def training_text(domain: str) -> str:
    """The first 95% of a packaged text; InputError for a domain that is not packaged."""
    return split(whole_text(domain), HELD_OUT)[0]


def held_out_text(domain: str) -> str:
    """The last 5% of a packaged text; InputError for a domain that is not packaged."""
    return split(whole_text(domain), HELD_OUT)[1]


def whole_text(domain: str) -> str:
    """A packaged text, training and held-out part together."""
    if domain not in _DOMAINS:
        raise InputError(
            f"no packaged text is called {domain!r}", hint=f"there are {', '.join(_DOMAINS)}"
        )
    packed = resources.files(__name__).joinpath(f"{domain}.txt.xz").read_bytes()
    return lzma.decompress(packed).decode("utf-8")


def split(text: str, share: float) -> tuple[str, str]:
    """Text cut in two so that the second part is at least `share` of its bytes (UTF-8): where a
    line ends, or between two characters if no line ends before that."""
    if share == 0:
        return text, ""
    data = text.encode("utf-8")
    limit = int(len(data) * (1 - share))
    at = data.rfind(b"\n", 0, limit) + 1 or limit
    # 10xxxxxx continues a character
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return data[:at].decode("utf-8"), data[at:].decode("utf-8")
