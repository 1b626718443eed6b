"""The tokenizer of a model that is trained further: taken over exactly, and taught more tokens that are really used."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from components.chat.encoding import encode_conversation
from components.chat.markup import CHAT_TEMPLATE, TURN_END, TURN_START
from components.configuration import Pretrain, Tokenize
from components.configuration import Tokenizer as Parameters
from components.corpus.documents import TRAIN, VALIDATION, clean_schema, read_contents, write_documents
from components.corpus.packed import TokenShards
from components.errors import InkwellError
from components.export.byte_level_vocabulary import (
    add_byte_level_vocabulary,
    has_byte_level_vocabulary,
    read_byte_level_vocabulary,
)
from components.export.llama_cpp import LlamaCpp
from components.fetching.models import folder_hash
from components.model.folders import load_model, load_tokenizer, save_model
from components.step import content_hash, main
from components.tokenize.encode import encode_corpus
from components.tokenizer.__main__ import STEP
from components.tokenizer.adopted import document_marks, write_adopted
from components.tokenizer.continued import extend
from components.tokenizer.train import measure, train_tokenizer
from components.vocabulary.pieces import NORMAL, UNKNOWN, Pieces, twin, with_more, write_model
from components.vocabulary.source import SourceTokenizer
from components.vocabulary.spelling import Vocabulary, identity, origin, read_record
from tests.byte_level import END, TEXTS, byte_level_folder, byte_level_tokenizer, noise, vocabulary_gguf
from tests.tiny_corpus import clean_rows

SETTINGS = Parameters(character_coverage=1.0)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_folder(tmp_path_factory.mktemp("models") / "theirs", rule="smollm")


@pytest.fixture(scope="module")
def contents(clean_folder: Path) -> list[str]:
    return read_contents(clean_folder / "documents.parquet", TRAIN)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, theirs: Path, contents: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "extended"
    write_adopted(contents, Pretrain(initial=str(theirs), extend_vocabulary=200), SETTINGS, 1, folder)
    return folder


def test_ids_stay_and_documents_get_marks(theirs: Path, contents: list[str], tmp_path: Path) -> None:
    licensed = tmp_path / "licensed"
    shutil.copytree(theirs, licensed)
    (licensed / "README.md").write_text("---\nlicense: mit\n---\n# Theirs\n")
    write_adopted(contents, Pretrain(initial=str(licensed)), SETTINGS, 1, tmp_path / "tokenizer")
    ours, before = load_tokenizer(tmp_path / "tokenizer"), Tokenizer.from_file(str(theirs / "tokenizer.json"))
    size = before.get_vocab_size()
    for text in [*contents[:50], *TEXTS, *noise(50, seed=2)]:
        ids = before.encode(text).ids
        assert ours.encode(text, add_special_tokens=False) == ids
        assert ours.encode(text) == [ours.bos_token_id, *ids]
        assert ours.decode(ids, skip_special_tokens=False) == text
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == (END, END, END)
    assert ours.convert_tokens_to_ids([TURN_START, TURN_END]) == [size, size + 1]
    assert len(ours) == size + 2
    assert ours.chat_template == CHAT_TEMPLATE
    assert not (tmp_path / "tokenizer" / "tokenizer.model").exists()
    assert identity(tmp_path / "tokenizer").name == "tokenizer.json"
    record = read_record(tmp_path / "tokenizer")
    assert record is not None
    assert (record["model"], record["vocabulary"], record["added_tokens"], record["license"]) == (
        "licensed",
        size,
        0,
        "mit",
    )
    assert origin(tmp_path / "tokenizer") == (
        f"trained further from licensed (sha256 `{folder_hash(licensed)}`, licence mit)"
    )
    for path in (tmp_path / "tokenizer").iterdir():
        assert str(tmp_path.parent).encode() not in path.read_bytes(), path.name


def test_conversations_begin_with_the_mark_of_the_tokenizer(extended: Path) -> None:
    tokenizer = load_tokenizer(extended)
    messages = [{"role": "user", "content": "春山？"}, {"role": "assistant", "content": "故园。"}]
    ids, mask = encode_conversation(tokenizer, messages)  # type: ignore[arg-type]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode([token for token, counted in zip(ids, mask, strict=True) if counted]) == f"故园。{TURN_END}"


def test_tokens_are_learned_that_shorten_the_corpus_and_are_all_used(
    extended: Path, theirs: Path, contents: list[str], clean_folder: Path, tmp_path: Path
) -> None:
    write_adopted(contents, Pretrain(initial=str(theirs)), SETTINGS, 1, tmp_path / "plain")
    held_out = read_contents(clean_folder / "documents.parquet", VALIDATION)
    before, after = measure(tmp_path / "plain", held_out), measure(extended, held_out)
    assert after["tokens_per_character"] < 0.6 * before["tokens_per_character"]
    assert after["characters_covered"] > before["characters_covered"]
    old, new = Vocabulary(tmp_path / "plain"), Vocabulary(extended)
    assert new.size == old.size + 200
    for text, ids in zip(held_out, new.encode(held_out), strict=True):
        assert new.decode([ids]) == [text]
    # What a merge of the corpus does not touch is cut as before: the model knows it that way.
    english = [text for text in TEXTS if text.isascii()]
    assert new.encode(english) == old.encode(english)
    used = {token for ids in new.encode(contents) for token in ids}
    made = {token for merge in _merges(extended)[len(_merges(tmp_path / "plain")) :] for token in merge}
    ids = new.backend.get_vocab(with_added_tokens=True)
    steps = {ids[piece] for piece in made if ids[piece] >= old.size}
    assert used | steps >= set(range(old.size, new.size)), "a token can never come"


def _merges(folder: Path) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]]


def test_old_merges_stay_in_front(extended: Path, theirs: Path) -> None:
    before = _merges(theirs)
    assert _merges(extended)[: len(before)] == before


def test_the_same_corpus_gives_the_same_files(
    extended: Path, theirs: Path, contents: list[str], tmp_path: Path
) -> None:
    write_adopted(contents, Pretrain(initial=str(theirs), extend_vocabulary=200), SETTINGS, 1, tmp_path / "again")
    assert content_hash(tmp_path / "again") == content_hash(extended)


def test_the_text_of_a_mark_in_a_document_stays_text(extended: Path) -> None:
    vocabulary = Vocabulary(extended)
    text = f"The file ends with {END} and goes on."
    ids = vocabulary.encode([text])[0]
    assert vocabulary.end not in ids
    assert vocabulary.decode([ids]) == [text]
    assert vocabulary.kinds[vocabulary.end] == "special"


def test_the_corpus_is_packed_with_it(extended: Path, clean_folder: Path, tmp_path: Path) -> None:
    figures = encode_corpus(clean_folder / "documents.parquet", extended, tmp_path / "tokens", Tokenize(workers=2))
    shards, vocabulary = TokenShards(tmp_path / "tokens", TRAIN), Vocabulary(extended)
    assert figures["vocabulary"] == shards.vocabulary == vocabulary.size
    contents = read_contents(clean_folder / "documents.parquet", TRAIN)
    for index in range(0, len(shards), 7):
        ids = shards.document(index).tolist()
        assert (ids[0], ids[-1]) == (vocabulary.begin, vocabulary.end)
        assert vocabulary.decode([ids[1:-1]]) == [contents[index]]
    assert shards.tokenizer_sha256 == content_hash(extended / "tokenizer.json")


@pytest.mark.parametrize("digits", ["single", "triples", "whole"])
def test_pieces_of_sentencepiece_are_extended_in_both_files_alike(
    tmp_path: Path, tokenizer_folder: Path, tiny_model: Path, contents: list[str], digits: str
) -> None:
    folder = tmp_path / "model"
    vocabulary = 1700 if digits == "triples" else 420
    parameters = Parameters.model_validate({"vocabulary": vocabulary, "character_coverage": 1.0, "digits": digits})
    numbers = [f"Year {year} and {year * 37 % 1999}." for year in range(1800, 2000)]
    train_tokenizer([*contents[:150], *numbers], parameters, 1, tmp_path / "tokenizer")
    save_model(load_model(tiny_model), tmp_path / "tokenizer", folder, card="# Test\n")
    russian = [f"Весенним утром {word} шли вдоль реки, и {word} молчали." for word in ("мы", "вы", "они")] * 9
    english = ["user: In 1812 they walked along the river, 24 of them, and 1812 again."] * 20
    added = 60
    write_adopted(
        [*russian, *english], Pretrain(initial=str(folder), extend_vocabulary=added), SETTINGS, 1, tmp_path / "out"
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "tokenizer.model"))
    tokenizer = load_tokenizer(tmp_path / "out")
    assert len(tokenizer) == processor.get_piece_size() == vocabulary + added
    rng = random.Random(4)
    words = " ".join([*russian, *english]).split(" ")
    mixed = [" ".join(rng.choices([*words, "1", "24", "365", "春山", "\n", ""], k=12)) for _ in range(300)]
    used = set()
    for text in [*russian, *english, *contents[:40], *mixed]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == processor.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        used |= set(ids)
    assert len([token for token in used if token >= vocabulary]) > added / 3
    new = [processor.id_to_piece(token) for token in range(vocabulary, vocabulary + added)]
    assert not any("\u2581" in piece[1:] for piece in new), "a token spans two words"
    assert not [piece for piece in new if any(map(str.isdigit, piece))]


def test_an_old_piece_that_new_ones_make_possible_is_made_as_sentencepiece_makes_it() -> None:
    """`cd` merges first, so `abcd` was out of reach until there was an `ab` to put before it."""
    ordinary = {"cd": -1.0, "bc": -2.0, "abc": -3.0, "abcd": -4.0, **dict.fromkeys("abcdx▁", -9.0)}
    texts, scores = ("<unk>", *ordinary), (0.0, *ordinary.values())
    pieces = Pieces(texts, scores, (UNKNOWN, *[NORMAL] * len(ordinary)))
    backend = SourceTokenizer(twin(pieces, ["<unk>"], [])).with_marks([]).backend
    assert backend.encode("abcd").tokens == ["a", "b", "cd"]
    grown, added = extend(backend, ["abx", "xab"] * 5, 1, scored=pieces)
    assert added == ["ab"]
    model = with_more(write_model(pieces), [("ab", NORMAL)])
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in ("abcd", "abx", "abcab", "xabcdd"):
        assert grown.encode(text).tokens == processor.encode(text, out_type=str)
    assert grown.encode("abcd").tokens == ["abcd"]


def test_more_tokens_than_the_text_has_pairs_for_are_not_made_up() -> None:
    backend = SourceTokenizer(byte_level_tokenizer()).with_marks([]).backend
    text = "qxqxqx zwzw"
    grown, added = extend(backend, [text, text], 500)
    assert 0 < len(added) < 12
    assert grown.decode(grown.encode(text).ids) == text
    assert len(grown.encode(text).ids) < len(backend.encode(text).ids)


def test_marks_of_turns_are_no_marks_of_documents() -> None:
    """As SmolLM2's chat models name them; its base model read <|endoftext|> between documents."""
    backend = byte_level_tokenizer(special=[END, TURN_START, TURN_END])
    chat = SourceTokenizer(backend, begin=TURN_START, end=TURN_END, unknown=END, padding=TURN_END)
    assert document_marks(chat, "a") == {"bos_token": END, "eos_token": END, "pad_token": TURN_END, "unk_token": END}
    other = byte_level_tokenizer(special=["<s>", "</s>", "<|eot_id|>"])
    assert document_marks(SourceTokenizer(other, begin="<s>", end="<|eot_id|>"), "a") == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
    }
    own = byte_level_tokenizer(special=["[BOS]", "[EOS]"])
    assert document_marks(SourceTokenizer(own, begin="[BOS]", end="[EOS]"), "a")["eos_token"] == "[EOS]"
    with pytest.raises(InkwellError, match="a has no token for the end of a text"):
        document_marks(SourceTokenizer(byte_level_tokenizer(special=["<|im_end|>"]), end=TURN_END), "a")


def _changed(theirs: Path, folder: Path, **more: object) -> Path:
    shutil.copytree(theirs, folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**state, **more}))
    return folder


def test_a_tokenizer_that_changes_texts_or_is_no_bpe_is_refused(theirs: Path, tmp_path: Path) -> None:
    lower = _changed(theirs, tmp_path / "lower", normalizer={"type": "Lowercase"})
    with pytest.raises(
        InkwellError, match=r"The tokenizer of lower changes texts: 'The people.*comes back as 'the people"
    ):
        write_adopted(TEXTS, Pretrain(initial=str(lower)), SETTINGS, 1, tmp_path / "out")
    model = {"type": "Unigram", "unk_id": 0, "vocab": [[END, 0.0], ["a", -1.0]], "byte_fallback": False}
    unigram = _changed(theirs, tmp_path / "unigram", model=model, added_tokens=[])
    with pytest.raises(InkwellError, match="unigram has a tokenizer of kind Unigram"):
        write_adopted(TEXTS, Pretrain(initial=str(unigram)), SETTINGS, 1, tmp_path / "out")
    with pytest.raises(InkwellError, match="no text to look at"):
        write_adopted([], Pretrain(initial=str(theirs)), SETTINGS, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gguf_holds_it_as_llama_cpp_reads_it(extended: Path, contents: list[str], tmp_path: Path) -> None:
    assert has_byte_level_vocabulary(extended)
    tokenizer = load_tokenizer(extended)
    vocabulary = read_byte_level_vocabulary(extended, len(tokenizer) + 5)
    assert (vocabulary.rule, vocabulary.tokens[-1]) == ("smollm", f"[PAD{len(tokenizer) + 4}]")
    path = vocabulary_gguf(
        tmp_path / "a.gguf", len(tokenizer) + 5, lambda writer: add_byte_level_vocabulary(writer, vocabulary)
    )
    chat = f"{TURN_START}user\n春山<{TURN_END}\n{TURN_START}assistant\n"
    with LlamaCpp(path, context=64) as runtime:
        for text in [*contents[:60], *TEXTS, *noise(150, seed=8)]:
            ids = tokenizer.encode(text)
            assert runtime.tokenize(text) == ids
            assert runtime.detokenize(ids) == text
        assert runtime.tokenize(chat, special=True) == tokenizer.encode(chat)


def test_what_gguf_cannot_hold_is_refused(theirs: Path, extended: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    assert not has_byte_level_vocabulary(tokenizer_folder)
    with pytest.raises(InkwellError, match=r"has ids up to \d+, but the model beside it only 100 rows"):
        read_byte_level_vocabulary(extended, 100)
    rule = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    with pytest.raises(InkwellError, match="cuts text by a rule that is not known by a name of llama"):
        read_byte_level_vocabulary(_changed(extended, tmp_path / "prefix", pre_tokenizer=rule), 10**4)
    lower = _changed(extended, tmp_path / "lower", normalizer={"type": "Lowercase"})
    with pytest.raises(InkwellError, match=r"rewrites text \(Lowercase\)"):
        read_byte_level_vocabulary(lower, 10**4)


def test_the_command_line_takes_the_tokenizer_and_reports_on_it(theirs: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "clean" / "documents.parquet", clean_rows(80), clean_schema())
    (tmp_path / "validated").mkdir()
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {enabled: false}\n"
        f"pretrain: {{initial: '{theirs}', extend_vocabulary: 40}}\n"
    )
    arguments = ["--params", f"{tmp_path}/params.yaml", "--documents", f"{tmp_path}/clean"]
    arguments += ["--validated", f"{tmp_path}/validated", "--tokenizer", f"{tmp_path}/tokenizer"]
    arguments += ["--report", f"{tmp_path}/report.html", "--metrics", f"{tmp_path}/metrics.json"]
    assert main(STEP, arguments) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["vocabulary"] == 480 + 2 + 40
    assert figures["tokens_per_character"] < figures["gpt2_tokens_per_character"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The tokenizer of <bdi>theirs</bdi>, with 40 further tokens" in page
    assert "SentencePiece" not in page
    assert str(tmp_path) not in page
