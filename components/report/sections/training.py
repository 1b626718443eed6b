"""The learning curves, and what the model wrote on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.figures import figure
from components.report import pictures
from components.report.evidence import Evidence, Row
from components.report.sections.excerpts import SHOWN_CHARACTERS, cut, spread

_TIMELINE = 6  # moments of the training that are shown


def training(evidence: Evidence) -> list[Row]:
    """Pictures of the learning curves by stage: {stage, title, picture}."""
    found = []
    seen = 0.0
    pretrain = [(seen := seen + row.get("tokens", 0.0), row) for row in evidence.curves.get("pretrain", [])]
    if pretrain:
        loss = [(at, row["loss"]) for at, row in pretrain if "loss" in row]
        found.append(
            _curve("pretrain", "Loss while pretraining, nats a token", {"loss": (loss, "accent")}, "tokens seen")
        )
        held_out = [(at, row["validation_bits_per_char"]) for at, row in pretrain if "validation_bits_per_char" in row]
        if held_out:
            bar = evidence.metric("clean", "kneser_ney_bits_per_char")
            level = (bar, f"n-gram model {bar:.3f}") if bar is not None else None
            series = {"validation": (held_out, "accent")}
            found.append(_curve("pretrain-validation", "Held-out bits per character", series, "tokens seen", level))
    tuned = evidence.curves.get("sft", [])
    if tuned:
        names = {"loss": "training", "validation_answer_loss": "held out"}
        series = {
            said: ([(row["step"], row[name]) for row in tuned if name in row], colour)
            for (name, said), colour in zip(names.items(), ("plain", "sft"), strict=True)
        }
        series = {said: drawn for said, drawn in series.items() if drawn[0]}
        found.append(_curve("sft", "Loss on answers while fine-tuning, nats a token", series, "step"))
    aligned = evidence.curves.get("align", [])
    for name, said in (
        ("accuracy", "Pairs told apart while aligning, share"),
        ("margin", "Margin of rewards while aligning"),
    ):
        points = [(row["step"], row[name]) for row in aligned if name in row]
        if points:
            found.append(_curve(f"align-{name}", said, {name: (points, "aligned")}, "step"))
    return found


def _curve(name: str, title: str, series: Mapping[str, Any], x: str, level: tuple[float, str] | None = None) -> Row:
    points = max((len(drawn[0]) for drawn in series.values()), default=0)
    alternative = f"{title}: " + ", ".join(
        f"{said} from {drawn[0][0][1]:.3g} to {drawn[0][-1][1]:.3g}" for said, drawn in series.items()
    )
    shown = pictures.picture(name, alternative, pictures.lines(series, x, "", level))
    return {
        "title": title,
        "picture": shown,
        "points": points,
        "thinned": len(pictures.thinned([(0.0, 0.0)] * points)) < points,
    }


def moments(evidence: Evidence) -> list[Row]:
    """Samples during training, a few evenly spaced, with what the model had seen by then and how well it did."""
    curve = evidence.curves.get("pretrain", [])
    origin, name = "data/curves/pretrain.csv", "validation_bits_per_char"
    found = []
    for entry in spread([entry for entry in evidence.samples if any(entry.get("texts", []))], _TIMELINE):
        before = [row for row in curve if row["step"] <= entry["step"]]
        checked = next((row for row in reversed(before) if name in row), {})
        at = checked.get("step")
        found.append(
            {
                "step": figure(entry["step"], "count", "data/samples/pretrain.jsonl: step"),
                "tokens": figure(
                    sum(row.get("tokens", 0.0) for row in before) or None,
                    "millions",
                    f"{origin}: sum of tokens up to step {entry['step']}",
                ),
                "bits": figure(checked.get(name), "bits", f"{origin}: {name}, step {at or 0:.0f}"),
                "at": figure(at, "count", f"{origin}: step") if at != entry["step"] else None,
                "texts": [cut(text, SHOWN_CHARACTERS // 2) for text in entry["texts"] if text.strip()][:2],
            }
        )
    return found
