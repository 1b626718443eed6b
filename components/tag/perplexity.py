"""How surprising a text is: bits per character under a Kneser-Ney model of well-chosen text, or of the corpus itself.

With sources of role reference, one model of their text scores every document (Wenzek et al. 2020, CCNet, do so with
Wikipedia). Without, the corpus scores itself, and a document that was counted would flatter itself. Therefore the corpus is
parted in two halves by a hash of each text, a sample of either half makes a model, and a document is scored by the model of
the half that it is not in. Copies of one text fall into the same half, and a text is counted once however many copies there
are.

The sample is spread over the corpus: passages of at most 2,000 characters, each taken by a hash of the seed, its document
and its place, so that the order of documents and their parting into files do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.atomic import atomic_folder
from components.errors import InkwellError
from components.model.kneser_ney import KneserNey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.configuration.tag import Perplexity

_PASSAGE = 2_000  # characters
_LOOKED_AT = 100_000  # characters of a document that are scored: its beginning
_AT_ONCE = 500_000  # characters that are scored at a time
_ROWS = 5_000  # documents that are read at a time


def train(
    parts: Sequence[Path],
    reference: Path | None,
    settings: Perplexity,
    seed: int,
    folder: Path,
    normalise: Callable[[str], str] | None = None,
) -> dict[str, float]:
    """Write the models into `folder`, atomically; returns how many characters and passages they counted.

    parts: Parquet files with a column `text` (the corpus); they are read twice. reference: a file of role reference, scored
    by instead of the corpus; normalise: what was done to the texts of the corpus, so that it is done to these too. Memory: the
    sample, and about 80 bytes for each of its characters.
    """
    files = [reference] if reference else list(parts)
    change = normalise if reference and normalise else None
    total = sum(_characters(path) for path in files)
    share = min(1.0, settings.characters / total) if total else 0.0
    halves: list[list[str]] = [[], []]
    seen: set[int] = set()
    for path in files:
        for text in _texts(path):
            text = change(text) if change else text
            name = _hash(text)
            if text and name not in seen and _sample(text, name, seed, share, halves[0 if reference else name & 1]):
                seen.add(name)
    if not any(halves):
        where = reference or "the corpus"
        raise InkwellError(
            f"{where} holds no text to train the model of tag.perplexity on: raise tag.perplexity.characters "
            f"(now {settings.characters:,}), or set tag.perplexity.order to 0."
        )
    with atomic_folder(folder) as temporary:
        for number, half in enumerate(halves):
            if half:
                KneserNey.train(half, settings.order).save(temporary / f"half{number}.npz")
        (temporary / "perplexity.json").write_text(json.dumps({"by_halves": all(halves)}), encoding="utf-8")
    return {
        "perplexity_characters": sum(len(text) for half in halves for text in half),
        "perplexity_passages": sum(map(len, halves)),
        "perplexity_models": sum(map(bool, halves)),
    }


class Scorer:
    """What `train` wrote; `load` reads it."""

    def __init__(self, models: Sequence[KneserNey]) -> None:
        self._models = models

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Bits per character, the end mark counted as one: [D]. Of a text longer than 100,000 characters, its beginning."""
        bits = np.zeros(len(texts))
        for some in _batches(texts):
            if len(self._models) == 1:
                bits[some] = _bits(self._models[0], [texts[index] for index in some])
                continue
            halves = np.fromiter((_hash(texts[index]) & 1 for index in some), np.int64, len(some))
            for half, other in ((0, 1), (1, 0)):
                mine = np.array(some)[halves == half]
                bits[mine] = _bits(self._models[other], [texts[index] for index in mine])
        return bits


def load(folder: Path) -> Scorer:
    """Read the models of `folder`; InkwellError when there are none."""
    path = folder / "perplexity.json"
    try:
        by_halves = json.loads(path.read_text(encoding="utf-8"))["by_halves"]
    except (OSError, ValueError, KeyError) as error:
        raise InkwellError(f"{folder} holds no model of tag.perplexity ({error}): run tag again.") from error
    found = [folder / f"half{number}.npz" for number in (0, 1)]
    return Scorer([KneserNey.load(path) for path in found if by_halves or path.exists()])


def _bits(model: KneserNey, texts: Sequence[str]) -> NDArray[np.float64]:
    looked_at = [text[:_LOOKED_AT] for text in texts]
    return model.document_bits(looked_at) / (np.fromiter(map(len, looked_at), np.int64, len(looked_at)) + 1)


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for index, text in enumerate(texts):
        batch.append(index)
        size += min(len(text), _LOOKED_AT)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sample(text: str, name: int, seed: int, share: float, into: list[str]) -> bool:
    """Add the drawn passages of a text; whether there were any."""
    before = len(into)
    for start in range(0, len(text), _PASSAGE):
        if _hash(f"{seed} {name} {start}") < share * 2**64:
            into.append(text[start : start + _PASSAGE])
    return len(into) > before


def _hash(text: str) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _characters(path: Path) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return sum(
            pc.sum(pc.utf8_length(batch["text"])).as_py() or 0 for batch in file.iter_batches(_ROWS, columns=["text"])
        )


def _texts(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS, columns=["text"]):
            for text in batch["text"].to_pylist():
                yield text or ""
