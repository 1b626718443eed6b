"""What differs between two sides: parameters, figures (and whether by more than chance), documents and distributions."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from components.tracking.reading import Run
from flows.compare.sides import Side

if TYPE_CHECKING:
    import pyarrow as pa

    from components.validate.drift import Comparison

_Z = 1.96  # two-sided 95 % of the normal distribution
_OF_THE_MACHINE = ("seconds", "peak_gib", "tokens_per_second", "operations_per_second")
ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """A figure on both sides. `spread` is what chance alone moves b - a by in one of twenty cases; None where unknown."""

    name: str
    a: float | None
    b: float | None
    spread: float | None
    source: str  # where the spread comes from

    @property
    def change(self) -> float | None:
        """b - a."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def beyond(self) -> bool | None:
        """Whether the change is more than chance makes; None where that is not known."""
        return None if self.change is None or self.spread is None else abs(self.change) > self.spread


def parameters(a: Side, b: Side) -> list[tuple[str, Any, Any]]:
    """Parameters that are not the same, by name; ABSENT where a side does not have one."""
    keys = [*a.parameters, *(key for key in b.parameters if key not in a.parameters)]
    pairs = [(key, a.parameters.get(key, ABSENT), b.parameters.get(key, ABSENT)) for key in keys]
    return [(key, one, other) for key, one, other in pairs if one is ABSENT or other is ABSENT or one != other]


def figures(a: Side, b: Side) -> list[Difference]:
    """Every figure of both sides in the pipeline's order, with the spread that is known of it."""
    names = [*a.metrics, *(name for name in b.metrics if name not in a.metrics)]
    stages = {name.partition(".")[0] for name in names}
    known: dict[str, tuple[float, int]] = {}
    for stage in stages:
        known |= {f"{stage}.{key}": value for key, value in repeated(_history(stage, a, b)).items()}
    found = []
    for name in names:
        if name.endswith("_stderr"):
            continue
        one, other = a.metrics.get(name), b.metrics.get(name)
        errors = [side.metrics.get(f"{name}_stderr") for side in (a, b)]
        spread, source = None, ""
        if errors[0] is not None and errors[1] is not None:
            spread, source = _Z * math.hypot(*(error or 0.0 for error in errors)), "standard errors"
        elif name in known:
            deviation, freedom = known[name]
            spread, source = _student(freedom) * math.sqrt(2) * deviation, f"{freedom + 1} or more repeated runs"
        found.append(Difference(name, one, other, spread, source))
    return found


def _history(stage: str, a: Side, b: Side) -> list[Run]:
    """Finished runs of the stage in the sides' databases, each once."""
    found: dict[str, Run] = {}
    for side in (a, b):
        if side.runs is not None:
            found |= {run.id: run for run in side.runs.of_stage(stage)}
    return list(found.values())


def repeated(runs: Sequence[Run]) -> dict[str, tuple[float, int]]:
    """Standard deviation and degrees of freedom of each figure over runs that differ in nothing but the seed.

    Pooled over groups of equal parameters. Runs of the same seed are one draw, but for time and memory, where each is one.
    """
    groups: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        key = frozenset((name, value) for name, value in run.parameters.items() if name != "seed")
        groups.setdefault(key, []).append(run)
    sums: dict[str, tuple[float, int]] = {}
    for group in groups.values():
        names = set().union(*(run.metrics for run in group))
        for name in names:
            draws: dict[str, list[float]] = {}
            for run in group:
                if name in run.metrics:
                    seed = run.id if name in _OF_THE_MACHINE else run.parameters.get("seed", "")
                    draws.setdefault(seed, []).append(run.metrics[name])
            values = [sum(same) / len(same) for same in draws.values()]
            if len(values) > 1:
                mean = sum(values) / len(values)
                squares, freedom = sums.get(name, (0.0, 0))
                sums[name] = (squares + sum((v - mean) ** 2 for v in values), freedom + len(values) - 1)
    return {name: (math.sqrt(squares / freedom), freedom) for name, (squares, freedom) in sums.items()}


# Two-sided 95 % of Student's t by degrees of freedom: importing SciPy for ten numbers would take a third of the time.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def _student(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom


@dataclass(frozen=True)
class Documents:
    """Documents of the cleaned corpora by id; `moved` changed between training and validation."""

    added: list[str]
    removed: list[str]
    moved: int
    kept: int


def documents(a: Path | bytes, b: Path | bytes) -> Documents:
    """How the documents of two corpora differ, each told by a Parquet file (or its bytes) with `id` and `split`.

    Raises InkwellError for a file that is none.
    """
    import pyarrow.compute as pc

    one, other = _ids(a), _ids(b)
    if one.equals(other):
        return Documents([], [], 0, len(one))
    added = other.filter(pc.invert(pc.is_in(other["id"], one["id"])))["id"].to_pylist()
    removed = one.filter(pc.invert(pc.is_in(one["id"], other["id"])))["id"].to_pylist()
    keys = [pc.binary_join_element_wise(table["id"], table["split"], "\0") for table in (one, other)]
    same = int(pc.sum(pc.is_in(keys[0], keys[1])).as_py() or 0)
    kept = len(one) - len(removed)
    return Documents(sorted(added), sorted(removed), kept - same, kept)


def _ids(told: Path | bytes) -> pa.Table:
    """`id` and `split` as text; an index tells of removed documents too, and they are in no corpus."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from components.tracking.documents import REMOVED

    try:
        read = pq.ParquetFile(io.BytesIO(told) if isinstance(told, bytes) else told).read(["id", "split"])
        table = pa.table({name: pc.cast(read[name], "string") for name in ("id", "split")})
    except (pa.ArrowException, OSError, KeyError) as error:
        named = "the index of documents beside a run" if isinstance(told, bytes) else told
        raise InkwellError(
            f"{named} is no table of documents ({' '.join(str(error).split())[:200]}): run the step that writes it again."
        ) from error
    return table.filter(pc.not_equal(table["split"], REMOVED))


def distributions(a: Side, b: Side) -> list[Comparison]:
    """Drift of b's profile from a's, measured as `validate` does, with the default bounds; empty where one has no profile."""
    if not a.profile or not b.profile:
        return []
    from components.configuration.validate import Drift
    from components.validate.drift import compare

    return compare(a.profile, b.profile, Drift())


def shown(value: Any) -> str:
    """A parameter's value as params.yaml would write it, on one line."""
    if value is ABSENT:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def scores(a: Side, b: Side) -> dict[str, list[tuple[str, Mapping[str, float]]]]:
    """Evaluation scores that both sides have, each with the side's name and {value, low, high}."""
    names = [name for name in a.scores if name in b.scores]
    return {name: [("A", a.scores[name]), ("B", b.scores[name])] for name in names}
