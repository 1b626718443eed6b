"""Documents that nobody wrote, as many as are wanted, the same for every run: to see how cost grows with their number.

Words are drawn from a vocabulary of pseudo-words with Zipf's frequencies, in three scripts in turn (Han, Cyrillic, Latin). Two of a hundred documents
are exact copies of an earlier one and five have some of their words changed, so that de-duplication has work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VOCABULARY = 30_000
_SYLLABLES = {
    "ru": [
        "во",
        "на",
        "по",
        "при",
        "за",
        "не",
        "ко",
        "то",
        "го",
        "ла",
        "ра",
        "ни",
        "те",
        "ми",
        "ся",
        "ва",
        "до",
        "ре",
        "ты",
        "ше",
        "жу",
        "ём",
    ],
    "en": [
        "ba",
        "con",
        "de",
        "er",
        "fi",
        "gra",
        "he",
        "in",
        "jo",
        "ka",
        "lo",
        "mar",
        "ne",
        "or",
        "pen",
        "qui",
        "ra",
        "sta",
        "tion",
        "ul",
        "ver",
        "wy",
    ],
}
_COPIES, _CHANGED = 0.02, 0.05
_BATCH = 10_000


def write_synthetic(path: Path, documents: int, seed: int = 1) -> int:
    """Write `documents` documents of the raw schema, about 80 characters of Han or 40 words each; the number of characters."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.atomic import atomic_file
    from components.corpus.documents import raw_schema

    schema = raw_schema()
    total = 0
    provenance = {"source": "synthetic", "origin": "benchmarks/synthetic.py", "member": "", "row": 0}
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        number = 0
        for batch in synthetic(documents, seed):
            rows = [
                {
                    "id": f"synthetic-{number + at:08}",
                    "text": text,
                    "title": None,
                    "author": None,
                    "metadata": "{}",
                    "provenance": provenance | {"row": number + at},
                }
                for at, text in enumerate(batch)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            number += len(batch)
            total += sum(map(len, batch))
    return total


def synthetic(documents: int, seed: int = 1) -> Iterator[list[str]]:
    """Batches of texts. A larger number begins with the documents of a smaller one."""
    import numpy as np

    vocabularies = _vocabularies(np.random.default_rng(seed))
    ranks = np.arange(1, _VOCABULARY + 1)
    cumulated = np.cumsum(1.0 / (ranks + 2.7))  # Zipf and Mandelbrot
    cumulated /= cumulated[-1]
    for number, start in enumerate(range(0, documents, _BATCH)):
        generator = np.random.default_rng([seed, number])
        yield _batch(generator, cumulated, vocabularies)[: documents - start]


def _batch(generator: np.random.Generator, cumulated: NDArray[np.float64], vocabularies: list[list[str]]) -> list[str]:
    import numpy as np

    lengths = np.clip(generator.lognormal(3.6, 0.5, _BATCH), 8, 400).astype(int)
    words = np.searchsorted(cumulated, generator.random(int(lengths.sum())))
    drawn: list[NDArray[np.int64]] = np.split(words, np.cumsum(lengths)[:-1])
    fate = generator.random(_BATCH)
    texts = []
    for at in range(_BATCH):
        if at >= 3 and fate[at] < _COPIES + _CHANGED:  # a copy of one of the same script
            model = drawn[at - 3 * int(generator.integers(1, at // 3 + 1))].copy()
            if fate[at] >= _COPIES:
                changed = generator.integers(0, len(model), max(1, len(model) // 25))
                model[changed] = np.searchsorted(cumulated, generator.random(len(changed)))
            drawn[at] = model
        texts.append(_written(drawn[at].tolist(), at % 3, vocabularies))
    return texts


def _written(words: list[int], script: int, vocabularies: list[list[str]]) -> str:
    vocabulary = vocabularies[script]
    gap, comma, stop = ("", "，", "。\n") if script == 0 else (" ", ", ", ".\n")
    pieces = [vocabulary[word] for word in words]
    clauses = [gap.join(pieces[start : start + 7]) for start in range(0, len(pieces), 7)]
    sentences = [comma.join(clauses[start : start + 2]) for start in range(0, len(clauses), 2)]
    return stop.join(sentences) + stop[0]


def _vocabularies(generator: np.random.Generator) -> list[list[str]]:
    han = [chr(0x4E00 + int(code)) for code in generator.permutation(6_000)]
    found = [[han[index % 3_000] + (han[index // 7 % 6_000] if index >= 3_000 else "") for index in range(_VOCABULARY)]]
    for syllables in _SYLLABLES.values():
        words: dict[str, None] = {}  # in the order in which they were found: the commonest are the shortest
        while len(words) < _VOCABULARY:
            size = 2 if len(words) < 250 else 3 if len(words) < 4_000 else 4
            words["".join(syllables[int(i)] for i in generator.integers(0, len(syllables), size))] = None
        found.append(list(words))
    return found
