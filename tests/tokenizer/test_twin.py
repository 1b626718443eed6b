"""transformers and SentencePiece give the same ids for any text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as Twin

from components.chat.markup import CHAT_TEMPLATE, Message, render
from components.configuration import Tokenizer
from components.model.folders import load_tokenizer
from components.tokenizer.train import train_tokenizer
from components.tokenizer.twin import check_twin

_PARTS = [
    "春山",
    "，",
    "。",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    "\r",
    "user",
    "assistant",
    "system",
    "us",
    "sys",
    "tem",
]
_PARTS += [
    "0",
    "42",
    "1999",
    "é",
    "e\u0301",
    "😀",
    "👨‍👩‍👧",
    "ع",
    "क्षि",
    "한",
    "ก็",
    "\u3000",
    "\u00a0",
    "\ufeff",
    "\ufffd",
    "\u2585",
]
_PARTS += [
    "<|im_start|>",
    "<|im_end|>",
    "<|im_",
    "end|>",
    "<0x41>",
    "<",
    ">",
    "s",
    "/",
    "a",
    "The",
    "слово",
    "\0",
    "\u200b",
    "𠮷",
]


def both(folder: Path) -> tuple[sentencepiece.SentencePieceProcessor, Twin]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return processor, Twin.from_file(str(folder / "tokenizer.json"))


def agree(folder: Path, parts: list[str], count: int, seed: int) -> None:
    processor, twin = both(folder)
    rng = random.Random(seed)
    for _ in range(count):
        text = "".join(rng.choice(parts) for _ in range(rng.randint(1, 40)))
        ids = twin.encode(text, add_special_tokens=False).ids
        assert ids == processor.encode(text), text
        assert twin.decode(ids, skip_special_tokens=False) == text
        assert processor.decode(ids) == text


def test_ids_are_equal_on_fuzzed_text_of_many_scripts(tokenizer_folder: Path) -> None:
    agree(tokenizer_folder, _PARTS, 3000, 1)


@pytest.mark.parametrize("letters", ["ab", "ab ", "abc"])
def test_ids_are_equal_on_repetitive_text_where_merges_compete(tmp_path: Path, letters: str) -> None:
    rng = random.Random(letters)
    texts = ["".join(rng.choice(letters) for _ in range(60)) for _ in range(1500)]
    train_tokenizer(texts, Tokenizer(vocabulary=500), 1, tmp_path / "tokenizer")
    agree(tmp_path / "tokenizer", list(letters), 2000, 2)


def test_ids_are_equal_on_prose_with_spaces(tmp_path: Path) -> None:
    words = ["the", "user", "asked", "an", "assistant", "for", "12", "systems,", "naïve", "Ёлка", "and", "superuser"]
    rng = random.Random(3)
    texts = [" ".join(rng.choice(words) for _ in range(30)) for _ in range(500)]
    train_tokenizer(texts, Tokenizer(vocabulary=330), 1, tmp_path / "tokenizer")
    agree(tmp_path / "tokenizer", [*words, " ", " ", "  ", "\n"], 2000, 4)


def test_a_difference_is_noticed(tmp_path: Path, tokenizer_folder: Path) -> None:
    processor, _ = both(tokenizer_folder)
    described = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    described["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(AssertionError, match="differ"):
        check_twin(processor, tmp_path, ["春山随故园，秋水照人家。"] * 3)


def test_transformers_loads_it_with_its_special_tokens_and_puts_the_begin_token_in_front(
    tokenizer_folder: Path,
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.all_special_tokens[-2:] == ["<|im_start|>", "<|im_end|>"]
    processor, _ = both(tokenizer_folder)
    assert tokenizer.encode(" 春山  a") == [1, *processor.encode(" 春山  a")]
    assert tokenizer.decode(tokenizer.encode(" 春山 , a !"), skip_special_tokens=True) == " 春山 , a !"
    assert len(tokenizer) == processor.get_piece_size()


def test_chat_template_renders_what_components_chat_renders_and_a_turn_costs_five_tokens(
    tokenizer_folder: Path,
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    messages = [Message(role="user", content="写诗 user"), Message(role="assistant", content="春山")]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == render(messages, True)
    assert (tokenizer_folder / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE
    processor, _ = both(tokenizer_folder)
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    assert ids == processor.encode(render(messages))
    empty = tokenizer.encode(render([Message(role="user", content="")]), add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in empty] == ["<|im_start|>", "user", "\n", "<|im_end|>", "\n"]
