"""Rules by which BPE over bytes cuts a text before it merges, under the names that llama.cpp gives them.

A GGUF file names its rule (`tokenizer.ggml.pre`); a `tokenizer.json` writes it out. A wrong rule changes ids without a
sound, so only rules that were compared with llama.cpp stand here (tests/gguf/test_model.py).
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

# Written by their makers' tokenizers with every digit apart, then cut as GPT-2 does.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_GPT2 = ("gpt-2", "phi-2", "jais", "mpt", "olmo")
# By a regular expression of their own, which transformers keeps; several names share one.
_BY_REGEX = ("llama-bpe", "qwen2", "qwen35")
# With these a word that is a token as a whole is taken for it, whether or not merges lead there.
_WHOLE_WORDS_FIRST = ("llama-bpe",)
# Other names of the same rule; files are written with the name that stands in the table.
_ALSO = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}

NAMES = (*_GPT2, *_SINGLE_DIGITS, *_BY_REGEX)


def by_name(name: str) -> PreTokenizer | None:
    """The rule that a GGUF file names; None for one that is not known here."""
    from tokenizers import Regex, pre_tokenizers

    name = _ALSO.get(name, name)
    if name in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _SINGLE_DIGITS:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in _BY_REGEX:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return None


def whole_words_first(name: str) -> bool:
    """Whether a word that is in the vocabulary is one token even where no merges lead to it (`ignore_merges`)."""
    return _ALSO.get(name, name) in _WHOLE_WORDS_FIRST


def name_of(state: dict[str, Any]) -> str | None:
    """llama.cpp's name of the rule in the object of a `tokenizer.json`; None where it has none that is known here."""
    found = _essence(state.get("pre_tokenizer"))
    merged = bool(state["model"].get("ignore_merges"))
    return next((name for name, rule in _rules() if rule == found and whole_words_first(name) == merged), None)


@functools.cache
def _rules() -> list[tuple[str, str]]:
    from tokenizers import Tokenizer, models

    rules = []
    for name in NAMES:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = by_name(name)
        rules.append((name, _essence(json.loads(tokenizer.to_str())["pre_tokenizer"])))
    return rules


def _essence(rule: Any) -> str:
    """A rule as text, without what changes no token: offsets that are trimmed, sequences of one, groups of no effect."""
    if isinstance(rule, dict) and rule.get("type") == "Sequence":
        parts = [_essence(one) for one in rule["pretokenizers"]]
        return parts[0] if len(parts) == 1 else "[" + ", ".join(parts) + "]"
    if isinstance(rule, dict):
        return json.dumps({key: value for key, value in rule.items() if key != "trim_offsets"}, sort_keys=True)
    return json.dumps(rule)
