"""What each model wrote for the same held-out document."""

from __future__ import annotations

from collections import Counter

from components.figures import figure
from components.report.evidence import MODELS, Evidence, Row
from components.report.sections.excerpts import SHOWN_CHARACTERS, cut, held_out, spread


def side_by_side(evidence: Evidence, samples: int) -> list[Row]:
    """What each model wrote for the same held-out document; documents evenly spread, none picked by hand."""
    written: dict[str, dict[str, Row]] = {}
    for model in MODELS:
        own = [row for row in evidence.generations if row["model"] == model]
        if own:
            task = Counter(row["task"] for row in own).most_common(1)[0][0]
            written[model] = {}
            for row in own:
                if row["task"] == task:
                    written[model].setdefault(row["document"], row)
    if not written:
        return []
    first, *others = written.values()
    common = [document for document in first if all(document in other for other in others)]
    real = {row["id"]: row for row in held_out(evidence, ["id", "text", "author"])}
    shown = []
    for document in spread(common, samples):
        original = real.get(document)
        asked = next(
            (found[document] for model, found in reversed(written.items()) if model != "base"), first[document]
        )
        shown.append(
            {
                "title": cut(asked["title"] or "", 80),
                "prompt": cut(asked["prompt"], 200),
                "texts": [_text(model, found[document]) for model, found in written.items()],
                "original": original
                and {"text": cut(original["text"], SHOWN_CHARACTERS), "author": original["author"]},
            }
        )
    return shown


def _text(model: str, row: Row) -> Row:
    lengths = [str(length) for length in row.get("line_lengths") or []]
    return {
        "model": model,
        "text": cut(row["text"], SHOWN_CHARACTERS),
        "lengths": "·".join(lengths[:16]) + (" …" if len(lengths) > 16 else "") if row["form"] else "",
        "ok": row["ok"] if row["form"] else None,
        "finished": row["finished"],
        "copied": figure(
            row["verbatim_characters"] or None, "count", "data/evaluation/generations.parquet: verbatim_characters"
        ),
    }
