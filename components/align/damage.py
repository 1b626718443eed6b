"""Real texts, damaged in ways that a reader would mind: each damage is one thing that a model should not write."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from components.corpus.conversations import Conversation
from components.corpus.cutting import units
from components.corpus.verse import line_length, verse_lines

# Texts without line ends are damaged by sentences; this is what counts as too long for a line.
_LONGEST_LINE = 60


@dataclass
class Damager:
    """Damages answers; other texts, from which strange lines are taken, come from `others`.

    others: conversations of the training split. Answers by form are looked up when another form than the one asked
    for is to stand in place of the right one.
    """

    others: Sequence[Conversation]
    _by_form: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for other in self.others:
            if other.form is not None and line_length(other.answer) == other.form:
                self._by_form.setdefault(other.form, []).append(other.answer)

    def damage(self, conversation: Conversation, rng: random.Random) -> tuple[str, str] | None:
        """A damaged answer and the name of the damage, or None for a text that no damage fits.

        Where a form was asked for, half of the damages break it: that is what the question stated.
        """
        breaking: dict[str, Callable[[], str | None]] = {}
        if conversation.form is not None:
            breaking = {
                "wrong line length": lambda: _wrong_length(conversation.answer, rng),
                "another form": lambda: self._another_form(conversation.form, rng),
            }
        spoiling: dict[str, Callable[[], str | None]] = {
            "repeated line": lambda: _repeated(conversation.answer, rng),
            "strange line": lambda: self._strange(conversation, rng),
            "missing end": lambda: _unfinished(conversation.answer, rng),
        }
        groups = [breaking, spoiling] if breaking and rng.random() < 0.5 else [spoiling, breaking]
        for group in groups:
            for name in rng.sample(sorted(group), len(group)):
                damaged = group[name]()
                if damaged and damaged.strip() and damaged != conversation.answer:
                    return damaged, name
        return None

    def _another_form(self, form: int | None, rng: random.Random) -> str | None:
        others = sorted(length for length in self._by_form if length != form)
        if not others:
            return None
        # By how common the forms are: a rare one would be too easy to tell.
        (length,) = rng.choices(others, [len(self._by_form[other]) for other in others])
        return rng.choice(self._by_form[length])

    def _strange(self, conversation: Conversation, rng: random.Random) -> str | None:
        lines = units(conversation.answer, _LONGEST_LINE)
        other = rng.choice(self.others)
        if len(lines) < 2 or other.document_id == conversation.document_id:
            return None
        place = rng.randrange(1, len(lines))
        ending = lines[place][len(lines[place].rstrip()) :]
        lines[place] = rng.choice(units(other.answer, _LONGEST_LINE)).strip() + ending
        return "".join(lines).strip()


def _repeated(text: str, rng: random.Random) -> str | None:
    lines = units(text, _LONGEST_LINE)
    if len(lines) < 2:
        return None
    place = rng.randrange(1, len(lines))
    ending = lines[place][len(lines[place].rstrip()) :]
    lines[place] = lines[rng.randrange(place)].rstrip() + ending
    return "".join(lines).strip()


def _unfinished(text: str, rng: random.Random) -> str | None:
    if len(text) < 4:
        return None
    # Between a third and the last characters, so that the end is plainly missing.
    return text[: rng.randrange(len(text) // 3 + 1, len(text) - 1)].rstrip()


def _wrong_length(text: str, rng: random.Random) -> str | None:
    """One or more lines of verse with a character too many or too few."""
    lines = verse_lines(text)
    if not lines:
        return None
    for line in rng.sample(lines, min(len(lines), rng.randint(1, 3))):
        place = rng.randrange(len(line))
        changed = line[:place] + line[place + 1 :] if rng.random() < 0.5 else line[:place] + line[place] + line[place:]
        text = text.replace(line, changed, 1)
    return text
