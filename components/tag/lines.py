"""Lines that belong to a page, not to its text: taken out one by one, as C4 does (Raffel et al. 2020, section 2.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from components.corpus.language_facts import Facts, words

if TYPE_CHECKING:
    from components.configuration.tag import Lines

_BLANK_LINES = re.compile(r"\n{3,}")


def take_out(text: str, settings: Lines, facts: Facts) -> tuple[str, int, int]:
    """`text` without the lines that `settings` refuse, how many these were, and how many lines there had been.

    Blank lines are counted nowhere; those around what was taken out run together, so that no more than one stays. A line
    that says JavaScript goes whatever it says of it, as in C4. Phrases about cookies and policies are those of the
    language and the English ones. A line ends as a sentence does with `facts.terminal_punctuation`; three dots are no end
    unless the language's list holds the ellipsis (C4 refuses them in English: they mark a text that was cut).
    """
    if _harmless(text, settings, facts):
        return text, 0, sum(1 for line in text.split("\n") if line and not line.isspace())
    kept: list[str] = []
    removed = count = 0
    for printed in text.split("\n"):
        line = printed.strip()
        if line:
            count += 1
            if _refused(line, settings, facts):
                removed += 1
                continue
        kept.append(printed)
    if not removed:
        return text, 0, count
    return _BLANK_LINES.sub("\n\n", "\n".join(kept)).strip("\n"), removed, count


def _harmless(text: str, settings: Lines, facts: Facts) -> bool:
    """Whether no line can be refused: only phrases are looked for, and the whole text holds none of them. Most texts do not."""
    if settings.unpunctuated or settings.minimum_words:
        return False
    lower = text.lower()
    return not (
        (settings.javascript and "javascript" in lower)
        or (settings.policy and any(phrase in lower for phrase in facts.policy_phrases))
    )


def _refused(line: str, settings: Lines, facts: Facts) -> bool:
    if settings.unpunctuated and not ends_as_a_sentence(line, facts):
        return True
    if settings.minimum_words and len(words(line, facts)) < settings.minimum_words:
        return True
    if not (settings.javascript or settings.policy):
        return False
    lower = line.lower()
    return (settings.javascript and "javascript" in lower) or (
        settings.policy and any(phrase in lower for phrase in facts.policy_phrases)
    )


def ends_as_a_sentence(line: str, facts: Facts) -> bool:
    """Whether a line without trailing blanks ends with punctuation that ends sentences in its language."""
    if not line.endswith(tuple(facts.terminal_punctuation)):
        return False
    return "…" in facts.terminal_punctuation or not line.endswith("...")
