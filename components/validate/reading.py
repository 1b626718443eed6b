"""Files in, a few columns out: texts are measured batch by batch, so that memory does not grow with their length."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from components.chat.markup import SPECIAL_TEXTS
from components.corpus.documents import read_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from components.step import Context

_MARKERS = "|".join(re.escape(marker) for marker in SPECIAL_TEXTS)
_CONTROLS = "[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]"
_LETTER_OR_DIGIT = r"[\p{L}\p{N}]"
_NO_BLANK = r"[^\s\p{Z}]"
_AROUND = 30  # characters shown on either side of what was found


def lengths(texts: pa.Array) -> np.ndarray[Any, Any]:
    """Characters of each text (float64, NaN for a null)."""
    import pyarrow.compute as pc

    found: np.ndarray[Any, Any] = pc.utf8_length(texts).cast("float64").to_numpy(zero_copy_only=False)
    return found


def wordless(texts: pa.Array) -> np.ndarray[Any, Any]:
    """Where a text holds neither letter nor digit, or is null."""
    return _without(texts, _LETTER_OR_DIGIT)


def blank(texts: pa.Array) -> np.ndarray[Any, Any]:
    """Where a text holds nothing but blanks, or is null."""
    return _without(texts, _NO_BLANK)


def _without(texts: pa.Array, pattern: str) -> np.ndarray[Any, Any]:
    import pyarrow.compute as pc

    said = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
    found: np.ndarray[Any, Any] = ~said.to_numpy(zero_copy_only=False)
    return found


def markers(texts: pa.Array) -> list[str | None]:
    """Each text's first special marker of the tokenizer with its surroundings, None where there is none."""
    return _passages(texts, _MARKERS)


def controls(texts: pa.Array) -> list[str | None]:
    """Each text's first control character with its surroundings, None where there is none."""
    return _passages(texts, _CONTROLS)


def _passages(texts: pa.Array, pattern: str) -> list[str | None]:
    import pyarrow.compute as pc

    hits = pc.fill_null(pc.match_substring_regex(texts, pattern), False).to_numpy(zero_copy_only=False)
    found: list[str | None] = [None] * len(texts)
    for row in np.flatnonzero(hits):
        text = texts[int(row)].as_py()
        match = re.search(pattern, text)
        assert match is not None, text
        start, end = max(0, match.start() - _AROUND), match.end() + _AROUND
        passage = f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
        # A control character would vanish on the page, and a NUL would end it.
        found[int(row)] = re.sub(_CONTROLS, lambda hit: f"\\x{ord(hit[0]):02x}", passage)
    return found


def keys(texts: pa.Array) -> np.ndarray[Any, Any]:
    """64 bits of each text's hash (0 for a null): two texts of two million share one by a chance of 1 in 10 million."""
    values = (
        0 if text is None else int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        for text in texts.to_pylist()
    )
    return np.fromiter(values, dtype=np.uint64, count=len(texts))


def sides(key: np.ndarray[Any, Any], split: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """In how many splits each row's key occurs."""
    import pandas as pd

    table = pd.DataFrame({"key": key, "split": split})
    found: np.ndarray[Any, Any] = table.groupby("key", sort=False)["split"].transform("nunique").to_numpy()
    return found


def splits_of_documents(context: Context) -> pd.Series[Any]:
    """The split of every clean document, by its id."""
    import pandas as pd

    from components.corpus.documents import clean_schema

    table = read_table(context.inputs["clean"] / "documents.parquet", clean_schema(), ["id", "split"])
    return (
        pd.Series(table["split"].to_pandas().to_numpy(), index=pd.Index(table["id"].to_pandas()))
        .groupby(level=0)
        .first()
    )


class Columns:
    """Collects batches of columns and joins them into one table."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Any]] = {}

    def add(self, **columns: Any) -> None:
        """One batch: arrays, lists or Arrow arrays of one length."""
        import pandas as pd
        import pyarrow as pa

        for name, values in columns.items():
            part = values.to_pandas() if isinstance(values, pa.Array) else pd.Series(values)
            self._parts.setdefault(name, []).append(part)

    def frame(self) -> pd.DataFrame:
        """All batches, rows numbered from 0."""
        import pandas as pd

        joined = {name: pd.concat(parts, ignore_index=True) for name, parts in self._parts.items()}
        return pd.DataFrame(joined)
