"""What two models answered to the same questions, document by document: the material of a promotion."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BITS, NEXT_LINE, TITLES, FORM, LINES = "bits_per_char", "next_line", "title_overlap", "form", "line_count"
TASKS = (BITS, NEXT_LINE, TITLES, FORM, LINES)
_FORM_SUFFIX = "_char_lines"

Answers = dict[str, dict[Hashable, tuple[str, float]]]  # task: question: (document, score; more is better)


@dataclass(frozen=True)
class Pairs:
    """A task's answers of both, a document an entry: sums of scores, and how many questions (or characters) they are of."""

    champion: list[float]
    challenger: list[float]
    weights: list[float]

    @property
    def documents(self) -> int:
        """Documents about which both answered."""
        return len(self.weights)

    def figure(self, which: str) -> float:
        """Mean score of the "champion" or the "challenger"."""
        values: list[float] = getattr(self, which)
        return sum(values) / sum(self.weights) if values else 0.0


def answers(evaluation: Path, model: str) -> Answers:
    """All that `data/evaluation` keeps question by question of `model` ("aligned", ...), for the tasks but BITS.

    evaluate keeps bits per character only as a total; `bits` computes them again. A question that is asked twice (corpora
    without titles ask by form alone) counts by its place among its equals.
    """
    from components.evaluate.titles import overlap

    found: Answers = defaultdict(dict)
    asked: Counter[Hashable] = Counter()

    def keep(task: str, question: tuple[Hashable, ...], document: str, score: float) -> None:
        asked[task, question] += 1
        found[task][*question, asked[task, question]] = (document, score)

    for row in _rows(evaluation / "generations.parquet", model):
        question = (row["task"], row["document"], row["prompt"])
        if str(row["task"]).endswith(_FORM_SUFFIX):
            keep(FORM, question, str(row["document"]), float(bool(row["ok"])))
        elif row["task"] == "line_count":
            keep(LINES, question, str(row["document"]), float(bool(row["counted"])))
        if row["title"]:
            share = overlap(str(row["title"]), str(row["text"]))
            if share is not None:
                keep(TITLES, question, str(row["document"]), share)
    for row in _rows(evaluation / "next_line.parquet", model):
        question = (row["document"], row["context"], tuple(row["choices"]))  # type: ignore[arg-type]
        keep(NEXT_LINE, question, str(row["document"]), float(bool(row["right"])))
    return dict(found)


def _rows(path: Path, model: str) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    from components.errors import InkwellError

    if not path.exists():
        raise InkwellError(f"{path} does not exist: run `dvc repro evaluate`.")
    return [row for row in pq.read_table(path).to_pylist() if row["model"] == model]


def pair(champion: Answers, challenger: Answers, documents: set[str]) -> dict[str, Pairs]:
    """Questions that both were asked about one of `documents`, summed by document."""
    found = {}
    for task in TASKS:
        mine, theirs = challenger.get(task, {}), champion.get(task, {})
        by_document: dict[str, list[float]] = {}
        for question in sorted(mine.keys() & theirs.keys(), key=repr):
            document, score = mine[question]
            if document in documents:
                sums = by_document.setdefault(document, [0.0, 0.0, 0.0])
                for place, value in enumerate((theirs[question][1], score, 1.0)):
                    sums[place] += value
        columns = list(zip(*by_document.values(), strict=True)) or [(), (), ()]
        found[task] = Pairs(*(list(column) for column in columns))
    return found


def split_of(clean: Path) -> tuple[dict[str, str], set[str]]:
    """Text by id of the held-out documents of `data/clean`, and hashes of the texts that were trained on."""
    from components.corpus.documents import VALIDATION, clean_schema, iterate

    held_out: dict[str, str] = {}
    trained: set[str] = set()
    for row in iterate(clean / "documents.parquet", clean_schema(), ["id", "content", "split"]):
        if row["split"] == VALIDATION:
            held_out[row["id"]] = row["content"]
        else:
            trained.add(_digest(row["content"]))
    return held_out, trained


def held_out_by_both(champion: Path, challenger: Path) -> tuple[dict[str, str], int, int]:
    """Text by id of the documents that both versions of `data/clean` hold out unchanged and neither trained on.

    Also how many each holds out by itself: (joint, champion's, challenger's).
    """
    (theirs, taught), (mine, learned) = split_of(champion), split_of(challenger)
    joint = {
        name: text
        for name, text in mine.items()
        if theirs.get(name) == text and not {_digest(text)} & (taught | learned)
    }
    return joint, len(theirs), len(mine)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def draw(documents: Mapping[str, str], count: int, seed: int) -> list[str]:
    """Ids of `count` documents, the same for the same seed whatever else is in the corpus."""

    def rank(name: str) -> str:
        return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

    return sorted(documents, key=rank)[:count]


def bits(folder: Path, texts: Sequence[str]) -> NDArray[np.float64]:
    """Bits that the model in the Hugging Face `folder` needs for each text, its end mark included."""
    import numpy as np

    from components.model.folders import load_model, load_tokenizer
    from components.model.scoring import document_bits

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return document_bits(model, [np.asarray([begin, *ids, end]) for ids in encoded])


def bits_pairs(champion: Path, challenger: Path, texts: Sequence[str]) -> Pairs:
    """Bits of both models for the same texts as scores (fewer are better, so they are negative), characters as weights."""
    if not texts:  # corpora without a held-out document in common: neither model has to be opened
        return Pairs([], [], [])
    weights = [float(len(text) + 1) for text in texts]
    before, after = (list(map(float, -bits(folder, texts))) for folder in (champion, challenger))
    return Pairs(before, after, weights)


def speeds(champion: Path, challenger: Path, rounds: int = 5, tokens: int = 96) -> tuple[str, float, float] | None:
    """(format, champion's, challenger's tokens per second) of greedy text in llama.cpp on one thread, measured in turns.

    The smallest kind of GGUF file that both have; None where there is none. The median over rounds: another process may
    have the processor in one of them.
    """
    import statistics
    import time

    from components.export.llama_cpp import LlamaCpp

    files = [
        {path.stem.rpartition("-")[2]: path for path in folder.glob("*.gguf")} for folder in (champion, challenger)
    ]
    common = sorted(files[0].keys() & files[1].keys(), key=lambda kind: files[1][kind].stat().st_size)
    if not common:
        return None
    rates: list[list[float]] = [[], []]
    with LlamaCpp(files[0][common[0]]) as one, LlamaCpp(files[1][common[0]]) as other:
        for turn in range(rounds + 1):
            for place, model in enumerate((one, other)):
                ids = model.tokenize("1")
                began, written = time.perf_counter(), 0
                while written < tokens:
                    # an answer that ends at once has still computed one token; its beginning varies with the turn
                    written += 1 + len(model.greedy([*ids, 40 + written % 60], tokens - written))
                if turn:  # the first warms caches
                    rates[place].append(written / (time.perf_counter() - began))
    return common[0], *(statistics.median(found) for found in rates)  # type: ignore[return-value]
