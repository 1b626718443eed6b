"""The evidence of a promotion for people: one offline page, Markdown for Prefect, JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.experiments.findings import Picture, Table, markdown, write_findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flows.promotion.decision import Decision, Task

_NAMES = {
    "bits_per_char": "bits per character",
    "next_line": "next-line choice",
    "title_overlap": "title recall",
    "form": "form of lines",
    "line_count": "number of lines",
}


def write_pages(stem: Path, decision: Decision) -> None:
    """Write `stem`.json, `stem`.md and `stem`.html."""
    title, said, details = _words(decision)
    pictures = [_gains(decision.tasks)] if any(task.judged for task in decision.tasks) else []
    write_findings(stem, title, said, details, _tables(decision), pictures, decision.described())


def as_markdown(decision: Decision) -> str:
    """The same as Markdown, without the picture."""
    title, said, details = _words(decision)
    return markdown(title, said, details, _tables(decision))


def _words(decision: Decision) -> tuple[str, str, str]:
    number = decision.challenger["version"]
    title = f"Version {number} of {decision.settings['registered_model']}: {'promoted' if decision.promoted else 'not promoted'}"
    details = f"Decided by {decision.by} at {decision.at}. "
    if decision.champion:
        details += f"The champion before was version {decision.champion['version']}. "
    if decision.held_out:
        both, theirs, mine = (decision.held_out[name] for name in ("both", "champion", "challenger"))
        same = theirs == mine == both
        details += (
            f"Both hold out the same {both:,} documents. "
            if same
            else f"The corpus has changed: the champion holds out {theirs:,} documents, the challenger {mine:,}; judged on the {both:,} that both hold out. "
        )
        details += f"Bits per character are computed anew on {decision.held_out['scored']:,} of them; the other tasks are those of the evaluation, asked of both in the same words."
    return title, f"{decision.reason[:1].upper()}{decision.reason[1:]}.", details


def _tables(decision: Decision) -> list[Table]:
    tables = []
    if decision.tasks:
        rows = [
            [
                _NAMES.get(task.task, task.task),
                f"{task.champion:.4f}",
                f"{task.challenger:.4f}",
                f"{task.gain:+.4f}" if task.judged else "–",
                f"{task.low:+.4f} to {task.high:+.4f}" if task.judged else "–",
                f"{task.adjusted:.2g}" if task.judged else "–",
                f"−{task.bound:g}",
                f"{task.documents:,} ({task.differing:,} differ)",
                _outcome(task, decision.settings["error_rate"]),
            ]
            for task in decision.tasks
        ]
        columns = ("task", "champion", "challenger", "gain", "95 % interval", "p (Holm)", "bound", "documents", "")
        tables.append(Table("Tasks: the same questions to both", columns, rows))
    tables.append(
        Table(
            "What has to hold besides",
            ("check", "", "found"),
            [[check.name, "holds" if check.holds else "fails", check.told] for check in decision.checks],
        )
    )
    for role, about in (("challenger", decision.challenger), ("champion before", decision.champion)):
        if about:
            rows = [[name, f"{one['bytes']:,}", str(one["sha256"])] for name, one in about["files"].items()]
            tables.append(Table(f"Files of the {role}", ("file", "bytes", "sha256"), rows))
    settings = [[name, _shown(value)] for name, value in decision.settings.items()]
    tables.append(Table("Decided with", ("parameter", "value"), settings))
    return tables


def _shown(value: Any) -> str:
    return ", ".join(f"{name} {bound:g}" for name, bound in value.items()) if isinstance(value, dict) else str(value)


def _outcome(task: Task, error_rate: float) -> str:
    if not task.judged:
        return "too few documents in common"
    if task.regressed():
        return "worse past the bound"
    return "better" if task.gain > 0 and task.adjusted <= error_rate else "within the noise"


def _gains(tasks: list[Task]) -> Picture:
    """Each gain with its interval, in units of the task's bound: left of -1 is a regression."""
    from components.report.pictures import ACCENT, INK, MUTED, picture

    shown = [task for task in tasks if task.judged]

    def draw(axes: Axes) -> None:
        for place, task in enumerate(shown):
            unit = task.bound or 1.0
            axes.plot([task.low / unit, task.high / unit], [place, place], "-", color=MUTED, linewidth=2)
            axes.plot([task.gain / unit], [place], "o", color=ACCENT, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.axvline(-1, color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(shown)), [_NAMES.get(task.task, task.task) for task in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("gain in units of the bound; a regression left of -1")
        axes.tick_params(length=0)
        axes.margins(x=0.08)

    told = "; ".join(f"{task.task}: {task.gain:+.4f} ({task.low:+.4f} to {task.high:+.4f})" for task in shown)
    return Picture(
        "How much better the challenger is, with 95 % intervals", picture("gains", told, draw, 0.9 + 0.4 * len(shown))
    )
