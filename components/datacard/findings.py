"""What was found in the documents: duplicates, personal data, contamination, scores and topics, with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.statistics import STATISTICS
from components.datacard.corpus import Amount, Corpus, Row
from components.datacard.differences import differences
from components.datacard.rules import EXAMPLES
from components.datacard.wording import cut, share
from components.figures import figure

if TYPE_CHECKING:
    from numpy.typing import NDArray


_PAIRS = 4  # duplicates shown side by side
_PAIR_CHARACTERS = 500  # longer texts are no pleasure to compare
_CONTAMINATED = 30  # hits that are listed
_SCORES = {
    "quality": ("Quality", "by the classifier that learnt from the examples given", True),
    "judge": ("Judge", "by the language model that was asked, from 0 to 5", True),
    "perplexity": ("Perplexity", "Kneser-Ney score in bits per character; low is what the model expects", False),
}
_REPLACED = {
    "pii_emails": "e-mail addresses",
    "pii_phones": "telephone numbers",
    "pii_ips": "IP addresses",
    "pii_cards": "payment card numbers",
}


class Chosen:
    """Rows of tagged documents whose text the card shows: duplicates, contaminated ones, the ends of each score."""

    def __init__(self, corpus: Corpus, measured: Mapping[str, NDArray[np.float64]]) -> None:
        self.pairs = _pairs(corpus)
        self.contaminated = np.flatnonzero(corpus.column("contaminated_by").is_valid().to_numpy())
        self.scored: dict[str, tuple[list[int], list[int]]] = {}
        for name in _SCORES:
            if name in measured:
                known = np.flatnonzero(~np.isnan(measured[name]))
                order = known[np.lexsort((known, measured[name][known]))]
                lowest, highest = order[:EXAMPLES].tolist(), order[::-1][:EXAMPLES].tolist()
                self.scored[name] = (highest, lowest) if _SCORES[name][2] else (lowest, highest)

    def all(self) -> set[int]:
        """Every row."""
        found = {row for pair in self.pairs for row in pair[:2]} | set(self.contaminated[:_CONTAMINATED].tolist())
        return found | {row for ends in self.scored.values() for rows in ends for row in rows}


def _pairs(corpus: Corpus) -> list[tuple[int, int, float]]:
    """Pairs of near duplicates to choose examples from: one of each cluster, spread over their similarities, the least alike first."""
    import pyarrow.parquet as pq

    table = pq.read_table(corpus.tagged_path.parent / "duplicates.parquet")
    a, b, similarity = (table[name].to_numpy() for name in ("a", "b", "similarity"))
    order = np.lexsort((b, a, similarity))
    # Of identical ones there is nothing to see.
    order = order[similarity[order] < 0.999]
    cluster = corpus.column("cluster").to_numpy()[a[order]]
    order = order[np.sort(np.unique(cluster, return_index=True)[1])]
    chosen = (
        order[np.unique(np.linspace(0, len(order) - 1, min(len(order), 8 * _PAIRS)).astype(int))]
        if len(order)
        else order
    )
    return [(int(a[i]), int(b[i]), float(similarity[i])) for i in chosen]


def duplicates(
    corpus: Corpus,
    documents: Mapping[int, Row],
    dropped: Mapping[str, tuple[str, str]],
    pairs: Sequence[tuple[int, int, float]],
) -> Row:
    """How many there are, how large their clusters, and some side by side."""
    import pyarrow.parquet as pq

    same_text = corpus.column("same_text").to_numpy()
    sizes = corpus.clean.get("cluster_size_histogram", [])
    groups = (
        ("2", 2, 2),
        ("3", 3, 3),
        ("4", 4, 4),
        ("5 to 9", 5, 9),
        ("10 to 99", 10, 99),
        ("100 or more", 100, 10**12),
    )
    clusters = [(said, sum(n for size, n in sizes if low <= size <= high)) for said, low, high in groups]
    most = max((n for _, n in clusters), default=0)
    short = [
        pair
        for pair in pairs
        if all(len(documents[row]["text"]) <= _PAIR_CHARACTERS and documents[row]["text"] for row in pair[:2])
    ]
    chosen = [short[i] for i in np.unique(np.linspace(0, len(short) - 1, min(len(short), _PAIRS)).astype(int))]
    shown = []
    for a, b, similarity in chosen:
        sides = differences(documents[a]["text"], documents[b]["text"])
        shown.append(
            {
                "similarity": figure(similarity, "percent", f"data/tagged/duplicates.parquet: rows {a} and {b}"),
                "sides": [
                    {**documents[row], "pieces": pieces, "dropped": dropped.get(documents[row]["id"])}
                    for row, pieces in zip((a, b), sides, strict=True)
                ],
            }
        )
    return {
        "exact": int((same_text != np.arange(len(same_text))).sum()),
        "pairs": pq.read_metadata(corpus.tagged_path.parent / "duplicates.parquet").num_rows,
        "floor": corpus.tag.get("floor"),
        "shingle": corpus.tag.get("shingle_characters"),
        "clusters": [{"said": said, "clusters": n, "share": share(n, most)} for said, n in clusters if n],
        "shown": shown,
    }


def replaced(corpus: Corpus, measured: Mapping[str, NDArray[np.float64]]) -> Row:
    """Personal data, and whatever else was taken out of texts or repaired in them."""
    personal = [
        {
            "said": said,
            "found": int(np.nansum(measured[name])),
            "documents": int(np.nansum(measured[name] > 0)),
        }
        for name, said in _REPLACED.items()
        if name in measured
    ]
    mojibake = measured.get("mojibake_repaired")
    return {
        "personal": personal,
        "any": any(row["found"] for row in personal),
        "patterns": sorted(corpus.tag.get("taken_out", {}).items(), key=lambda item: (-item[1], item[0])),
        "mojibake": int(np.nansum(mojibake)) if mojibake is not None else 0,
        "mojibake_documents": int(np.nansum(mojibake > 0)) if mojibake is not None else 0,
        "lines": int(np.nansum(measured["lines_taken_out"] > 0)) if "lines_taken_out" in measured else 0,
    }


def contamination(
    corpus: Corpus, documents: Mapping[int, Row], dropped: Mapping[str, tuple[str, str]], rows: NDArray[np.int64]
) -> Row:
    """Documents that share a passage with an evaluation set, by set and one by one."""
    # As tag counted them: names may hold slashes, so that a hit does not tell where the name of its set ends.
    by_set = {str(found["source"]): int(found["contaminated"]) for found in corpus.tag.get("contamination", [])}
    listed = []
    for row in rows[:_CONTAMINATED].tolist():
        where, _, passage = (documents[row]["contaminated_by"] or "").partition(": ")
        listed.append(
            {**documents[row], "where": where, "passage": passage, "dropped": dropped.get(documents[row]["id"])}
        )
    return {
        "sets": [source.get("name") for source in corpus.sources if source.get("role") == "evaluation"],
        "documents": len(rows),
        "by_set": sorted(
            ((name, count) for name, count in by_set.items() if count), key=lambda item: (-item[1], item[0])
        ),
        "listed": listed,
    }


def scores(
    documents: Mapping[int, Row],
    dropped: Mapping[str, tuple[str, str]],
    scored: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    measured: Mapping[str, NDArray[np.float64]],
) -> list[Row]:
    """The documents at both ends of each score."""
    found = []
    for name, ends in scored.items():
        title, said, _ = _SCORES[name]
        show = STATISTICS[name].show
        shown = [
            [
                {
                    **documents[row],
                    "text": cut(documents[row]["text"]),
                    "value": show(float(measured[name][row])),
                    "dropped": dropped.get(documents[row]["id"]),
                }
                for row in rows
            ]
            for rows in ends
        ]
        found.append({"title": title, "said": said, "best": shown[0], "worst": shown[1]})
    return found


def topics(corpus: Corpus) -> list[Row]:
    """Topics with their terms and their share of the characters before and after, the largest first."""
    before, kept = corpus.before.by("topic"), corpus.kept.by("topic")
    total_before, total_kept = corpus.before.total().characters, corpus.kept.total().characters
    terms = {int(row["number"]): row["terms"] for row in corpus.tag.get("topics", [])}
    if not terms:
        return []
    numbers = sorted({*terms, *(number for number in before if number >= 0)})
    if -1 in before:
        numbers.append(-1)
    found = [
        {
            "number": number,
            "terms": terms.get(number, []),
            "hue": round(number * 137.508 % 360) if number >= 0 else None,
            "before": before.get(number, Amount()),
            "kept": kept.get(number, Amount()),
            "before_share": share(before.get(number, Amount()).characters, total_before),
            "kept_share": share(kept.get(number, Amount()).characters, total_kept),
        }
        for number in numbers
    ]
    most = max(max(row["before_share"], row["kept_share"]) for row in found) or 1.0
    return [{**row, "scale": 100 / most} for row in found]
