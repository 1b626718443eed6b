"""The figures on top."""

from __future__ import annotations

from components.figures import bits, figure
from components.report import pictures
from components.report.evidence import STAGES, Evidence, Row
from components.report.sections.scores import interval, shown


def headline(evidence: Evidence) -> Row:
    """The figures on top, each None where its stage has not run."""
    model, bar = evidence.metric("pretrain", "val_bits_per_char"), evidence.metric("clean", "kneser_ney_bits_per_char")
    order = evidence.metric("clean", "kneser_ney_order")
    name = f"{order:.0f}-gram Kneser-Ney" if order else "n-gram Kneser-Ney"
    compared = None
    if model is not None and bar is not None:
        compared = pictures.picture(
            "headline",
            f"Bits per character on held-out text: {name} {bar:.3f}, this model {model:.3f}",
            pictures.bars([(name, bar), ("this model", model)], bits, {"this model": "accent"}),
            height=1.25,
        )
    exported = [file for file in evidence.manifest.get("files", []) if file["file"].endswith(".gguf")]
    smallest = min(exported, key=lambda file: file["bytes"], default=None)
    seconds = [(stage, evidence.metric(stage, "seconds")) for stage in STAGES]
    ran = [(stage, value) for stage, value in seconds if value is not None]
    return {
        "sources": [
            " ".join(str(part) for part in (source.get("location") or source["name"], source.get("version")) if part)
            for source in evidence.sources
        ],
        "ngram": name,
        "compared": compared,
        "ratio": figure(
            model / bar if model is not None and bar else None,
            "percent",
            "metrics/pretrain.json: val_bits_per_char / metrics/clean.json: kneser_ney_bits_per_char",
        ),
        "score": _leading_score(evidence),
        "smallest": smallest and {
            "size": figure(smallest["bytes"], "size", f"models/export/manifest.json: bytes of {smallest['file']}"),
            "format": smallest["format"],
        },
        "minutes": figure(sum(value for _, value in ran) if ran else None, "minutes", "sum of seconds in metrics/*.json"),
        "ran": len(ran),
        "stages": len(STAGES),
    }  # fmt: skip


def _leading_score(evidence: Evidence) -> Row | None:
    """The score that stands on top: the form that sft keeps, or the next line where the corpus has no form."""
    for key, said in (
        ("sft.five_char_lines", "of poems asked for in five-character lines keep to them (sft)"),
        ("aligned.next_line", "of next lines recognised (aligned)"),
        ("base.next_line", "of next lines recognised (base)"),
    ):
        score = evidence.results.get("scores", {}).get(key)
        if score:
            return {"value": shown(key, score, "value", "percent"), "said": said, "interval": interval(key, score)}
    return None
