"""What we keep and what datatrove keeps of the same documents, rule by rule and in the whole; run in the workspace of the race.

    python -m benchmarks.race_agreement

Reads race/ours, race/datatrove/kept and data/raw, prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from components.corpus.policy import Rule

_COMPARED = 5_000  # documents on which rules are compared one by one


def agreement(raw: Path, ours: Path, kept_by_datatrove: Path) -> dict[str, float]:
    """Print the table; the smallest share of documents on which a rule decides alike on both sides, and that of the whole."""
    import numpy as np
    import pyarrow.parquet as pq

    from benchmarks.datatrove_race import verdicts
    from components.corpus.policy import load_policy

    rules = load_policy("race").rules
    documents = pq.read_table(raw / "documents.parquet", columns=["id", "text"])
    picked = np.unique(np.linspace(0, len(documents) - 1, min(_COMPARED, len(documents))).astype(int))
    texts = [text or "" for text in documents["text"].take(picked).to_pylist()]
    tagged = pq.read_table(ours / "tagged" / "documents.parquet", columns=["id", "tags"])
    if not tagged["id"].equals(documents["id"]):
        raise AssertionError("the tagged documents are not the raw ones")
    tags = tagged["tags"].take(picked).combine_chunks()
    print(f"  rule by rule on {len(texts):,} documents: kept by both, by us alone, by datatrove alone, by neither")
    least = 1.0
    for name, theirs in verdicts(texts, rules):
        values = tags.field(rules[name].statistic).to_numpy(zero_copy_only=False)
        least = min(least, _compared(name, _kept(values, rules[name]), np.array(theirs)))
    names = documents["id"].to_pylist()
    mine = set(pq.read_table(ours / "clean" / "documents.parquet", columns=["id"])["id"].to_pylist())
    removed = pq.read_table(ours / "clean" / "removed.parquet", columns=["id", "rule"]).to_pydict()
    others = set(pq.read_table(kept_by_datatrove, columns=["id"])["id"].to_pylist())
    # Before de-duplication, which keeps another document of a cluster on each side.
    doubles = {"exact_duplicate", "near_duplicate"}
    dropped = {name for name, rule in zip(removed["id"], removed["rule"], strict=True) if rule not in doubles}
    filtered = set(pq.read_table(kept_by_datatrove.parent / "filtered", columns=["id"])["id"].to_pylist())
    print(f"  of all {len(names):,} documents:")
    filters = _compared(
        "all rules together",
        np.array([name not in dropped for name in names]),
        np.array([name in filtered for name in names]),
    )
    whole = _compared(
        "and de-duplication", np.array([name in mine for name in names]), np.array([name in others for name in names])
    )
    counts = {rule: removed["rule"].count(rule) for rule in sorted(set(removed["rule"]))}
    print("  we dropped: " + ", ".join(f"{rule} {count:,}" for rule, count in counts.items()))
    unknown = set(counts) - set(rules) - doubles
    if unknown:
        print(f"  (of these {', '.join(sorted(unknown))} are no rules of the race)")
    return {
        "agreement_least_of_a_rule": least,
        "agreement_rules": filters,
        "agreement_kept": whole,
        "kept_by_us": len(mine),
        "kept_by_datatrove": len(others),
    }


def _kept(values: NDArray[np.float64], rule: Rule) -> NDArray[np.bool_]:
    import numpy as np

    below = values < rule.minimum if rule.minimum is not None else np.zeros(len(values), bool)
    above = values > rule.maximum if rule.maximum is not None else np.zeros(len(values), bool)
    return ~(below | above)


def _compared(name: str, ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    counts = [int(part.sum()) for part in (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)]
    alike = (counts[0] + counts[3]) / max(1, len(ours))
    print(f"    {name:<32}" + "".join(f"{count:>10,}" for count in counts) + f"   {alike:8.3%} alike")
    return alike


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race_agreement", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="the raw documents (default: %(default)s)")
    parser.add_argument(
        "--ours", type=Path, default=Path("race/ours"), help="our tagged and clean (default: %(default)s)"
    )
    parser.add_argument(
        "--datatrove", type=Path, default=Path("race/datatrove/kept"), help="what datatrove kept (default: %(default)s)"
    )
    arguments = parser.parse_args()
    print(json.dumps(agreement(arguments.raw, arguments.ours, arguments.datatrove)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
