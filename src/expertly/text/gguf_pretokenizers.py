"""How GGUF's `tokenizer.ggml.pre` cuts text into words: patterns, one after the other.

The name stands for a model's own pre-tokenizer, so the patterns are those of the models'
tokenizer.json, not a reader's adaptations of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

from expertly.errors import CheckpointError
from expertly.text.gguf_entries import short

_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_UNCASED = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_ENDS}"
_QWEN_2 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_PUNCTUATION}|{_ENDS}"
_QWEN_35 = (
    rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_ENDS}"
)
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED}*{_UNCASED}+{_ENGLISH}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_CASED}+{_UNCASED}*{_ENGLISH}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"
)
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED}*{_UNCASED}+|[^\r\n\p{{L}}\p{{N}}]?{_CASED}+{_UNCASED}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_DEEPSEEK_LLM = (
    "[\r\n]",
    rf"\s?[{_LETTERS}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _HAN,
    r"\p{N}+",
)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_OLD_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True, kw_only=True)
class Words:
    """`steps` cut what the step before left; a cut keeps what it found and what is between.

    `are_tokens_first`: a word that is a token is not built from merges. `adds_bos` is what a file
    means that does not say. `composes`: the models' tokenizers bring text into NFC before.
    """

    steps: tuple[str, ...]
    are_tokens_first: bool = False
    adds_bos: bool = False
    composes: bool = False


_GPT_2_WORDS = Words(steps=(GPT_2,))
_GPT_NEOX_WORDS = Words(steps=(GPT_2,), composes=True)
_DIGIT_WORDS = Words(steps=(r"\p{N}", GPT_2))
_CL100K_WORDS = Words(steps=(_CL100K,))
_LLAMA_3_WORDS = Words(steps=(_CL100K,), are_tokens_first=True, adds_bos=True)
_QWEN_2_WORDS = Words(steps=(_QWEN_2,), composes=True)
_BARE_QWEN_2_WORDS = Words(steps=(_QWEN_2,))
_O200K_WORDS = Words(steps=(_O200K,))
_BAILING_WORDS = Words(steps=(_BAILING,))

# of names with the same words, the first is the one to write
WORDS_OF_PRE: Mapping[str, Words] = {
    "gpt-2": _GPT_2_WORDS,
    "phi-2": _GPT_2_WORDS,
    "mpt": _GPT_2_WORDS,
    "gigachat": _GPT_2_WORDS,
    "olmo": _GPT_NEOX_WORDS,
    "starcoder": _DIGIT_WORDS,
    "refact": _DIGIT_WORDS,
    "smollm": _DIGIT_WORDS,
    "mellum2": _DIGIT_WORDS,
    "dbrx": _CL100K_WORDS,
    "smaug-bpe": _CL100K_WORDS,
    "chatglm-bpe": _CL100K_WORDS,
    "llama-bpe": _LLAMA_3_WORDS,
    "llama3": _LLAMA_3_WORDS,
    "llama-v3": _LLAMA_3_WORDS,
    "lfm2": _LLAMA_3_WORDS,
    "pixtral": _LLAMA_3_WORDS,
    "glm4": Words(steps=(_CL100K,), are_tokens_first=True),
    "qwen2": _QWEN_2_WORDS,
    "deepseek-r1-qwen": _QWEN_2_WORDS,
    "hunyuan": _BARE_QWEN_2_WORDS,
    "stablelm2": _BARE_QWEN_2_WORDS,
    "grok-2": _BARE_QWEN_2_WORDS,
    "qwen35": Words(steps=(_QWEN_35,), composes=True),
    "gpt-4o": _O200K_WORDS,
    "llama4": _O200K_WORDS,
    "minimax-m2": _O200K_WORDS,
    "tekken": Words(steps=(_TEKKEN,), are_tokens_first=True, adds_bos=True),
    "deepseek-llm": Words(steps=_DEEPSEEK_LLM),
    "deepseek-coder": Words(steps=_DEEPSEEK_CODER),
    "deepseek-v3": Words(steps=_DEEPSEEK_V3),
    "bailingmoe": _BAILING_WORDS,
    "bailingmoe2": _BAILING_WORDS,
    "llada-moe": _BAILING_WORDS,
    "default": Words(steps=_OLD_DEFAULT),
}


def words_of(pre: str) -> Words:
    """Raises CheckpointError for a name that is not known."""
    if pre not in WORDS_OF_PRE:
        raise CheckpointError(
            f"the file's tokenizer cuts words as {short(pre)}, which is not known here",
            hint=f"known are {', '.join(WORDS_OF_PRE)}; or open the model's own tokenizer.json",
        )
    return WORDS_OF_PRE[pre]


def pre_tokenizer_of(words: Words) -> pre_tokenizers.PreTokenizer:
    """What cuts a text and spells the pieces in the byte alphabet."""
    *first, last = words.steps
    steps = [pre_tokenizers.Split(Regex(step), "isolated") for step in first]
    if last == GPT_2:
        # the library's own spelling of the pattern is the quicker one
        return pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    steps.append(pre_tokenizers.Split(Regex(last), "isolated"))
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def normalizer_of(words: Words) -> normalizers.Normalizer | None:
    return normalizers.NFC() if words.composes else None


def steps_in(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns of a tokenizer.json's pre-tokenizer; None if it is more than byte-level cuts."""
    parts = _flat(pre_tokenizer)
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    steps = [_step(part) for part in parts[:-1]]
    if parts[-1].get("use_regex", True):
        steps.append(GPT_2)
    found = tuple(step for step in steps if step is not None)
    return found if len(found) == len(steps) else None


def names_of(steps: Sequence[str], joins_digits: bool = True) -> list[str]:
    """Every `pre` with these cuts, first those with exactly them. Where no merge joins digits, runs
    of them may as well be cut one by one."""

    def runs(steps: Sequence[str]) -> list[str]:
        return [r"\p{N}+" if step == r"\p{N}" else step for step in steps]

    exact = [name for name, words in WORDS_OF_PRE.items() if words.steps == tuple(steps)]
    alike = [name for name, words in WORDS_OF_PRE.items() if runs(words.steps) == runs(steps)]
    return exact if joins_digits else list(dict.fromkeys([*exact, *alike]))


def _flat(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer.get("type") != "Sequence":
        return [pre_tokenizer]
    return [part for inner in pre_tokenizer["pretokenizers"] for part in _flat(inner)]


def _step(part: Mapping[str, Any]) -> str | None:
    if part.get("type") == "Digits":
        return r"\p{N}" if part.get("individual_digits") else r"\p{N}+"
    pattern = part.get("pattern")
    if part.get("type") != "Split" or not isinstance(pattern, Mapping):
        return None
    # two spellings of the same cut where a pattern leaves nothing between its matches
    spelling = part.get("behavior"), part.get("invert")
    step = pattern.get("Regex")
    is_whole = isinstance(step, str) and step.endswith(r"|\s+")
    if spelling == ("Isolated", False) or (spelling == ("Removed", True) and is_whole):
        return step
    return None
