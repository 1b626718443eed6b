"""Documents to conversations: which questions a document can answer, and the draw among them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.chat.markup import Message, escape
from components.chat.prompts import ask, form_of, genre_of, name_author, wording
from components.corpus.conversations import (
    CONTINUE,
    CONVERSATIONS_FILE,
    KINDS,
    REFUSAL,
    WHO_WROTE,
    WRITE,
    WRITE_IN_STYLE,
    Conversation,
    write_conversations,
)
from components.corpus.cutting import head, parts
from components.corpus.documents import TRAIN, VALIDATION
from components.corpus.verse import verse_lines
from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Instruct
    from components.instruct.authorship import Knowledge
    from components.step import Context

PROBE_FILE = "probe.json"
# A question about an author shows a few lines, as a person would quote them.
_QUOTED_CHARACTERS = 120
# A longer title is no longer a title but a preface, and its question would be longer than the answer.
_LONGEST_TITLE = 40
_GENRE_SAMPLE = 1000


def run(context: Context) -> None:
    """Write `conversations.parquet` and `probe.json`."""
    from components.atomic import atomic_folder
    from components.corpus.documents import clean_schema, read_table
    from components.progress import track

    settings, language = context.configuration.instruct, context.configuration.language
    wording(language)  # an unknown language is told before any work
    columns = ["id", "title", "author", "text", "split"]
    documents = read_table(context.inputs["clean"] / "documents.parquet", clean_schema(), columns).to_pylist()
    for document in documents:
        if document["author"] in wording(language).anonymous:
            document["author"] = None
    train = [document for document in documents if document["split"] == TRAIN]
    genre = genre_of([document["text"] for document in train[:_GENRE_SAMPLE]])
    knowledge = _knowledge(context, [document for document in train if document["author"]])
    known = knowledge.known if knowledge else None
    counts: Counter[str] = Counter()

    def made() -> Iterator[Conversation]:
        for document in track(documents, "conversations"):
            drawn = conversations_of(document, settings, language, genre, known, context.seed)
            counts["documents_without"] += not drawn
            for conversation in drawn:
                counts[conversation.split] += 1
                counts[conversation.kind] += 1
                yield conversation

    with atomic_folder(context.outputs["instruct"]) as folder:
        write_conversations(folder / CONVERSATIONS_FILE, made())
        described = knowledge.described() if knowledge else {"documents": 0, "authors": []}
        text = json.dumps(described, ensure_ascii=False, indent=1) + "\n"
        (folder / PROBE_FILE).write_text(text, encoding="utf-8")
        if not counts[TRAIN]:
            raise InkwellError(
                f"{context.inputs['clean']}: no conversation can be made of the training documents: they have neither "
                "titles nor authors nor two parts, or the weights under instruct leave only questions they cannot answer."
            )
    _measure(context, counts, knowledge)


def _knowledge(context: Context, documents: Sequence[Mapping[str, Any]]) -> Knowledge | None:
    from components.instruct.authorship import probe
    from components.model.folders import load_model, load_tokenizer

    settings = context.configuration.instruct
    if not settings.refusals or not settings.who_wrote or not documents:
        return None
    folder = context.inputs["base"]
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    return probe(model, tokenizer, documents, context.configuration.clean.template, settings, context.seed)


def _measure(context: Context, counts: Counter[str], knowledge: Knowledge | None) -> None:
    asked = counts[WHO_WROTE] + counts[REFUSAL]
    context.metrics |= {
        "conversations": counts[TRAIN] + counts[VALIDATION],
        "conversations_train": counts[TRAIN],
        "conversations_validation": counts[VALIDATION],
        "documents_without": counts["documents_without"],
        **{f"kind_{kind}": counts[kind] for kind in KINDS},
        "refusal_share": round(counts[REFUSAL] / asked, 4) if asked else 0.0,
        "base_author_accuracy": round(knowledge.accuracy, 4) if knowledge else 0.0,
        "base_author_candidates": knowledge.candidates if knowledge else 0,
        "authors_probed": len(knowledge.probed) if knowledge else 0,
        "authors_known": len(knowledge.known) if knowledge else 0,
    }


def conversations_of(
    document: Mapping[str, Any],
    settings: Instruct,
    language: str,
    genre: str,
    known: frozenset[str] | None,
    seed: int,
) -> list[Conversation]:
    """The conversations drawn for one document; they depend on nothing but it, the parameters and the seed.

    document: id, title, author (None where nobody is named), text and split. known: authors that the base model
    recognises; None: all are named without asking it.
    """
    rng = random.Random(f"{seed}:{document['id']}")
    wanted = int(settings.conversations_per_document)
    wanted += rng.random() < settings.conversations_per_document - wanted
    weights = {
        WRITE: settings.write,
        WRITE_IN_STYLE: settings.write_in_style,
        CONTINUE: settings.continue_text,
        WHO_WROTE: settings.who_wrote,
    }
    text = document["text"].strip()
    form = form_of(text, language)
    possible = {
        WRITE: bool(document["title"]) or form is not None,
        WRITE_IN_STYLE: bool(document["author"]),
        CONTINUE: len(text) >= 2,
        WHO_WROTE: bool(document["author"]),
    }
    kinds = [kind for kind, weight in weights.items() if possible[kind] and weight > 0]
    drawn: list[Conversation] = []
    if not kinds:
        return drawn
    for kind in rng.choices(kinds, [weights[kind] for kind in kinds], k=wanted):
        kind, asked_form, messages = _converse(kind, document, text, form, settings, language, genre, known, rng)
        if any(conversation.messages == messages for conversation in drawn):
            continue
        if all(message["content"].strip() for message in messages):
            name = f"{document['id']}-{len(drawn)}"
            drawn.append(Conversation(name, document["id"], kind, document["split"], asked_form, messages))
    return drawn


def _converse(
    kind: str,
    document: Mapping[str, Any],
    text: str,
    form: int | None,
    settings: Instruct,
    language: str,
    genre: str,
    known: frozenset[str] | None,
    rng: random.Random,
) -> tuple[str, int | None, list[Message]]:
    """Kind (a question about an author may become a refusal), form asked for, and the turns."""
    limit = settings.maximum_characters
    author = document["author"]
    title = head(document["title"], _LONGEST_TITLE) if document["title"] else None
    if kind == CONTINUE:
        shown, answer = _divide(text, limit, rng)
        question = ask(kind, language, text=shown, genre=genre, rng=rng)
    elif kind == WHO_WROTE:
        is_known = known is None or author in known
        kind, form = (WHO_WROTE if is_known else REFUSAL), None
        question = ask(kind, language, text=head(text, _QUOTED_CHARACTERS), genre=genre, rng=rng)
        answer = name_author(author if is_known else None, language, genre=genre, rng=rng)
    else:
        answer = head(text, limit)
        # A document without a title can only be asked for by its form.
        says_form = form is not None and (rng.random() < settings.form_share or not (title or kind == WRITE_IN_STYLE))
        form = form if says_form else None
        lines = len(verse_lines(answer)) if says_form and rng.random() < settings.lines_share else None
        named = author if kind == WRITE_IN_STYLE else None
        question = ask(kind, language, title=title, author=named, form=form, lines=lines, genre=genre, rng=rng)
    turns: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": escape(answer)}]
    return kind, form, turns


def _divide(text: str, limit: int, rng: random.Random) -> tuple[str, str]:
    """A beginning that is shown and what follows it, each at most `limit` characters; long texts begin anywhere."""
    pieces = parts(text, limit)
    if len(text) > 2 * limit:
        start = rng.randrange(max(1, len(pieces) - 1))
        pieces = pieces[start:]
    shown = rng.randint(1, max(1, len(pieces) // 2))
    while shown > 1 and len("".join(pieces[:shown])) > limit // 2:
        shown -= 1
    return "".join(pieces[:shown]).strip(), head("".join(pieces[shown:]), limit)
