"""Preference pairs: what is rejected is worse in the way that its name says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.align.damage import Damager
from components.align.optimization import encode_pairs, in_batches, longest
from components.align.pairs import UNFINISHED, corrupted_pairs, fault_of, make_pairs, sampled_pairs
from components.chat.encoding import encode_conversation
from components.chat.markup import TURN_END, render
from components.configuration import Align, Instruct, Sampling
from components.corpus.conversations import CONTINUE, WHO_WROTE, Conversation, Preference
from components.corpus.verse import line_length, verse_lines
from components.errors import InkwellError
from components.instruct.from_corpus import conversations_of
from components.model.folders import BEGIN_ID, load_model, load_tokenizer
from components.model.sampling import Completion
from tests.tiny_corpus import clean_rows

RUSSIAN = "Первое предложение стоит здесь. Второе за ним идёт. Третье ещё дальше. Четвёртое — последнее."


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    settings = Instruct(who_wrote=0)
    return [one for row in clean_rows() for one in conversations_of(row, settings, "zh", "verse", None, 1)]


def prose(number: int, text: str = RUSSIAN) -> Conversation:
    messages = [{"role": "user", "content": "Продолжи:"}, {"role": "assistant", "content": text}]
    return Conversation(f"r-{number}", f"r-{number}", CONTINUE, "train", None, messages)  # type: ignore[arg-type]


def test_every_damage_is_done_and_does_what_it_says(conversations: list[Conversation]) -> None:
    pairs = corrupted_pairs(conversations, conversations, random.Random(1))
    assert len(pairs) == len(conversations)
    for pair in pairs:
        kind = pair.made.removeprefix("corrupted: ")
        right, wrong = pair.chosen.split("\n"), pair.rejected.split("\n")
        if kind == "wrong line length":
            assert line_length(pair.rejected) != pair.form
            assert abs(len(pair.rejected) - len(pair.chosen)) <= 3
        elif kind == "another form":
            assert line_length(pair.rejected) not in (None, pair.form)
        elif kind == "repeated line":
            assert len(set(wrong)) < len(wrong)
        elif kind == "strange line":
            assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
        else:
            assert kind == "missing end"
            assert pair.chosen.startswith(pair.rejected)
    assert len({pair.made for pair in pairs}) == 5


def test_half_of_the_damages_break_the_form_where_one_was_asked_for(conversations: list[Conversation]) -> None:
    asked = [one for one in conversations if one.form is not None]
    pairs = corrupted_pairs(asked, conversations, random.Random(1))
    broken = sum(pair.made in ("corrupted: wrong line length", "corrupted: another form") for pair in pairs)
    assert 0.35 < broken / len(pairs) < 0.65


def test_prose_on_one_line_is_damaged_by_sentences() -> None:
    others = [prose(0), *(prose(n, f"Чужое предложение номер {n} здесь. И ещё одно, {n}.") for n in range(1, 9))]
    damager, rng = Damager(others), random.Random(3)
    made = {damager.damage(others[0], rng) for _ in range(60)}
    assert {name for _, name in filter(None, made)} == {"repeated line", "strange line", "missing end"}
    assert all(damaged != RUSSIAN for damaged, _ in filter(None, made))


def test_a_text_too_short_to_damage_is_left_out() -> None:
    assert Damager([prose(0)]).damage(prose(1, "Да."), random.Random(1)) is None


@pytest.mark.parametrize(
    ("text", "finished", "form", "fault"),
    [
        ("春山随故园，秋水照人家。", True, 5, None),
        ("春山随故园，秋水照人家。", False, 5, "no end"),
        ("春山随故园，秋水照。", True, 5, "wrong form"),
        ("春山随故园，秋水照人家。", True, 7, "wrong form"),
        ("春山随故园，春山随故园。", True, 5, "repeated line"),
        ("Раз.\nДва.\nРаз.", True, None, "repeated line"),
        ("да, но да", True, None, None),
    ],
)
def test_faults_of_samples_are_named(text: str, finished: bool, form: int | None, fault: str | None) -> None:
    assert fault_of(Completion(text, (), finished), form) == fault


def test_the_model_s_own_samples_are_rejected_under_their_faults(
    tiny_model: Path, conversations: list[Conversation]
) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    asked = [one for one in conversations if one.form is not None][:6]
    pairs = sampled_pairs(asked, model, tokenizer, Sampling(maximum_tokens=12), Align(), 1)
    assert len(pairs) == 6
    assert {pair.made for pair in pairs} <= {UNFINISHED, "sampled: wrong form"}  # it was never trained
    assert [pair.chosen for pair in pairs] == [one.answer for one in asked]
    again = sampled_pairs(asked, model, tokenizer, Sampling(maximum_tokens=12), Align(), 1)
    assert again == pairs


def test_pairs_are_made_in_the_shares_that_are_asked_for(tiny_model: Path, conversations: list[Conversation]) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    for rejected, sampled in (("corrupted", 0), ("sampled", 12), ("both", 6)):
        settings = Align(rejected=rejected)  # type: ignore[arg-type]
        pairs = make_pairs(conversations, 12, model, tokenizer, Sampling(maximum_tokens=4), settings, 1)
        assert len(pairs) == 12
        assert sum(pair.made.startswith("sampled") for pair in pairs) == sampled


def test_conversations_that_ask_for_no_text_are_told(tiny_model: Path, conversations: list[Conversation]) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    names = [Conversation(one.id, one.document_id, WHO_WROTE, "train", None, one.messages) for one in conversations]
    with pytest.raises(InkwellError, match="no preference pair can be made"):
        make_pairs(names, 12, model, tokenizer, Sampling(), Align(rejected="corrupted"), 1)


def test_tokens_are_those_of_fine_tuning(tiny_model: Path, conversations: list[Conversation]) -> None:
    tokenizer = load_tokenizer(tiny_model)
    pairs = corrupted_pairs(conversations[:20], conversations, random.Random(1))
    for pair, encoded in zip(pairs, encode_pairs(tokenizer, pairs), strict=True):
        ids, mask = encode_conversation(tokenizer, [*pair.prompt, {"role": "assistant", "content": pair.chosen}])
        answer = [token for token, counts in zip(ids, mask, strict=True) if counts]
        assert encoded["chosen_ids"] == answer
        assert encoded["prompt_ids"] == ids[: mask.index(True)]
        assert encoded["prompt_ids"][0] == BEGIN_ID
        prompt = tokenizer.decode(encoded["prompt_ids"][1:], skip_special_tokens=False)
        assert prompt == render(pair.prompt, add_generation_prompt=True)
        assert tokenizer.decode(encoded["rejected_ids"], skip_special_tokens=False) == pair.rejected + TURN_END


def test_an_end_that_was_not_written_is_not_rejected(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompt = [{"role": "user", "content": "写"}]
    made = (UNFINISHED, "sampled: wrong form")
    pairs = [Preference("a", "a", prompt, "春山。", "春山秋水", name, 5) for name in made]  # type: ignore[arg-type]
    unfinished, finished = encode_pairs(tokenizer, pairs)
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert finished["rejected_ids"] == [*unfinished["rejected_ids"], end]
    assert unfinished["chosen_ids"][-1] == end


def test_batches_hold_pairs_of_like_length_and_every_pair_once() -> None:
    rng = random.Random(1)
    pairs = [
        {"prompt_ids": [n], "chosen_ids": [0] * rng.randint(1, 200), "rejected_ids": [0] * rng.randint(1, 200)}
        for n in range(107)
    ]
    ordered = in_batches(pairs, 16, 1)
    assert sorted(pair["prompt_ids"] for pair in ordered) == [[n] for n in range(107)]
    assert ordered == in_batches(pairs, 16, 1) != in_batches(pairs, 16, 2)
    padded = [16 * max(map(longest, ordered[start : start + 16])) for start in range(0, 96, 16)]
    assert sum(padded) < 1.25 * sum(map(longest, ordered[:96]))


def test_verse_lines_of_a_damaged_poem_still_stand_beside_a_real_one(conversations: list[Conversation]) -> None:
    """Damage is subtle: all but "another form" leave most of a poem as it was, or the pair would teach nothing."""
    for pair in corrupted_pairs(conversations, conversations, random.Random(2)):
        if "another form" not in pair.made:
            kept = set(verse_lines(pair.rejected)) & set(verse_lines(pair.chosen))
            assert kept or len(verse_lines(pair.chosen)) <= 4
