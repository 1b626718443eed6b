"""Where the text comes from, what was dropped and why, and how it was split."""

from __future__ import annotations

from components.figures import count, figure
from components.report import pictures
from components.report.evidence import Evidence, Row


def corpus(evidence: Evidence) -> Row:
    """Sources, what was dropped and why, lengths, the split."""
    dropped = [
        (name.removeprefix("dropped_").replace("_", " "), value)
        for name, value in evidence.metrics.get("clean", {}).items()
        if name.startswith("dropped_") and value
    ]
    dropped.sort(key=lambda item: (-item[1], item[0]))
    histogram = evidence.summary.get("length_histogram", {})
    edges = sorted({edge for bins in histogram.values() for edge, _ in bins})
    labels = [f"{edge:,}" for edge in edges]
    shares = {}
    for split, bins in histogram.items():
        counts = dict(map(tuple, bins))
        total = sum(counts.values()) or 1
        shares[split] = [100 * counts.get(edge, 0) / total for edge in edges]
    return {
        "sources": [
            {
                **{key: source.get(key) for key in ("name", "kind", "location", "version", "license", "sha256")},
                "documents": figure(source.get("documents"), "count", "data/raw/sources.json: documents"),
                "characters": figure(source.get("characters"), "count", "data/raw/sources.json: characters"),
                "bytes": figure(source.get("bytes_read"), "size", "data/raw/sources.json: bytes_read"),
                "members": [member.get("name") for member in source.get("members", [])],
            }
            for source in evidence.sources
        ],
        "dropped": pictures.picture(
            "dropped",
            "Documents dropped by rule: " + ", ".join(f"{rule} {value:,.0f}" for rule, value in dropped),
            pictures.bars(dropped, count),
            height=0.5 + 0.28 * len(dropped),
        ) if dropped else None,
        "examples": [
            {"rule": rule.replace("_", " "), **example}
            for rule, examples in sorted(evidence.summary.get("examples", {}).items())
            for example in examples[:1]
        ],
        "lengths": pictures.picture(
            "lengths",
            "Characters a document, share of documents of each split",
            pictures.columns(labels, shares, "characters a document, from … up to the next", "% of documents"),
        ) if edges else None,
        "authors": [
            (name, figure(found, "count", f"data/clean/summary.json: authors, {name}"))
            for name, found in evidence.summary.get("authors", {}).get("most", [])[:8]
        ],
        "distinct_authors": figure(
            evidence.summary.get("authors", {}).get("distinct") or None, "count", "data/clean/summary.json: authors.distinct"
        ),
        "distinct_characters": figure(
            evidence.summary.get("characters", {}).get("distinct"), "count", "data/clean/summary.json: characters.distinct"
        ),
    }  # fmt: skip
