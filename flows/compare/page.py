"""The page of a comparison, and the same as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from flows.compare.differing import (
    Difference,
    Documents,
    distributions,
    documents,
    figures,
    parameters,
    scores,
    shown,
)
from flows.compare.sides import STAGES_WITH_CURVES, Side
from flows.experiments.findings import Picture

if TYPE_CHECKING:
    from components.validate.drift import Comparison

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_MOST_IDS = 30  # of added or removed documents that are listed
_TEXT = 400  # characters of a sample
_HEADLINES = (
    ("pretrain.val_bits_per_char", "bits a character, held out"),
    ("sft.val_loss", "loss of the conversations, held out"),
    ("evaluate.base.bits_per_char", "bits a character, base model"),
    ("evaluate.aligned.next_line", "next line, aligned model"),
    ("export.kl_q8_0", "divergence of the 8-bit file, nats"),
    ("pretrain.tokens_per_second", "tokens a second"),
)


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Everything that differs, for the page and for programs."""
    changed = documents(a.documents, b.documents) if a.documents and b.documents else None
    return {
        "parameters": parameters(a, b),
        "figures": figures(a, b),
        "documents": changed,
        "distributions": distributions(a, b),
        "scores": scores(a, b),
    }


def write(a: Side, b: Side, output: Path) -> dict[str, Any]:
    """Write `output` and, beside it, the JSON of the same name; what the JSON holds."""
    from components.atomic import atomic_file
    from components.pages import render, style

    found = compare(a, b)
    outcome = _outcome(a, b, found)
    page = render(
        _TEMPLATE,
        {
            "style": style(_TEMPLATE.with_name("page.css")),
            "a": a,
            "b": b,
            "found": found,
            "said": outcome["verdict"],
            "shown": shown,
            "number": _number,
            "tiles": _tiles(found["figures"]),
            "told": _grouped(found["figures"]),
            "curves": _curves(a, b),
            "scores": _score_picture(found["scores"]),
            "samples": _samples(a, b),
            "ids": _MOST_IDS,
            "digests": _digests(a, b),
        },
    )
    with atomic_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic_file(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(outcome, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return outcome


def _outcome(a: Side, b: Side, found: dict[str, Any]) -> dict[str, Any]:
    changed: Documents | None = found["documents"]
    drifted: Sequence[Comparison] = found["distributions"]
    differences: Sequence[Difference] = found["figures"]
    beyond = [one for one in differences if one.beyond]
    unknown = sum(one.beyond is None and bool(one.change) for one in differences)
    said = [
        f"{len(found['parameters'])} parameter{'s' * (len(found['parameters']) != 1)} and "
        f"{sum(bool(one.change) for one in differences)} of {sum(one.change is not None for one in differences)} common figures differ, "
        f"{len(beyond)} beyond their known spread; of {unknown} the spread is not known."
    ]
    if changed:
        same = not (changed.added or changed.removed or changed.moved)
        said.append(
            "Both have the same documents."
            if same
            else f"B has {len(changed.added):,} documents that A lacks and lacks {len(changed.removed):,}."
        )
    if drifted:
        moved = [one.what for one in drifted if one.drifted]
        said.append(f"Beyond the bounds of drift: {', '.join(moved)}." if moved else "No distribution has drifted.")
    return {
        "a": {"name": a.name, "kind": a.kind, **a.facts},
        "b": {"name": b.name, "kind": b.kind, **b.facts},
        "verdict": " ".join(said),
        "parameters": {key: [shown(one), shown(other)] for key, one, other in found["parameters"]},
        "figures": {
            one.name: {"a": one.a, "b": one.b, "change": one.change, "spread": one.spread, "beyond": one.beyond}
            for one in differences
        },
        "documents": {
            "added": changed.added,
            "removed": changed.removed,
            "moved": changed.moved,
            "kept": changed.kept,
        }
        if changed
        else None,
        "drift": {one.what: {"distance": one.distance, "allowed": one.allowed} for one in drifted},
    }


def _tiles(differences: Sequence[Difference]) -> list[tuple[Difference, str]]:
    by_name = {one.name: one for one in differences}
    return [(by_name[name], said) for name, said in _HEADLINES if name in by_name and by_name[name].change is not None]


def _grouped(differences: Sequence[Difference]) -> dict[str, list[Difference]]:
    """Figures that differ, by stage: beyond their spread first."""
    found: dict[str, list[Difference]] = {}
    for one in differences:
        if one.change != 0:
            found.setdefault(one.name.partition(".")[0], []).append(one)
    for stage in found:
        found[stage].sort(key=lambda one: (not one.beyond, one.beyond is None))
    return found


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    return (
        f"{value:,.0f}"
        if float(value).is_integer() and abs(value) < 1e15
        else f"{value:,.4f}"
        if abs(value) < 1000
        else f"{value:,.0f}"
    )


def _curves(a: Side, b: Side) -> list[Picture]:
    """Validation and loss of each stage that both trained, over tokens and over seconds (else over steps)."""
    from components.report.pictures import lines, picture

    found = []
    for stage in STAGES_WITH_CURVES:
        sides = [("A", a.curves.get(stage, []), "sft"), ("B", b.curves.get(stage, []), "accent")]
        if not any(rows for _, rows, _ in sides):
            continue
        for column, title in (
            ("validation_bits_per_char", "held-out bits a character"),
            ("validation_loss", "held-out loss"),
            ("loss", "training loss"),
        ):
            for axis in ("tokens", "seconds", "step"):
                series = {
                    name: ([(row[axis], row[column]) for row in rows if axis in row and column in row], colour)
                    for name, rows, colour in sides
                }
                series = {name: points for name, points in series.items() if points[0]}
                timed = all("tokens" in row for _, rows, _ in sides for row in rows[:1])
                # a picture takes a twentieth of the two seconds that the page may take: the training loss has one
                if not series or (axis == "step" and timed) or (axis == "seconds" and column == "loss"):
                    continue
                name = f"{stage}-{column}-{axis}"
                found.append(
                    Picture(
                        f"{stage}: {title} over {axis if axis != 'step' else 'steps'}",
                        picture(name, f"{stage}: {title}", lines(series, axis, title)),
                    )
                )
    return found


def _score_picture(found: dict[str, list[tuple[str, Any]]]) -> list[Picture]:
    """The scores of each model: A above B, each with its 95 % interval, on the score's own scale."""
    rows = [(name, sides) for name, sides in found.items() if all("low" in values for _, values in sides)]
    models = dict.fromkeys(name.partition(".")[0] for name, _ in rows)
    return [
        _scores_of(model, [(name.partition(".")[2] or name, sides) for name, sides in rows if name.startswith(model)])
        for model in models
    ]


def _scores_of(model: str, rows: list[tuple[str, list[tuple[str, Any]]]]) -> Picture:
    from components.report.pictures import ACCENT, INK, MUTED, RULE, picture

    def draw(axes: Any) -> None:
        for place, (_, sides) in enumerate(rows):
            lows = [values["low"] for _, values in sides]
            highs = [values["high"] for _, values in sides]
            bottom, top = min(lows), max(highs)
            width = (top - bottom) or 1.0
            axes.axhline(place + 0.5, color=RULE, linewidth=0.6)
            for offset, (side, values) in zip((-0.18, 0.18), sides, strict=True):
                scaled = [(values[key] - bottom) / width if top > bottom else 0.5 for key in ("low", "value", "high")]
                colour = MUTED if side == "A" else ACCENT
                axes.plot([scaled[0], scaled[2]], [place + offset] * 2, color=colour, linewidth=1.4)
                axes.plot([scaled[1]], [place + offset], "o", color=colour, markersize=4.5)
                axes.text(1.04, place + offset, f"{side}  {values['value']:.4g}", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.03, 1.3)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)

    told = "; ".join(f"{name}: {sides[0][1]['value']:.4g}, {sides[1][1]['value']:.4g}" for name, sides in rows)
    caption = f"{model}: scores with their 95 % intervals, each on a scale of its own"
    return Picture(caption, picture(f"scores-{model}", told, draw, height=0.5 + 0.36 * len(rows)))


def _samples(a: Side, b: Side) -> list[tuple[str, str, str]]:
    """(what, A's text, B's text): what the finished models wrote to the same prompts, else while they were trained."""
    prompts = [_generations(side) for side in (a, b)]
    common = [key for key in prompts[0] if key in prompts[1]]
    found = [
        (f"{model}: {prompt}".strip(": "), prompts[0][model, prompt], prompts[1][model, prompt])
        for model, prompt in common
    ]
    picked = found[:: max(1, len(found) // 6)][:6]
    if picked:
        return picked
    last = [{row["step"]: row["texts"] for row in side.samples} for side in (a, b)]
    steps = sorted(set(last[0]) & set(last[1])) or sorted(set(last[0]) | set(last[1]))
    texts = []
    for step in steps[-3:]:
        pair = [(side.get(step) or [""])[0][:_TEXT] for side in last]
        texts.append((f"after step {step:,}", pair[0], pair[1]))
    return texts


def _generations(side: Side) -> dict[tuple[str, str], str]:
    if side.generations is None:
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(io.BytesIO(side.generations)).read()
        key = next((name for name in ("prompt", "title", "request") if name in table.column_names), None)
        rows = table.select([name for name in ("model", key, "text") if name]).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InkwellError(
            f"{side.name}: generations.parquet is no table of what the models wrote ({' '.join(str(error).split())[:200]}): "
            "run the evaluate step again."
        ) from error
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        found.setdefault((str(row["model"]), str(row[key]) if key else ""), str(row["text"])[:_TEXT])
    return found


def _digests(a: Side, b: Side) -> list[tuple[str, str, str]]:
    """Outputs of both sides by the same kind of hash, which differ or not."""
    if a.kind != b.kind:
        return []
    return [(path, a.digests[path], b.digests[path]) for path in a.digests if path in b.digests]
