"""What people ask a model, in the words of `components/chat/wording/<language>.yaml`.

Training, evaluation, alignment and the report all ask through `ask`, so that a model is always asked in words that it
was trained on. A language is added by one file of wording.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from components.chat.markup import escape
from components.corpus.conversations import CONTINUE, KINDS, REFUSAL, WHO_WROTE, WRITE, WRITE_IN_STYLE
from components.corpus.verse import line_length
from components.errors import InkwellError

WORDING_FOLDER = Path(__file__).parent / "wording"
VERSE, PROSE = "verse", "prose"
# Longer printed lines than these are paragraphs, in any script.
_VERSE_LINE_CHARACTERS = 60


@dataclass(frozen=True)
class Wording:
    """The phrases of one language: `phrases[genre][name]` is a list of templates."""

    language: str
    anonymous: frozenset[str]  # what stands in place of an author where nobody is named
    forms: Mapping[int, str]  # characters a line -> name of such a poem
    other_form: str
    numbers: Mapping[int, str]
    phrases: Mapping[str, Mapping[str, Sequence[str]]]


def languages() -> list[str]:
    """Languages that there is wording for."""
    return sorted(path.stem for path in WORDING_FOLDER.glob("*.yaml"))


@lru_cache(maxsize=16)
def wording(language: str) -> Wording:
    """The wording of a language; InkwellError listing what exists for an unknown one."""
    import yaml

    if language not in languages():
        raise InkwellError(
            f"language {language!r} has no wording for conversations; there is wording for {', '.join(languages())}: "
            f"set `language` to one of these or write components/chat/wording/{language}.yaml after their pattern."
        )
    values: dict[str, Any] = yaml.safe_load((WORDING_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    return Wording(
        language,
        frozenset(values["anonymous"]),
        values["forms"],
        values["other_form"],
        values["numbers"],
        {genre: values[genre] for genre in (VERSE, PROSE)},
    )


def form_of(text: str, language: str) -> int | None:
    """Characters in every line of a text, where its language counts verse so; None otherwise."""
    length = line_length(text)
    return length if length in wording(language).forms else None


def genre_of(texts: Sequence[str]) -> str:
    """VERSE when most of `texts` are written in short lines (two or more, of 60 characters at most), else PROSE."""
    verse = 0
    for text in texts:
        lines = [line for line in text.split("\n") if line.strip()]
        verse += len(lines) >= 2 and max(map(len, lines)) <= _VERSE_LINE_CHARACTERS
    return VERSE if 2 * verse > len(texts) else PROSE


def ask(
    kind: str,
    language: str,
    *,
    title: str | None = None,
    author: str | None = None,
    text: str | None = None,
    form: int | None = None,
    lines: int | None = None,
    genre: str = VERSE,
    rng: random.Random | None = None,
) -> str:
    """What a person asks: the content of a user's turn.

    kind: one of `components.corpus.conversations.KINDS`. WRITE needs a title or a form, WRITE_IN_STYLE an author, the others
    a text (the beginning to continue, or the lines whose author is asked). `form` is characters a line and `lines`
    their number; `lines` is said only together with a form. Without `rng` the first phrasing is taken, with it one by
    chance. Markers in what a person typed are escaped.
    """
    assert kind in KINDS, kind
    words = wording(language)
    genre = VERSE if form is not None else genre
    if kind == WRITE:
        assert title or form is not None, "write needs a title or a form"
        name = "write" if form is None else "write_form" if title else "untitled_form"
        name += "_lines" if form is not None and lines is not None else ""
    elif kind == WRITE_IN_STYLE:
        assert author, "write_in_style needs an author"
        name = ("" if title else "untitled_") + "style" + ("" if form is None else "_form")
    else:
        assert text, f"{kind} needs a text"
        name = {CONTINUE: "continue", WHO_WROTE: "who_wrote", REFUSAL: "who_wrote"}[kind]
    return _phrase(
        words,
        genre,
        name,
        rng,
        title=title,
        author=author,
        text=text,
        form=None if form is None else words.forms.get(form, words.other_form.replace("{form}", str(form))),
        lines=None if lines is None else words.numbers.get(lines, str(lines)),
    )


def name_author(author: str | None, language: str, *, genre: str = VERSE, rng: random.Random | None = None) -> str:
    """The answer to who wrote something: the author's name, or that it is not known when `author` is None."""
    return _phrase(wording(language), genre, "unknown" if author is None else "known", rng, author=author)


def _phrase(words: Wording, genre: str, name: str, rng: random.Random | None, **values: str | None) -> str:
    phrasings = words.phrases[genre][name]
    phrase = rng.choice(phrasings) if rng else phrasings[0]
    # The text last: what stands in it is never filled in.
    for key, value in values.items():
        if key != "text" and value is not None:
            phrase = phrase.replace("{" + key + "}", escape(value))
    if values.get("text"):
        phrase = phrase.replace("{text}", escape(str(values["text"])))
    return phrase
