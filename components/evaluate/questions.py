"""What the models are asked: questions made of held-out documents, the same for every model.

Everything is drawn from the validation split by the pipeline's seed, so that two runs ask the same. Each function
returns plain rows; `lighteval_tasks` says how lighteval reads and scores them.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.chat.prompts import VERSE, ask, form_of, genre_of, wording
from components.corpus.conversations import CONTINUE, WRITE
from components.corpus.verse import verse_lines
from components.evaluate.form import form_metric

Row = dict[str, Any]
NEXT_LINE, BITS, CONTINUATION, LINE_COUNT, ANSWERS = (
    "next_line",
    "bits_per_char",
    "continuation",
    "line_count",
    "answers",
)

_CONTEXT_CHARACTERS = 4000  # a question looks back no further
_LONGEST_LINE = 200  # longer lines are paragraphs and are divided into sentences
_PROMPT_CHARACTERS = 200  # of a title or a beginning: a longer one would crowd the answer out of the context
_CHUNK = 40  # characters of a segment where a text has neither lines nor sentences
_SENTENCE = re.compile(r"[^.!?。！？…।؟]*[.!?。！？…।؟]+[\"'”’»」』）)\]]*\s*|[^.!?。！？…।؟]+$")
# A form counts as the corpus' own from this share of its documents: prose is even by accident now and then.
_FORM_SHARE = 0.05


@dataclass(frozen=True)
class Document:
    """What evaluation reads of one clean document."""

    id: str
    content: str
    text: str
    title: str | None


@dataclass
class Questions:
    """Rows by task for each kind of model, what was left out and why, and how many there are of what."""

    both: dict[str, list[Row]] = field(default_factory=dict)  # asked of all models, as plain text
    base: dict[str, list[Row]] = field(default_factory=dict)
    chat: dict[str, list[Row]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def segments(text: str) -> list[tuple[int, int]]:
    """Where the lines of a text stand; where it has no short lines its sentences, else pieces of 40 characters.

    Returns [start, end) positions of at least one visible character each, outer white space left out.
    """
    spans = [match.span() for match in re.finditer(r"[^\n]+", text) if match.group().strip()]
    if len(spans) < 2 or max(end - start for start, end in spans) > _LONGEST_LINE:
        spans = [
            (start + match.start(), start + match.end())
            for start, end in spans
            for match in _SENTENCE.finditer(text[start:end])
        ]
    if len(spans) < 2:
        spans = [(start, min(start + _CHUNK, len(text))) for start in range(0, len(text), _CHUNK)]
    trimmed = []
    for start, end in spans:
        piece = text[start:end]
        if piece.strip():
            trimmed.append((start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())))
    return trimmed


def next_line(asked: Sequence[Document], pool: Sequence[Document], choices: int, rng: random.Random) -> list[Row]:
    """For each asked document one of its lines, hidden among lines of (nearly) equal length of other documents.

    asked is part of pool. A document of one line, or whose lines find too few others of like length (a fifth more or
    less), gives no question. Rows: context, choices, gold, document.
    """
    by_length: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for document in pool:
        for start, end in segments(document.text[:_CONTEXT_CHARACTERS])[1:]:
            by_length[end - start].append((document.id, document.text[start:end]))
    rows = []
    for document in asked:
        offset = max(0, document.content.find(document.text))
        body = document.content[offset:]
        later = segments(body[:_CONTEXT_CHARACTERS])[1:]
        if not later:
            continue
        start, end = rng.choice(later)
        truth = body[start:end]
        own = {body[a:b] for a, b in segments(body[:_CONTEXT_CHARACTERS])}
        others: list[str] = []
        for length in _near(end - start):
            found = {line for source, line in by_length[length] if source != document.id and line not in own}
            found -= set(others)
            missing = choices - 1 - len(others)
            others += rng.sample(sorted(found), min(missing, len(found)))
            if len(others) == choices - 1:
                break
        else:
            continue
        gold = rng.randrange(choices)
        rows.append(
            {
                "context": document.content[: offset + start][-_CONTEXT_CHARACTERS:],
                "choices": [*others[:gold], truth, *others[gold:]],
                "gold": gold,
                "document": document.id,
            }
        )
    return rows


def _near(length: int) -> Iterator[int]:
    """Lengths within a fifth of `length`, the nearest first."""
    yield length
    for distance in range(1, length // 5 + 1):
        yield length - distance
        yield length + distance


def bits(asked: Sequence[Document], characters: int) -> list[Row]:
    """Documents to score, at most `characters` in all; `ended` is false for one that was cut there."""
    rows: list[Row] = []
    for document in asked:
        if characters <= 0:
            break
        text = document.content[:characters]
        rows.append({"text": text, "ended": len(text) == len(document.content), "document": document.id})
        characters -= len(text) + 1
    return rows


def beginning(document: Document) -> str:
    """What a plain model is given to continue: all that stands before the body, or the first line where nothing does."""
    content = document.content
    spans = segments(content[:_CONTEXT_CHARACTERS])
    offset = content.find(document.text)
    if offset <= 0:
        offset = spans[1][0] if len(spans) > 1 else len(content) // 2
    return content[:offset][-_PROMPT_CHARACTERS:]


def forms_in_use(texts: Sequence[str], language: str) -> list[int]:
    """Characters a line of the forms that the corpus is written in and its language names, the most frequent first."""
    counted = Counter(form for text in texts if (form := form_of(text, language)) is not None)
    return [form for form, count in counted.most_common() if count >= max(2, _FORM_SHARE * len(texts))]


def build(
    held_out: Sequence[Document],
    training: Sequence[Document],
    language: str,
    *,
    documents: int,
    characters: int,
    choices: int,
    titles: int,
    other_titles: int,
    seed: int,
) -> Questions:
    """All questions. held_out: the whole validation split, in file order, not empty.

    training: the training split; it tells which forms the corpus has and which titles a model has seen.
    """
    wording(language)  # an unknown language is told before any work
    questions = Questions()
    rng = random.Random(f"{seed}:evaluate")
    asked = rng.sample(list(held_out), min(documents, len(held_out)))
    questions.both[BITS] = bits(asked, characters)
    rows = next_line(asked, held_out, choices, rng)
    if rows:
        questions.both[NEXT_LINE] = rows
    else:
        questions.left_out[NEXT_LINE] = (
            f"{len(held_out)} held-out documents give no line with {choices - 1} others of like length beside it"
        )
    # Titles that no training document bears come first, so that none can be answered from memory.
    titled = _one_a_title([document for document in held_out if 0 < len(document.title or "") <= _PROMPT_CHARACTERS])
    trained_on = {document.title for document in training}
    unseen = [document for document in titled if document.title not in trained_on]
    seen = [document for document in titled if document.title in trained_on]
    rng.shuffle(unseen)
    rng.shuffle(seen)
    named = [*unseen, *seen]
    questions.counts = {
        "validation_documents": len(held_out),
        "documents": len(questions.both[BITS]),
        "characters": sum(len(row["text"]) + row["ended"] for row in questions.both[BITS]),
        "next_line_questions": len(rows),
        "titles": len(named[:titles]),
        "titles_unseen": len(unseen[:titles]),
    }
    continued = named[:titles] or rng.sample(list(held_out), min(titles, len(held_out)))
    questions.base[CONTINUATION] = [
        _generation(document, beginning(document), form=None, lines=None) for document in continued
    ]
    texts = [document.text for document in (*training, *held_out)]
    genre = genre_of(texts)
    forms = forms_in_use(texts, language) if genre == VERSE else []
    if not forms:
        questions.left_out["form"] = (
            "the documents are not verse counted in characters"
            if genre != VERSE or not wording(language).forms
            else "too few documents have lines of one length"
        )
        questions.chat[ANSWERS] = [
            _generation(
                document,
                ask(WRITE, language, title=document.title, genre=genre)
                if document.title
                else ask(CONTINUE, language, text=beginning(document), genre=genre),
                form=None,
                lines=None,
            )
            for document in continued
        ]
        return questions
    main = 5 if 5 in forms else forms[0]
    for form in sorted(forms, key=lambda form: form != main):
        count = titles if form == main else other_titles
        questions.chat[form_metric(form)] = [
            _generation(document, ask(WRITE, language, title=document.title, form=form), form=form, lines=None)
            for document in _repeat(named, held_out, count)
        ]
    numbers = wording(language).numbers
    lengths = [len(verse_lines(text)) for text in texts if form_of(text, language) == main]
    lengths = [length for length in lengths if length in numbers]
    if lengths:
        questions.chat[LINE_COUNT] = [
            _generation(
                document,
                ask(WRITE, language, title=document.title, form=main, lines=lines),
                form=main,
                lines=lines,
            )
            for document in _repeat(named, held_out, other_titles)
            for lines in [rng.choice(lengths)]
        ]
    return questions


def _one_a_title(documents: Sequence[Document]) -> list[Document]:
    first: dict[str | None, Document] = {}
    for document in documents:
        first.setdefault(document.title, document)
    return list(first.values())


def _repeat(named: Sequence[Document], held_out: Sequence[Document], count: int) -> list[Document]:
    """`count` documents to ask for by title; a corpus without titles is asked by form alone, `count` times."""
    if named:
        return list(named[:count])
    return [held_out[index % len(held_out)] for index in range(count)]


def _generation(document: Document, prompt: str, form: int | None, lines: int | None) -> Row:
    return {
        "prompt": prompt,
        "title": document.title or "",
        "form": form or 0,
        "lines": lines or 0,
        "document": document.id,
    }


def tasks_of(questions: Questions, chat: bool) -> Mapping[str, list[Row]]:
    """The tasks of one kind of model."""
    return {**questions.both, **(questions.chat if chat else questions.base)}
