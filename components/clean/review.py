"""Documents for a person to read, a few for each rule: those nearest to its bound on either side, and some drawn by the seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.clean.reasons import Reasons
    from components.clean.tagged import Tagged
    from components.clean.verdicts import Verdicts
    from components.corpus.policy import Policy

_SHOWN = 1_000  # characters of a text


def sample(
    tagged: Tagged, verdicts: Verdicts, policy: Policy, reasons: Reasons, size: int, draws: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    """Rows of `review.jsonl`: rule, side (dropped or kept), id, source, language, value, threshold, reason, text."""
    if not size:
        return
    kept = np.flatnonzero(verdicts.kept)
    kept = kept[np.argsort(draws[kept], kind="stable")]
    chosen: list[tuple[str, str, int, float, float]] = []  # rule, side, row, value, threshold
    for number, name in enumerate(verdicts.names):
        if name == "denied":
            continue  # their words are shown to nobody
        dropped = np.flatnonzero(verdicts.rule == number)
        dropped = dropped[np.argsort(draws[dropped], kind="stable")]
        of_dropped = (verdicts.value[dropped], verdicts.threshold[dropped])
        sides = [("dropped", dropped, *of_dropped), ("kept", kept, *_nearest_bounds(tagged, policy, name, kept))]
        for side, rows, value, threshold in sides:
            if side == "kept":
                rows, value, threshold = (array[~np.isnan(threshold)] for array in (rows, value, threshold))
            for place in _choose(np.abs(value - threshold), size).tolist():
                chosen.append((name, side, int(rows[place]), float(value[place]), float(threshold[place])))
    texts = _texts(tagged, {row for _, _, row, _, _ in chosen})
    for name, side, row, measured, bound in chosen:
        text, contaminated_by, metadata = texts[row]
        yield {
            "rule": name,
            "side": side,
            "id": tagged.id(row),
            "source": tagged.source[row],
            "language": tagged.language[row],
            "value": _number(measured),
            "threshold": _number(bound),
            "reason": reasons.of(row, contaminated_by, metadata) if side == "dropped" else None,
            "text": text[:_SHOWN],
        }


def _nearest_bounds(
    tagged: Tagged, policy: Policy, name: str, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a rule of the policy looks at in some documents, and the nearer of its bounds in their language; NaN where there is none."""
    values, nearest = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    measured: dict[str, NDArray[np.float64]] = {}
    for language in tagged.language.names:
        rule = policy.for_language(language).get(name)
        if rule is None:
            continue
        if rule.statistic not in measured:
            measured[rule.statistic] = tagged.statistic(rule.statistic)[rows]
        here = np.flatnonzero(tagged.language.are(language)[rows])
        value = values[here] = measured[rule.statistic][here]
        low, high = (np.nan if bound is None else bound for bound in (rule.minimum, rule.maximum))
        nearest[here] = np.where(~(np.abs(value - low) > np.abs(value - high)) & ~np.isnan(low), low, high)
        nearest[here[np.isnan(value)]] = np.nan
    return values, nearest


def _choose(distance: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Places of half of them nearest to the bound, and of the first others; all are in the order of the draw."""
    near = np.zeros(0, dtype=np.int64)
    half = (size + 1) // 2
    measured = np.flatnonzero(~np.isnan(distance))
    if len(measured) and half:
        far = np.partition(distance[measured], min(half, len(measured)) - 1)[min(half, len(measured)) - 1]
        near = measured[distance[measured] <= far]
        near = near[np.argsort(distance[near], kind="stable")][:half]
    others = np.setdiff1d(np.arange(min(len(distance), size + half)), near)[: size - len(near)]
    return np.concatenate([near, others])


def _texts(tagged: Tagged, wanted: set[int]) -> dict[int, tuple[str, str | None, str | None]]:
    """Text, what contaminates it, and metadata of some rows."""
    columns = ["text", "contaminated_by", "metadata"]
    found = {}
    for start, table in tagged.batches(columns):
        for row in wanted.intersection(range(start, start + len(table))):
            text, by, metadata = (table[name][row - start].as_py() for name in columns)
            found[row] = (text, by, metadata)
    return found


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
