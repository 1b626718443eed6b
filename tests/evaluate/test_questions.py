"""Questions are held out, fair, the same for one seed, and possible for any corpus."""

from __future__ import annotations

import random

import pytest

from components.errors import InkwellError
from components.evaluate.questions import BITS, Document, beginning, bits, build, next_line, segments
from tests.tiny_corpus import clean_rows

NUMBERS = {"documents": 10, "characters": 100_000, "choices": 4, "titles": 8, "other_titles": 4, "seed": 1}


def held_out() -> list[Document]:
    return [Document(row["id"], row["content"], row["text"], row["title"]) for row in clean_rows()]


def prose(count: int = 30) -> list[Document]:
    rng = random.Random(2)
    words = ["река", "дом", "снег", "дорога", "вечер", "окно", "письмо"]
    documents = []
    for index in range(count):
        sentences = [" ".join(rng.choices(words, k=rng.randrange(4, 9))).capitalize() + "." for _ in range(12)]
        text = " ".join(sentences)
        documents.append(Document(f"p{index}", text, text, None))
    return documents


def test_segments_of_verse_are_its_lines() -> None:
    text = "一二三，四五六。\n\n七八九，十百千。"
    assert [text[a:b] for a, b in segments(text)] == ["一二三，四五六。", "七八九，十百千。"]


def test_segments_of_prose_are_its_sentences() -> None:
    text = "He came. “Why?” he asked! No answer…"
    assert [text[a:b] for a, b in segments(text)] == ["He came.", "“Why?”", "he asked!", "No answer…"]


def test_a_text_without_marks_is_cut_into_pieces() -> None:
    text = "字" * 100
    assert [b - a for a, b in segments(text)] == [40, 40, 20]


def test_the_true_next_line_follows_its_context_in_the_document() -> None:
    documents = held_out()
    rows = next_line(documents[:50], documents, 4, random.Random(1))
    assert len(rows) == 50
    contents = {document.id: document.content for document in documents}
    for row in rows:
        truth = row["choices"][row["gold"]]
        assert contents[row["document"]].startswith(row["context"] + truth)
        assert {len(choice) for choice in row["choices"]} == {len(truth)}
        assert len(set(row["choices"])) == 4


def test_the_right_answer_stands_in_every_place() -> None:
    documents = held_out()
    golds = [row["gold"] for row in next_line(documents, documents, 4, random.Random(1))]
    assert all(golds.count(place) > len(golds) / 8 for place in range(4))


def test_wrong_lines_come_from_other_documents() -> None:
    documents = held_out()
    contents = {document.id: document.content for document in documents}
    for row in next_line(documents, documents, 4, random.Random(1)):
        wrong = [choice for place, choice in enumerate(row["choices"]) if place != row["gold"]]
        assert not any(line in contents[row["document"]] for line in wrong)


def test_prose_asks_for_the_next_sentence_among_sentences_of_like_length() -> None:
    documents = prose()
    rows = next_line(documents, documents, 3, random.Random(1))
    assert rows
    for row in rows:
        lengths = [len(choice) for choice in row["choices"]]
        assert max(lengths) - min(lengths) <= 2 * (len(row["choices"][row["gold"]]) // 5)


def test_bits_are_asked_of_whole_documents_up_to_the_limit() -> None:
    rows = bits([Document("a", "12345", "12345", None), Document("b", "12345", "12345", None)], 8)
    assert [(row["text"], row["ended"]) for row in rows] == [("12345", True), ("12", False)]


def test_a_plain_model_is_given_title_and_author() -> None:
    document = held_out()[0]
    assert beginning(document) + document.text == document.content


def test_five_character_poems_are_asked_by_title_in_the_words_of_training() -> None:
    questions = build(held_out(), [], "zh", **NUMBERS)
    rows = questions.chat["five_char_lines"]
    assert len(rows) == 8
    assert all(row["title"] in row["prompt"] and "五言" in row["prompt"] for row in rows)
    assert {row["form"] for row in rows} == {5}
    assert len(questions.chat["seven_char_lines"]) == 4
    assert len(questions.chat["line_count"]) == 4


def test_titles_that_training_documents_bear_come_last() -> None:
    documents = held_out()
    titles = sorted({document.title for document in documents if document.title})
    questions = build(documents, [Document("t", "", "", title) for title in titles[3:]], "zh", **NUMBERS)
    assert {row["title"] for row in questions.chat["five_char_lines"][:3]} == set(titles[:3])
    assert questions.counts["titles_unseen"] == 3


def test_a_corpus_without_titles_is_asked_by_form_alone() -> None:
    documents = [Document(d.id, d.text, d.text, None) for d in held_out()]
    rows = build(documents, [], "zh", **NUMBERS).chat["five_char_lines"]
    assert len(rows) == 8
    assert rows[0]["prompt"]


def test_the_same_seed_asks_the_same() -> None:
    assert build(held_out(), [], "zh", **NUMBERS) == build(held_out(), [], "zh", **NUMBERS)
    assert build(held_out(), [], "zh", **NUMBERS) != build(held_out(), [], "zh", **{**NUMBERS, "seed": 2})


def test_prose_is_not_asked_for_form_and_says_why() -> None:
    questions = build(prose(), [], "ru", **NUMBERS)
    assert list(questions.chat) == ["answers"]
    assert questions.left_out["form"]


def test_one_held_out_document_is_scored_and_the_choice_left_out_with_a_reason() -> None:
    questions = build(held_out()[:1], [], "zh", **NUMBERS)
    assert len(questions.both[BITS]) == 1
    assert "next_line" in questions.left_out


def test_a_language_without_wording_is_told_in_one_sentence() -> None:
    with pytest.raises(InkwellError, match="wording"):
        build(held_out(), [], "xx", **NUMBERS)
