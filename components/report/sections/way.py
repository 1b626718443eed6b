"""The stages in their lanes, with the share of the time that each took."""

from __future__ import annotations

from components.report.evidence import STAGES, Evidence, Row

_LANES = (
    ("Text", STAGES[:6]),
    ("Model", STAGES[6:10]),
    ("Proof", STAGES[10:]),
)
_DOES = {
    "ingest": "reads the sources",
    "tag": "measures each document",
    "clean": "drops and splits",
    "validate": "the gate",
    "tokenizer": "learns the tokens",
    "tokenize": "packs the corpus",
    "pretrain": "learns to continue",
    "instruct": "makes conversations",
    "sft": "learns to answer",
    "align": "learns preferences",
    "evaluate": "judges three models",
    "export": "files for other programs",
}


def way(evidence: Evidence) -> list[Row]:
    """The stages in their lanes; `share` is a stage's part of the longest stage's time, in percent."""
    longest = max((found.get("seconds", 0.0) for found in evidence.metrics.values()), default=0.0)
    return [
        {
            "name": lane,
            "stages": [
                {
                    "name": stage,
                    "does": _DOES[stage],
                    "ran": stage in evidence.metrics,
                    "share": round(100 * evidence.metrics.get(stage, {}).get("seconds", 0.0) / (longest or 1.0), 1),
                }
                for stage in stages
            ],
        }
        for lane, stages in _LANES
    ]
