"""The pictures of the training benchmarks: SVG, transparent, in colours that are readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#808080"  # contrast of about 4 on white and on near black
_COLOURS = {"inkwell": "#d9622b", "transformers": "#3f8fd2", "litgpt": "#2f9e6e"}


def race_picture(curves: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """Held-out bits per character over wall seconds; a cold cache is dashed, runs of which only the end counts are dots."""
    figure, axes = _figure()
    for name, points in curves.items():
        colour = next((c for who, c in _COLOURS.items() if name.lower().startswith(who)), _INK)
        cold = "cold" in name
        axes.plot(
            [moment / 60 for moment, _ in points],
            [bits for _, bits in points],
            "D" if "planned" in name else "o--" if cold else "o-",
            color=colour,
            alpha=0.6 if cold else 1.0,
            markersize=3,
            label=name,
        )
    axes.set_xlabel("minutes since the command started")
    axes.set_ylabel("held-out bits a character")
    axes.legend(frameon=False, labelcolor=_INK)
    _save(figure, path)


def scaling_picture(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Tokens a second and peak memory by parameters, both axes logarithmic."""
    figure, axes = _figure()
    sizes = [row["parameters"] / 1e6 for row in rows]
    axes.plot(sizes, [row["tokens_per_second"] for row in rows], "o-", color=_COLOURS["inkwell"])
    axes.set_ylabel("tokens a second", color=_COLOURS["inkwell"])
    memory = axes.twinx()
    memory.plot(sizes, [row["peak_gib"] for row in rows], "s--", color=_COLOURS["transformers"])
    memory.set_ylabel("peak memory, GiB", color=_COLOURS["transformers"])
    for one in (axes, memory):
        one.set_xscale("log")
        one.set_yscale("log")
        _plain(one)
    axes.set_xlabel("million parameters")
    ticks = {"ticks": sizes, "labels": [f"{size:.0f}" for size in sizes]}
    axes.set_xticks(**ticks)
    axes.set_xticks([], minor=True)
    _save(figure, path)


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    _plain(axes)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    return figure, axes


def _plain(axes: Axes) -> None:
    from matplotlib.ticker import ScalarFormatter

    axes.patch.set_alpha(0)
    axes.tick_params(which="both", color=_INK, labelcolor=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(axes.yaxis.label.get_color() if axes.get_ylabel() else _INK)
    for side in axes.spines.values():
        side.set_color(_INK)
    if axes.get_yscale() == "log":
        for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            ticks(ScalarFormatter())


def _save(figure: Figure, path: Path) -> None:
    import matplotlib

    settings: dict[str, Any] = {
        "svg.hashsalt": "inkwell",
        "svg.fonttype": "path",
    }  # the same bytes for the same figures
    with matplotlib.rc_context(settings), atomic_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, transparent=True)
