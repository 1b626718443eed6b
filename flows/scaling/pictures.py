"""Pictures of a scaling law: loss against compute, isoFLOP curves, residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.experiments.findings import Picture
from flows.scaling.law import Fit, best_at, operations, tokens_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from components.scaling import Run

_SHADES = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)


def pictures(found: Fit, rows: Sequence[Mapping[str, Any]], kept_back: Run) -> list[Picture]:
    """The three pictures of the page."""
    from components.report.pictures import picture

    told = "; ".join(f"{row['size']}, {row['tokens']:,} tokens: {row['loss']:.3f}" for row in rows)
    return [
        Picture(
            "Loss against compute: a dot a run, darker for larger sizes, and the law for each size; the diamond was held back, the bar is its predicted band",
            picture("compute", told, _compute(found, rows, kept_back), height=3.2),
        ),
        Picture(
            "The law where size and tokens share the same operations (told at each curve), with its 95 % band; the dot is the best size",
            picture("isoflop", told, _isoflop(found, rows, kept_back), height=3.2),
        ),
        Picture(
            "Measured less the law, nats a token: what is left should have no shape",
            picture("residuals", told, _residuals(found, rows, kept_back), height=2.8),
        ),
    ]


def _compute(found: Fit, rows: Sequence[Mapping[str, Any]], kept_back: Run) -> Any:
    from components.report.pictures import ACCENT, INK, MUTED

    def draw(axes: Axes) -> None:
        sizes = list(dict.fromkeys(row["size"] for row in rows))
        for place, size in enumerate(sizes):
            of = sorted((row for row in rows if row["size"] == size), key=lambda row: row["tokens"])
            parameters = of[0]["parameters"]
            first, last = of[0]["tokens"] / 1.5, of[-1]["tokens"] * 1.5
            tokens = [first * (last / first) ** (step / 40) for step in range(41)]
            shade = _SHADES[min(place, len(_SHADES) - 1)]
            axes.plot(
                [operations(parameters, d) for d in tokens],
                [found.law.loss(parameters, d, kept_back.unique) for d in tokens],
                color=MUTED,
                alpha=shade,
                linewidth=1,
            )
            axes.plot(
                [operations(parameters, row["tokens"]) for row in of],
                [row["loss"] for row in of],
                "o",
                color=INK,
                alpha=shade,
                markersize=4,
            )
            axes.annotate(
                size, (operations(parameters, of[0]["tokens"]), of[0]["loss"]), xytext=(-4, 5),
                textcoords="offset points", ha="right", fontsize=8, color=MUTED,
            )  # fmt: skip
        band = found.predicted(kept_back.parameters, kept_back.tokens, kept_back.unique)
        at = operations(kept_back.parameters, kept_back.tokens)
        axes.plot([at, at], [band.low, band.high], color=ACCENT, linewidth=1.4)
        axes.plot([at], [band.value], "_", color=ACCENT, markersize=12)
        axes.plot([at], [kept_back.loss], "D", color=ACCENT, markersize=5)
        axes.annotate("held back", (at, kept_back.loss), xytext=(-7, 8), textcoords="offset points", ha="right", color=ACCENT, fontsize=9)  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("operations (6 × parameters × tokens)")
        axes.set_ylabel("nats a token")
        axes.grid(axis="y")
        axes.margins(x=0.1)

    return draw


def _isoflop(found: Fit, rows: Sequence[Mapping[str, Any]], kept_back: Run) -> Any:
    from components.report.pictures import ACCENT, MUTED

    def draw(axes: Axes) -> None:
        spent = sorted(operations(row["parameters"], row["tokens"]) for row in rows)
        most = operations(kept_back.parameters, kept_back.tokens)
        smallest = min(row["parameters"] for row in rows) / 2
        largest = kept_back.parameters * 2
        budgets = [spent[0], spent[len(spent) // 2], spent[-1], most]
        for place, budget in enumerate(budgets):
            sizes = [smallest * (largest / smallest) ** (step / 50) for step in range(51)]
            curve = [found.mean(size, tokens_for(budget, size), kept_back.unique) for size in sizes]
            shade = 0.4 + 0.2 * place
            axes.fill_between(
                sizes, [b.low for b in curve], [b.high for b in curve], color=MUTED, alpha=0.15, linewidth=0
            )
            axes.plot(sizes, [band.value for band in curve], color=MUTED, alpha=min(1.0, shade))
            size, loss = best_at(found.law, budget, kept_back.unique, smallest, largest)
            axes.plot([size], [loss], "o", color=ACCENT, markersize=5)
            axes.annotate(f"{budget:.0e}", (sizes[-1], curve[-1].value), xytext=(3, 0), textcoords="offset points", fontsize=8, va="center", color=MUTED)  # fmt: skip
        lowest = min(row["loss"] for row in rows)
        axes.set_ylim(min(lowest, kept_back.loss) - 0.5, max(row["loss"] for row in rows) + 0.8)
        axes.set_xscale("log")
        axes.set_xlabel("parameters")
        axes.set_ylabel("nats a token")
        axes.grid(axis="y")
        axes.margins(x=0.1)

    return draw


def _residuals(found: Fit, rows: Sequence[Mapping[str, Any]], kept_back: Run) -> Any:
    from components.report.pictures import ACCENT, INK, MUTED

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.plot(
            [operations(row["parameters"], row["tokens"]) for row in rows],
            [row["residual"] for row in rows],
            "o",
            color=INK,
            markersize=4,
        )
        band = found.predicted(kept_back.parameters, kept_back.tokens, kept_back.unique)
        at = operations(kept_back.parameters, kept_back.tokens)
        axes.plot([at, at], [band.low - band.value, band.high - band.value], color=ACCENT, linewidth=1.4)
        axes.plot([at], [kept_back.loss - band.value], "D", color=ACCENT, markersize=5, label="held back, and its band")
        axes.set_xscale("log")
        axes.set_xlabel("operations")
        axes.set_ylabel("nats a token")
        axes.legend(loc="best")
        axes.margins(x=0.1, y=0.25)

    return draw
