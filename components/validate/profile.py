"""A corpus in a few hundred numbers: what a later one is compared with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.documents import batches, clean_schema, read_table, removed_schema
from components.corpus.statistics import STATISTICS
from components.corpus.tagged_documents import read_statistic, tagged_schema
from components.errors import InkwellError

if TYPE_CHECKING:
    import pandas as pd

    from components.configuration import Configuration

FORMAT = 1
_QUANTILES = 20  # steps between the points at which a cumulative distribution is kept
_CHARACTERS = 500  # the commonest are kept one by one, the rest as one share
_REST = "other"
_HIGHEST_CODE_POINT = 0x10FFFF
_LONGEST_NAME = 80


def name_of(configuration: Configuration) -> str:
    """Under which name this corpus is accepted: `validate.accepted`, else the names of its sources."""
    given = configuration.validate_.accepted
    if given:
        return given
    names = sorted(source.name for source in configuration.ingest.sources if source.role == "train")
    return re.sub(r"[^\w.+-]", "_", "+".join(names))[:_LONGEST_NAME] or "corpus"


def describe(name: str, rows: pd.DataFrame, clean: Path, tagged: Path) -> dict[str, Any]:
    """The profile of a corpus: `rows` are its clean documents as `components.validate.clean.frame` gives them.

    shares: of documents by language, script, source (repeats counted) and outcome (kept, or the rule that dropped it), and of
    characters. quantiles: the cumulative distribution of the documents' lengths and of each statistic that tag measured.
    """
    removed = read_table(clean / "removed.parquet", removed_schema(), ["rule"])["rule"].value_counts().to_pylist()
    outcomes = {"kept": len(rows), **{entry["values"]: entry["counts"] for entry in removed}}
    characters, total = _characters(clean / "documents.parquet")
    read = sum(outcomes.values())
    return {
        "format": FORMAT,
        "name": name,
        "documents": len(rows),
        "characters": total,
        "read": read,
        "shares": {
            "languages": _shares(rows["language"].value_counts().to_dict()),
            "scripts": _shares(rows["script"].value_counts().to_dict()),
            "sources": _shares(rows.groupby("source")["repeats"].sum().to_dict()),
            "outcomes": _shares(outcomes),
            "characters": characters,
        },
        "quantiles": {
            "lengths": points(rows["characters"].to_numpy(dtype=float)),
            **_statistics(tagged / "documents.parquet"),
        },
    }


def points(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A cumulative distribution at its quantiles: {count, points: [[value, share below it, share up to it], ...]}.

    Exact at these values, ties included; values are rounded to six digits first, so that two profiles round alike.
    """
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        return {"count": 0, "points": []}
    rounded = np.sort(_six_digits(values))
    grid = np.unique(np.quantile(rounded, np.linspace(0, 1, _QUANTILES + 1), method="inverted_cdf"))
    below = np.searchsorted(rounded, grid, "left") / len(rounded)
    upto = np.searchsorted(rounded, grid, "right") / len(rounded)
    found = [
        [float(value), round(float(a), 6), round(float(b), 6)] for value, a, b in zip(grid, below, upto, strict=True)
    ]
    return {"count": len(values), "points": found}


def _six_digits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(divide="ignore"):
        power = np.where(values == 0, 0, np.floor(np.log10(np.abs(values))))
    scale = 10.0 ** (5 - power)
    found: np.ndarray[Any, Any] = np.round(values * scale) / scale
    return found


def _shares(counts: Mapping[Any, float]) -> dict[str, float]:
    total = sum(counts.values()) or 1
    return {str(name): round(count / total, 6) for name, count in sorted(counts.items(), key=lambda item: str(item[0]))}


def _characters(documents: Path) -> tuple[dict[str, float], int]:
    """Shares of the commonest characters of `content`, and how many characters there are."""
    import pyarrow.compute as pc

    counts = np.zeros(_HIGHEST_CODE_POINT + 1, dtype=np.int64)
    for batch in batches(documents, clean_schema(), ["content"]):
        text = "".join(pc.fill_null(batch["content"], "").to_pylist())
        counts += np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), minlength=len(counts))
    total = int(counts.sum())
    # Ties go to the lower code point, so that equal corpora give equal profiles.
    most = np.argsort(-counts, kind="stable")[:_CHARACTERS]
    kept = {chr(code): int(counts[code]) for code in most.tolist() if counts[code]}
    return _shares({**kept, _REST: total - sum(kept.values())}), total


def _statistics(documents: Path) -> dict[str, dict[str, Any]]:
    """The distribution of each statistic that was measured, one column in memory at a time."""
    read_table(documents, tagged_schema(), ["id"])  # checks the schema
    found = {name: points(read_statistic(documents, name)) for name in STATISTICS}
    return {name: distribution for name, distribution in found.items() if distribution["count"]}


def write(profile: Mapping[str, Any], path: Path) -> None:
    """Write a profile as JSON: a distribution a line, so that git shows what changed."""
    text = json.dumps(profile, ensure_ascii=False, indent=1, sort_keys=True)
    text = re.sub(r"\[\s+([-\d.e]+),\s+([-\d.e]+),\s+([-\d.e]+)\s+\]", r"[\1, \2, \3]", text)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Read a profile; InkwellError where the file holds none."""
    mend = "accept a corpus again (python -m components.validate.accept) or delete the file"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise InkwellError(f"{path} is a profile of format {found['format']}, expected {FORMAT}: {mend}.")
        missing = {"name", "documents", "characters", "read"} - found.keys()
        assert not missing
        assert found["shares"]["characters"]
        assert all(one["count"] and one["points"] for one in found["quantiles"].values())
        assert found["quantiles"]["lengths"]
    except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
        raise InkwellError(f"{path} is no profile of a corpus: {mend}.") from error
    return dict(found)
