"""More merges for a BPE tokenizer, learned from a corpus that it spells in too many tokens.

Continued BPE training (Purason et al. 2025, "Teaching Old Tokenizers New Words", arXiv 2512.03989): the corpus is encoded
as the tokenizer does it, and training goes on from there, so that new merges come after all old ones. A text in which
none of them applies is encoded as before, and every new token can be reached. Tokens that are searched for in the text
instead (`AddedToken`) would cut through words, and llama.cpp and `tokenizers` choose differently among those that overlap.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from components.vocabulary.pieces import SPACE, Pieces, merges_of, splits
from components.vocabulary.spelling import is_byte_level

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXTS_AT_ONCE = 1000
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_FIRST = 0x10000  # tokens are written as characters from here on: no white space, no surrogates


def extend(
    backend: Tokenizer,
    texts: Sequence[str],
    count: int,
    character_coverage: float = 1.0,
    scored: Pieces | None = None,
) -> tuple[Tokenizer, list[str]]:
    """The tokenizer with at most `count` further tokens learned from `texts`, and these tokens in the order learned.

    They get the ids after all that are there. Fewer are returned where the texts hold no more pairs that occur twice.
    backend: a BPE whose vocabulary holds its added tokens too (`SourceTokenizer.with_marks`). Pieces of SentencePiece are
    made of characters, so those that it spelled in bytes get tokens first, the commonest first, until
    `character_coverage` of all characters have one. scored: these pieces as their own file has them.
    """
    from tokenizers import Tokenizer

    state: dict[str, Any] = json.loads(backend.to_str())
    byte_level = is_byte_level(state)
    vocabulary: dict[str, int] = state["model"]["vocab"]
    number = 1 + max(vocabulary.values())
    merges = [tuple(one) if isinstance(one, list) else tuple(one.split(" ", 1)) for one in state["model"]["merges"]]
    there, before = set(merges), len(merges)
    added = [] if byte_level else _characters(texts, vocabulary, character_coverage)[:count]
    vocabulary.update({character: number + at for at, character in enumerate(added)})
    words = _words(backend, texts, None if byte_level else set(vocabulary))
    for left, right in _learned(words, count - len(added)):
        token = left + right
        if token not in vocabulary:
            if len(added) == count:
                break
            vocabulary[token] = number + len(added)
            added.append(token)
        # SentencePiece merges whatever two pieces make a third; BPE over bytes merges what it was taught to.
        for pair in [(left, right)] if byte_level else splits(token, vocabulary):
            if pair not in there:
                there.add(pair)
                merges.append(pair)
    if scored is not None and merges_of(scored.mergeable()) == merges[:before]:
        # Of SentencePiece the order is known: an old piece, too, may now be made of new ones, and still comes first.
        lowest = min(scored.scores)
        merges = merges_of({**scored.mergeable(), **{token: lowest - 1 - at for at, token in enumerate(added)}})
    state["model"]["merges"] = [list(pair) for pair in merges]
    return Tokenizer.from_str(json.dumps(state)), added


def _characters(texts: Sequence[str], known: Collection[str], coverage: float) -> list[str]:
    """Characters to give tokens to, the commonest first."""
    counts = Counter(character for text in texts for character in text)
    uncovered = {character: times for character, times in counts.items() if character.replace(" ", SPACE) not in known}
    allowed = (1 - coverage) * counts.total()
    left = sum(uncovered.values())
    chosen = []
    for character in sorted(uncovered, key=lambda one: (-uncovered[one], one)):
        if left <= allowed or uncovered[character] < 2:
            break
        left -= uncovered[character]
        chosen.append(character)
    return chosen


def _learned(words: Counter[tuple[str, ...]], count: int) -> Iterator[tuple[str, str]]:
    """Pairs of tokens, the first to merge first; more than enough for `count` new tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    letters = {piece: chr(_FIRST + at) for at, piece in enumerate(dict.fromkeys(chain.from_iterable(words)))}
    pieces = {letter: piece for piece, letter in letters.items()}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    written = chain.from_iterable(
        repeat("".join(letters[piece] for piece in word), times) for word, times in words.items()
    )
    # A pair may spell a token that is there already, so some more are asked for; those asked for first do not change.
    size = len(letters) + count + count // 4 + 64
    learner.train_from_iterator(
        written, trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False, special_tokens=[])
    )
    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        yield "".join(pieces[letter] for letter in left), "".join(pieces[letter] for letter in right)


def _words(backend: Tokenizer, texts: Sequence[str], characters: set[str] | None) -> Counter[tuple[str, ...]]:
    """The stretches of pieces within which may be merged, of two and more, and how often each occurs.

    characters: of pieces of SentencePiece, all that are known, those included that are spelled in bytes so far; None for
    BPE over bytes, whose own rule says where words end.
    """
    names = {token: piece for piece, token in backend.get_vocab(with_added_tokens=True).items()}
    apart = set(backend.get_added_tokens_decoder())
    rule = None if characters is None else _rule()
    words: Counter[tuple[str, ...]] = Counter()
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        batch = list(texts[start : start + _TEXTS_AT_ONCE])
        for text, encoding in zip(batch, backend.encode_batch(batch, add_special_tokens=False), strict=True):
            pieces: list[str | None] = [None if token in apart else names[token] for token in encoding.ids]
            numbers: Sequence[int | None] = encoding.word_ids
            if rule is not None:
                found = rule.pre_tokenize_str(text)
                # A space belongs to the word after it, but not to a digit.
                ends = sorted({end for _, (_, end) in found} | {at for word, (at, _) in found if word.isnumeric()})
                pieces, offsets = _whole_characters(text, pieces, encoding.offsets, characters or set())
                numbers = _numbered(ends, offsets)
            stretch: list[str] = []
            last = None
            for piece, number in zip([*pieces, None], [*numbers, None], strict=True):
                if number != last or piece is None:
                    if len(stretch) > 1:
                        words[tuple(stretch)] += 1
                    stretch = []
                if piece is not None:
                    stretch.append(piece)
                last = number
    return words


def _whole_characters(
    text: str, pieces: Sequence[str | None], offsets: Sequence[tuple[int, int]], known: set[str]
) -> tuple[list[str | None], list[tuple[int, int]]]:
    """Pieces with the bytes of each character put together; None where the character has no token."""
    found: list[str | None] = []
    places: list[tuple[int, int]] = []
    for piece, place in zip(pieces, offsets, strict=True):
        if piece is not None and _BYTE.fullmatch(piece):
            if places and places[-1] == place:
                continue
            character = text[place[0] : place[1]]
            piece = character if character in known else None
        found.append(piece)
        places.append(place)
    return found, places


def _rule() -> Any:
    """What SentencePiece never merges across when it trains: the space before a word, scripts and digits."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.UnicodeScripts(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )


def _numbered(ends: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word of each token: the first one that ends where the token ends, or after."""
    numbers, at = [], 0
    for _, end in offsets:
        while at < len(ends) - 1 and ends[at] < end:
            at += 1
        numbers.append(at)
    return numbers
