"""What instruct shares with later steps: the files' contract, token ids with the answers marked, prompts, cutting."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.chat.encoding import encode_conversation, encode_conversations
from components.chat.markup import TURN_END, Message, render
from components.chat.prompts import PROSE, VERSE, ask, form_of, genre_of, languages, name_author, wording
from components.corpus.conversations import (
    CONTINUE,
    KINDS,
    REFUSAL,
    WHO_WROTE,
    WRITE,
    WRITE_IN_STYLE,
    Conversation,
    Preference,
    read_conversations,
    read_preferences,
    write_conversations,
    write_preferences,
)
from components.corpus.cutting import head, parts, units
from components.errors import InkwellError
from components.model.folders import BEGIN_ID, load_tokenizer

POEM = "春山随故园，秋水照人家。\n寒江入空城，明月过古寺。"


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def conversation(**changes: object) -> Conversation:
    values = {
        "id": "a-0",
        "document_id": "a",
        "kind": WRITE,
        "split": "train",
        "form": 5,
        "messages": [turn("user", "写一首五言诗"), turn("assistant", POEM)],
    }
    return Conversation(**{**values, **changes})  # type: ignore[arg-type]


def test_conversations_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "conversations.parquet"
    written = [conversation(), conversation(id="b-0", split="validation", form=None, kind=CONTINUE)]
    assert write_conversations(file, written) == 2
    assert read_conversations(file) == written
    assert read_conversations(file, "validation") == written[1:]
    with pytest.raises(InkwellError, match="no test conversations"):
        read_conversations(file, "test")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "joke"}, r"row 0: kind 'joke' is none of write"),
        ({"split": "test"}, "neither train nor validation"),
        ({"messages": []}, "no turns"),
        ({"messages": [turn("user", "写"), turn("assistant", " ")]}, r"turn 1 \(assistant\) is empty"),
        ({"messages": [turn("poet", "写"), turn("assistant", "诗")]}, "role 'poet'"),
        ({"messages": [turn("user", "写")]}, "not an assistant's"),
    ],
)
def test_a_conversation_that_breaks_the_contract_is_refused_with_its_row(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InkwellError, match=said):
        write_conversations(tmp_path / "conversations.parquet", [conversation(**changes)])
    assert not (tmp_path / "conversations.parquet").exists()


def test_preferences_come_back_and_a_pair_of_equals_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "preferences.parquet"
    pair = Preference("a", "a", [turn("user", "写")], POEM, "春山。", "corrupted: missing end", 5)
    write_preferences(file, [pair])
    assert read_preferences(file) == [pair]
    with pytest.raises(InkwellError, match="the same"):
        write_preferences(file, [Preference("a", "a", [turn("user", "写")], POEM, POEM, "corrupted", 5)])


def test_the_marked_tokens_decode_to_the_answers_and_nothing_else(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    messages = [
        turn("system", "诗"),
        turn("user", "一"),
        turn("assistant", POEM),
        turn("user", "二"),
        turn("assistant", "好。"),
    ]
    ids, mask = encode_conversation(tokenizer, messages)
    assert ids[0] == BEGIN_ID
    assert not mask[0]
    assert tokenizer.decode(ids[1:], skip_special_tokens=False) == render(messages)
    marked = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.decode(marked, skip_special_tokens=False) == POEM + TURN_END + "好。" + TURN_END


def test_an_answer_begins_where_a_prompt_of_inference_ends(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    # An answer that begins with a line end would merge with the template's, were they encoded as one text.
    for answer in (POEM, "\n\n春山", " a"):
        messages = [turn("user", "写"), turn("assistant", answer)]
        ids, mask = encode_conversation(tokenizer, messages)
        prompt = render(messages[:1], add_generation_prompt=True)
        assert ids[: mask.index(True)] == [BEGIN_ID, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]


def test_many_conversations_are_encoded_as_one_by_one(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    several = [[turn("user", "一")], [turn("user", "二"), turn("assistant", POEM)], [turn("assistant", "三")]]
    assert encode_conversations(tokenizer, several) == [encode_conversation(tokenizer, one) for one in several]


@pytest.mark.parametrize("language", ["zh", "en", "ru"])
@pytest.mark.parametrize("genre", [VERSE, PROSE])
def test_every_language_fills_every_phrase(language: str, genre: str) -> None:
    asked = {
        WRITE: [{"title": "T1"}],
        WRITE_IN_STYLE: [{"author": "A1"}, {"author": "A1", "title": "T1"}],
        CONTINUE: [{"text": "X1"}],
        WHO_WROTE: [{"text": "X1"}],
        REFUSAL: [{"text": "X1"}],
    }
    if genre == VERSE:
        asked[WRITE] += [{"form": 5}, {"form": 5, "lines": 8}, {"form": 11, "title": "T1", "lines": 99}]
        asked[WRITE_IN_STYLE] += [{"author": "A1", "form": 5}, {"author": "A1", "title": "T1", "form": 7}]
    assert set(asked) == set(KINDS)
    for kind, cases in asked.items():
        for case in cases:
            for rng in (None, *map(random.Random, range(6))):
                said = ask(kind, language, genre=genre, rng=rng, **case)  # type: ignore[arg-type]
                assert "{" not in said
                assert all(value in said for value in case.values() if isinstance(value, str))
    assert "A1" in name_author("A1", language, genre=genre)
    assert "{" not in name_author(None, language, genre=genre)


def test_a_form_is_stated_by_its_name_before_the_title() -> None:
    for seed in range(10):
        said = ask(WRITE, "zh", title="静夜", form=5, lines=8, rng=random.Random(seed))
        assert said.index("五言") < said.index("八句") < said.index("静夜")
    assert ask(WRITE, "zh", title="静夜", form=5) == ask(WRITE, "zh", title="静夜", form=5, rng=None)


def test_markers_typed_by_a_person_do_not_become_tokens(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    said = ask(CONTINUE, "zh", text=f"山{TURN_END}</s>")
    assert not set(tokenizer(said, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)


def test_an_unknown_language_is_told_with_those_that_exist() -> None:
    with pytest.raises(InkwellError, match=r"'xx'.*en, ru, zh.*components/chat/wording/xx\.yaml"):
        wording("xx")
    assert {"en", "ru", "zh"} <= set(languages())


def test_only_languages_that_count_characters_have_forms() -> None:
    assert form_of(POEM, "zh") == 5
    assert form_of("春山随故园，秋水。", "zh") is None
    assert form_of("да, но", "ru") is None  # two "lines" of two characters, were it Chinese


def test_verse_and_prose_are_told_apart_by_their_lines() -> None:
    assert genre_of([POEM, POEM, "一行"]) == VERSE
    assert (
        genre_of(
            ["— Так говорила в июле 1805 года известная Анна Павловна Шерер, фрейлина и приближенная.\nОна кашляла."]
        )
        == PROSE
    )


def test_units_join_to_the_text_and_keep_to_the_limit() -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choice("春a b。，.! \n?я\u0301") for _ in range(rng.randint(0, 60)))
        limit = rng.randint(1, 20)
        assert "".join(units(text, limit)) == text
        assert all(0 < len(unit) <= limit or unit.strip("\n ") == "" for unit in units(text, limit))
        assert len(head(text, limit)) <= limit
        assert text.strip().startswith(head(text, limit))


def test_cutting_prefers_line_ends_then_sentences_then_words() -> None:
    assert head(POEM, 20) == "春山随故园，秋水照人家。"
    assert head("First one. Second sentence is long.", 20) == "First one."
    assert head("onetwothree fourfive sixseven", 21) == "onetwothree fourfive"
    assert parts("春山随故园，秋水照人家。", 100) == ["春山随故园，", "秋水照人家。"]
    assert parts("ab", 100) == ["a", "b"]
