"""What a comparison found, as a page that opens offline, as Markdown for a log, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_TEMPLATE = Path(__file__).with_name("findings.html.jinja")


@dataclass(frozen=True)
class Table:
    """A caption, the names of the columns, and rows of text; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A caption and an `<svg>` element."""

    caption: str
    svg: Markup


def write_findings(
    stem: Path,
    title: str,
    verdict: str,
    said: str,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    outcome: Mapping[str, Any],
) -> None:
    """Write `stem`.json (`outcome`), `stem`.md and `stem`.html."""
    from components.pages import render, style

    with atomic_file(stem.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(outcome, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    with atomic_file(stem.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(title, verdict, said, tables), encoding="utf-8")
    page = render(
        _TEMPLATE,
        {
            "title": title,
            "verdict": verdict,
            "said": said,
            "tables": tables,
            "pictures": pictures,
            "style": style(_TEMPLATE.with_name("findings.css")),
        },
    )
    with atomic_file(stem.with_suffix(".html")) as temporary:
        temporary.write_text(page, encoding="utf-8")


def markdown(title: str, verdict: str, said: str, tables: Sequence[Table]) -> str:
    """The findings as Markdown."""
    lines = [f"# {title}", "", verdict, "", said, ""]
    for table in tables:
        lines += [f"## {table.caption}", "", _row(table.columns), _row(["---"] * len(table.columns))]
        lines += [*map(_row, table.rows), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def column_of_points(caption: str, values: Mapping[str, Sequence[float]], axis: str) -> Picture:
    """A row of dots for each name, one a value, and a stroke at their mean."""
    from components.report.pictures import ACCENT, MUTED, picture

    def draw(axes: Axes) -> None:
        for place, points in enumerate(values.values()):
            axes.plot(points, [place] * len(points), "o", color=MUTED, markersize=5, alpha=0.8)
            axes.plot([sum(points) / len(points)], [place], "|", color=ACCENT, markersize=22, markeredgewidth=2)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlabel(axis)
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.margins(x=0.1)

    described = "; ".join(f"{name}: {', '.join(f'{v:.4f}' for v in points)}" for name, points in values.items())
    return Picture(caption, picture("points", described, draw, height=0.7 + 0.45 * len(values)))


def curve_of_points(caption: str, points: Sequence[tuple[float, Sequence[float]]], x: str, y: str) -> Picture:
    """Means over x on a logarithmic axis, joined by a line, and the values behind each mean as dots."""
    from components.report.pictures import ACCENT, MUTED, picture

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import NullLocator

        places = [place for place, _ in points]
        axes.plot(places, [sum(values) / len(values) for _, values in points], "o-", color=ACCENT, markersize=4)
        for place, values in points:
            axes.plot([place] * len(values), list(values), "o", color=MUTED, markersize=3)
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:,.0f}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.margins(x=0.06, y=0.12)

    described = "; ".join(f"{place:,.0f}: {', '.join(f'{v:.4f}' for v in values)}" for place, values in points)
    return Picture(caption, picture("curve", described, draw, height=2.6))
