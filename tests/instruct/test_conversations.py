"""Conversations made of documents: which kinds, in which words, of which documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from components.chat.prompts import PROSE, VERSE, name_author
from components.configuration import Instruct
from components.corpus.conversations import (
    CONTINUE,
    REFUSAL,
    WHO_WROTE,
    WRITE,
    WRITE_IN_STYLE,
    Conversation,
    read_conversations,
)
from components.corpus.documents import clean_schema, write_documents
from components.corpus.verse import line_length
from components.instruct.__main__ import STEP
from components.instruct.authorship import probe
from components.instruct.from_corpus import conversations_of
from components.model.folders import BEGIN_ID, END_ID, load_model, load_tokenizer
from components.step import content_hash, main
from tests.tiny_corpus import AUTHORS, clean_rows

PARAMETERS = 'ingest: {sources: [{name: t, kind: path, location: x}]}\nclean: {template: "{title}\\n{author}\\n{text}"}\ntracking: {enabled: false}\n'


def run(folder: Path, clean: Path, base: Path, *sets: str) -> int:
    (folder / "params.yaml").write_text(PARAMETERS, encoding="utf-8")
    options = [part for text in sets for part in ("--set", text)]
    files = ["--clean", str(clean), "--base", str(base), "--instruct", str(folder / "instruct")]
    files += ["--params", str(folder / "params.yaml"), "--metrics", str(folder / "instruct.json")]
    return main(STEP, [*files, *options])


def document(**changes: Any) -> dict[str, Any]:
    text = "春山随故园，秋水照人家。\n寒江入空城，明月过古寺。"
    return {"id": "d", "title": "静夜", "author": "林砚", "text": text, "split": "train", **changes}


def drawn(rows: list[dict[str, Any]], language: str = "zh", genre: str = VERSE, **settings: Any) -> list[Conversation]:
    parameters = Instruct(**settings)
    return [one for row in rows for one in conversations_of(row, parameters, language, genre, None, 1)]


def test_the_step_writes_conversations_of_both_splits_and_counts_that_add_up(
    tmp_path: Path, clean_folder: Path, tiny_model: Path
) -> None:
    assert run(tmp_path, clean_folder, tiny_model, "instruct.probe_documents=8") == 0
    conversations = read_conversations(tmp_path / "instruct" / "conversations.parquet")
    metrics = json.loads((tmp_path / "instruct.json").read_text())
    kinds = Counter(one.kind for one in conversations)
    assert metrics["conversations"] == len(conversations) == 400
    assert {name: metrics[f"kind_{name}"] for name in kinds} == kinds
    assert set(kinds) >= {WRITE, WRITE_IN_STYLE, CONTINUE}
    splits = {row["id"]: row["split"] for row in clean_rows()}
    assert all(one.split == splits[one.document_id] for one in conversations)
    found = json.loads((tmp_path / "instruct" / "probe.json").read_text(encoding="utf-8"))
    assert found["documents"] == 8
    assert metrics["base_author_accuracy"] == found["accuracy"]


def test_two_runs_write_the_same_bytes_and_another_seed_others(
    tmp_path: Path, clean_folder: Path, tiny_model: Path
) -> None:
    hashes = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, clean_folder, tiny_model, f"seed={seed}", "instruct.probe_documents=4") == 0
        hashes.append(content_hash(tmp_path / name / "instruct" / "conversations.parquet"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_asked_for_is_what_the_answer_is() -> None:
    for one in drawn(clean_rows(), write=1, write_in_style=0, continue_text=0, who_wrote=0):
        assert (one.form is not None) == any(name in one.prompt[0]["content"] for name in ("五言诗", "七言诗"))
        if one.form is not None:
            assert line_length(one.answer) == one.form
            assert ("五言诗" in one.prompt[0]["content"]) == (one.form == 5)


def test_the_weights_and_the_number_of_conversations_are_obeyed() -> None:
    rows = clean_rows()
    only_continue = drawn(rows, write=0, write_in_style=0, continue_text=2, who_wrote=0)
    assert {one.kind for one in only_continue} == {CONTINUE}
    many = Counter(
        one.kind for one in drawn(rows, conversations_per_document=5.0, write=3, write_in_style=1, who_wrote=0)
    )
    assert many[WRITE] > 2 * many[WRITE_IN_STYLE]
    few = drawn(rows, conversations_per_document=0.25)
    assert 60 <= len(few) <= 140


def test_what_was_shown_and_the_answer_together_are_the_text() -> None:
    for row in clean_rows(60):
        for one in drawn([row], write=0, write_in_style=0, continue_text=1, who_wrote=0):
            shown = one.prompt[0]["content"].split("\n", 1)[1]
            assert row["text"] == f"{shown}\n{one.answer}"


def test_a_long_text_is_cut_at_a_line_end() -> None:
    long = "\n".join(["春山随故园，秋水照人家。"] * 50)
    (one,) = drawn(
        [document(text=long)], write=1, write_in_style=0, continue_text=0, who_wrote=0, maximum_characters=100
    )
    assert len(one.answer) <= 100
    assert set(one.answer.split("\n")) == {"春山随故园，秋水照人家。"}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"title": None, "author": None, "text": "长短不一，参差错落的句子。"}, {CONTINUE}),
        ({"title": None, "author": None}, {WRITE, CONTINUE}),  # it can be asked for by its form
        ({"title": None}, {WRITE, WRITE_IN_STYLE, CONTINUE, WHO_WROTE}),
        ({"author": None}, {WRITE, CONTINUE}),
        ({}, {WRITE, WRITE_IN_STYLE, CONTINUE, WHO_WROTE}),
    ],
)
def test_a_document_gets_the_kinds_that_it_can_answer(changes: dict[str, Any], kinds: set[str]) -> None:
    rows = [document(id=str(index), **changes) for index in range(200)]
    assert {one.kind for one in drawn(rows)} == kinds


@pytest.mark.parametrize("language", ["ru", "en"])
def test_prose_without_titles_is_continued_in_its_own_language(language: str) -> None:
    text = " ".join(f"Предложение номер {number} стоит здесь." for number in range(60))
    rows = [document(id=str(index), title=None, author=None, text=text) for index in range(20)]
    made = drawn(rows, language, PROSE, maximum_characters=120)
    assert {one.kind for one in made} == {CONTINUE}
    assert len({one.answer for one in made}) > 5  # long texts are begun at several places
    for one in made:
        shown = one.prompt[0]["content"].split("\n", 1)[1]
        assert one.form is None
        assert f"{shown} {one.answer}" in text
        assert one.answer.endswith(".")


def test_nobody_is_named_where_the_corpus_names_nobody(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{**row, "author": "佚名"} for row in clean_rows(60)]
    write_documents(tmp_path / "clean" / "documents.parquet", rows, clean_schema())
    assert run(tmp_path, tmp_path / "clean", tiny_model) == 0
    made = read_conversations(tmp_path / "instruct" / "conversations.parquet")
    assert not {one.kind for one in made} & {WRITE_IN_STYLE, WHO_WROTE, REFUSAL}


def test_an_unknown_language_and_impossible_weights_end_in_one_sentence(
    tmp_path: Path, clean_folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, clean_folder, tiny_model, "language=xx") == 2
    assert "en, ru, zh" in capsys.readouterr().err
    nothing = [f"instruct.{kind}=0" for kind in ("write", "write_in_style", "continue_text", "who_wrote")]
    assert run(tmp_path, clean_folder, tiny_model, *nothing) == 2
    assert "no conversation can be made" in capsys.readouterr().err
    assert not (tmp_path / "instruct").exists()


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Any:
    """A model that has read poems in which two authors write of one thing each, and two others the same things."""
    tokenizer = load_tokenizer(tiny_model)
    rows = []
    for index in range(160):
        author = AUTHORS[index % 4]
        subject = {0: "春山随故园", 1: "秋水照人家"}.get(index % 4, "寒江入空城" if index % 8 < 4 else "明月过古寺")
        text = f"{subject}，{'青松' if index % 3 else '白云'}对归路。"
        rows.append({"id": str(index), "title": f"{index % 7}", "author": author, "text": text})
    contents = [f"{row['title']}\n{row['author']}\n{row['text']}" for row in rows]
    encoded = [[BEGIN_ID, *tokenizer(content, add_special_tokens=False)["input_ids"], END_ID] for content in contents]
    longest = max(map(len, encoded))
    ids = torch.tensor([one + [END_ID] * (longest - len(one)) for one in encoded])
    labels = torch.tensor([one + [-100] * (longest - len(one)) for one in encoded])
    model = load_model(tiny_model).train()
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        rows_of_step = torch.randperm(len(rows))[:48]
        model(input_ids=ids[rows_of_step], labels=labels[rows_of_step]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer, rows


def test_the_probe_finds_the_authors_that_the_model_knows(reader: Any) -> None:
    model, tokenizer, rows = reader
    settings = Instruct(probe_documents=40, known_share=0.9)
    found = probe(model, tokenizer, rows, "{title}\n{author}\n{text}", settings, 1)
    assert found.known == set(AUTHORS[:2])
    assert sum(found.probed.values()) == 40
    assert found.accuracy >= 0.5
    described = found.described()
    assert described["accuracy"] == round(sum(found.right.values()) / 40, 4)


def test_the_probe_fits_templates_that_show_the_author_last_or_never(reader: Any) -> None:
    model, tokenizer, rows = reader
    settings = Instruct(probe_documents=12)
    last = probe(model, tokenizer, rows, "{text}\n{author}", settings, 1)
    assert sum(last.probed.values()) == 12
    never = probe(model, tokenizer, rows, "{text}", settings, 1)
    assert not never.known
    assert not never.probed


def test_an_author_that_the_base_model_does_not_know_is_not_named() -> None:
    rows = [document(id=str(index), author=AUTHORS[index % 2]) for index in range(100)]
    settings = Instruct(write=0, write_in_style=0, continue_text=0, who_wrote=1)
    for row in rows:
        (one,) = conversations_of(row, settings, "zh", VERSE, frozenset({AUTHORS[0]}), 1)
        if row["author"] == AUTHORS[0]:
            assert one.kind == WHO_WROTE
            assert one.answer == name_author(AUTHORS[0], "zh")
        else:
            assert one.kind == REFUSAL
            assert one.answer == name_author(None, "zh")
            assert AUTHORS[1] not in one.answer
