"""What a sweep found: a page, a table in Markdown and JSON; best first, failures with their reasons."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.experiments.findings import Picture, Table, write_findings
from flows.revisions import Revision
from flows.sweep.trials import Plan, Range, Trial, importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN_CURVES = 12


def write(plan: Plan, trials: Sequence[Trial]) -> dict[str, Any]:
    """Write `sweep.{json,md,html}` into the sweep's folder and return what the JSON holds."""
    best = plan.best(trials)
    failed = sum(trial.state == "failed" for trial in trials)
    shares = importance(plan, trials)
    outcome: dict[str, Any] = {
        "sweep": plan.name,
        "objective": plan.objective,
        "maximize": plan.maximize,
        "commit": plan.baseline,
        "space": {key: asdict(v) if isinstance(v, Range) else v for key, v in plan.space.items()},
        "verdict": verdict(plan, trials, best, shares),
        "best": {"experiment": best.name, "values": best.values, "objective": best.objective} if best else None,
        "failed": failed,
        "importance": shares,
        "trials": [asdict(trial) for trial in trials],
    }
    write_findings(
        plan.place / "sweep",
        f"Sweep {plan.name}",
        outcome["verdict"],
        f"{len(trials)} trials of {plan.objective} ({'more' if plan.maximize else 'less'} is better), {failed} failed; each is a DVC experiment: "
        "`dvc exp apply NAME` brings one into the checkout.",
        tables(plan, trials, shares),
        pictures(plan, trials),
        outcome,
    )
    return outcome


def verdict(plan: Plan, trials: Sequence[Trial], best: Trial | None, shares: Mapping[str, float]) -> str:
    """One or two sentences."""
    if best is None or best.objective is None:
        return f"No trial was finished; the last one said: {trials[-1].note if trials else 'nothing'}"
    values = ", ".join(f"{key} = {value}" for key, value in best.values.items())
    said = f"Best is {values}, with {best.objective:.5g}."
    if shares:
        key, share = next(iter(shares.items()))
        said += f" Of the differences, {share:.0%} are due to {key}."
    edges = [
        key
        for key, value in best.values.items()
        if len({json.dumps(t.values[key]) for t in trials}) > 1 and _at_the_edge(plan.space[key], value)
    ]
    if edges:
        said += f" It lies at the edge of {' and '.join(edges)}: what is beyond was not tried."
    return said


def _at_the_edge(values: Range | list[Any], value: Any) -> bool:
    if isinstance(values, Range):
        return bool(value in (values.low, values.high))
    if len(values) < 3 or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return False
    return bool(value in (min(values), max(values)))


def tables(plan: Plan, trials: Sequence[Trial], shares: Mapping[str, float]) -> list[Table]:
    """Trials from the best to the worst, what failed, and what matters."""
    sign = -1 if plan.maximize else 1
    finished = sorted((t for t in trials if t.objective is not None), key=lambda t: sign * (t.objective or 0.0))
    keys = list(plan.space)
    found = [
        Table(
            "Trials, the best first",
            ["experiment", *keys, plan.objective, "seconds"],
            [
                [t.name, *(_shown(t.values[key]) for key in keys), f"{t.objective:.5g}", f"{t.seconds:.0f}"]
                for t in finished
            ],
        )
    ]
    if shares:
        found.append(
            Table(
                "What the differences are due to (functional analysis of variance)",
                ["parameter", "share"],
                [[key, f"{share:.1%}"] for key, share in shares.items()],
            )
        )
    failed = [t for t in trials if t.state == "failed"]
    if failed:
        rows = [[t.name, *(_shown(t.values[key]) for key in keys), t.note] for t in failed]
        found.append(Table("Trials that failed", ["experiment", *keys, "why"], rows))
    return found


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pictures(plan: Plan, trials: Sequence[Trial]) -> list[Picture]:
    """The objective over the trials, over each parameter, and the learning curves."""
    from components.report.pictures import ACCENT, MUTED, PLAIN, picture

    finished = [trial for trial in trials if trial.objective is not None]
    best = plan.best(trials)
    if best is None:
        return []
    found = []

    def course(axes: Axes) -> None:
        values = [trial.objective or 0.0 for trial in finished]
        pick = max if plan.maximize else min
        reached = [pick(values[: place + 1]) for place in range(len(values))]
        axes.plot([t.number + 1 for t in finished], values, "o", color=MUTED, markersize=4)
        axes.step([t.number + 1 for t in finished], reached, where="post", color=ACCENT)
        axes.set_xlabel("trial")
        axes.set_ylabel(plan.metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")

    told = "; ".join(f"{t.number + 1}: {t.objective:.5g}" for t in finished)
    found.append(Picture("Each trial, and the best so far", picture("course", told, course)))
    for key in plan.space:
        if len({json.dumps(trial.values[key]) for trial in finished}) > 1:
            found.append(Picture(f"By {key}", picture(f"by-{key}", told, _slice(plan, finished, best, key))))
    curves = {trial.name: curve for trial in finished if (curve := _curve(plan, trial))}
    if curves:

        def learning(axes: Axes) -> None:
            ranked = sorted(curves, key=lambda name: next(t.objective or 0.0 for t in finished if t.name == name))
            for name in (ranked[::-1] if plan.maximize else ranked)[:_SHOWN_CURVES][::-1]:
                points = curves[name]
                first = name == best.name
                axes.plot(*zip(*points, strict=True), color=ACCENT if first else PLAIN, linewidth=1.8 if first else 1.0)
            axes.set_xlabel("step")
            axes.set_ylabel("validation, bits a character")
            axes.grid(axis="y")

        found.append(
            Picture("Learning curves, that of the best marked", picture("learning", "Learning curves", learning))
        )
    return found


def _slice(plan: Plan, finished: Sequence[Trial], best: Trial, key: str) -> Any:
    from components.report.pictures import ACCENT, MUTED

    space = plan.space[key]
    numbers = isinstance(space, Range) or all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in space
    )

    def draw(axes: Axes) -> None:
        names = [] if isinstance(space, Range) else [_shown(value) for value in space]
        for trial in [t for t in finished if t is not best] + [best]:
            value = trial.values[key]
            place = value if numbers else names.index(_shown(value))
            axes.plot([place], [trial.objective or 0.0], "o", color=ACCENT if trial is best else MUTED, markersize=5)
        if not numbers:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif _logarithmic(space):
            axes.set_xscale("log")
        axes.set_xlabel(key)
        axes.set_ylabel(plan.metric)
        axes.grid(axis="y")
        axes.margins(x=0.08, y=0.12)

    return draw


def _logarithmic(space: Range | list[Any]) -> bool:
    if isinstance(space, Range):
        return space.log
    return bool(min(space) > 0 and max(space) / min(space) > 8)


def _curve(plan: Plan, trial: Trial) -> list[tuple[float, float]]:
    """(step, validation) of a trial that left a curve; empty where it has none."""
    written = Revision(plan.folder, trial.commit).read(f"data/curves/{plan.stage}.csv")
    if not written:
        return []
    rows = list(csv.DictReader(io.StringIO(written.decode("utf-8"))))
    column = next(
        (name for name in ("validation_bits_per_char", "validation_loss", "loss") if rows and name in rows[0]), None
    )
    if column is None:
        return []
    return [(float(row["step"]), float(row[column])) for row in rows if row[column]]
