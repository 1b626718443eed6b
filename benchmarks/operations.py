"""The bars of operations: `python -m benchmarks.operations`; its last line is one JSON object.

    noop     the finished pipeline again: `dvc repro`, the plan, and what the flow adds a stage with a running server
    pages    report, comparison and lineage over a registry of 500 runs and 100 versions
    screens  MLflow, Prefect and our pages in a browser without a network; pictures of them go to --pictures
    chaos    seeded runs in each of which something breaks; all must end finished with the undisturbed run's bytes (docs/chaos.md)

`--only` runs some of them. A figure that is not under its bar (BARS) is told, and counted in `bars_missed`. Everything happens in `--workspace`, through the command lines that a user has; `noop` and `pages` read
what --finished names and measure in a copy of it, `screens` works in it: it judges its model and runs its pipeline. Finished parts and finished runs of the
chaos are kept, as long as the code is what it was: killed and started again, it goes on; `--fresh` forgets them. Run `noop` and `pages` on a quiet
machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.browser import chromium
from benchmarks.chaos import series
from benchmarks.chaos.faults import FAULTS
from benchmarks.commands import seconds_of
from benchmarks.parts import Parts, digest
from components.errors import InkwellError
from flows.processes import environment, terminating

PARTS = ("noop", "pages", "screens", "chaos")
# What each figure has to stay under.
BARS: Mapping[str, float] = {
    "noop_seconds": 3.0,
    "plan_seconds": 2.0,
    "flow_seconds_per_stage": 1.5,
    "report_seconds": 2.0,
    "compare_seconds": 2.0,
    "compare_workspaces_seconds": 2.0,
    "lineage_back_seconds": 2.0,
    "lineage_forward_seconds": 2.0,
    "screens_missing": 1,
    "chaos_lost": 1,
    "chaos_missed": 1,
}
_REPEATED = 3
_CODE = ("flows", "components", "conf", "dvc.yaml", "benchmarks/chaos", "benchmarks/operations.py")
# What belongs to one part only; the chaos has a list of its own, so that a change here does not cost a night.
_MORE = {
    "noop": ("benchmarks/commands.py", "benchmarks/finished.py"),
    "pages": ("benchmarks/commands.py", "benchmarks/registry_pages.py"),
}


def finished_workspace(folder: Path, given: Path | None) -> Path:
    """A workspace in which everything has run and is recorded: the `given` one, else one in smoke size in `folder`, made where it is not there."""
    from flows.workspace import make_workspace

    if given is not None:
        if not (given / "dvc.lock").exists():
            raise InkwellError(f"--finished {given}: nothing has run there (dvc.lock is missing).")
        return given.resolve()
    finished = folder / "smoke"
    make_workspace(finished, ["corpus=tang", "size=smoke"])
    print("  running the pipeline in smoke size, as far as it is out of date", flush=True)
    seconds_of([sys.executable, "-m", "flows.run"], finished, environment())
    return finished.resolve()


def noop(folder: Path, finished: Path) -> dict[str, Any]:
    """Seconds of a pipeline in which nothing is to do, and of one whose outputs are gone and come back from the cache.

    Measured in a copy of `finished`, of which nothing is changed; InkwellError where it is not finished or its cache is not whole. Medians of
    three, in turns, after one turn that is not counted. What the flow adds a stage is told for both, and `flow_seconds_per_stage`, which
    has the bar, is the larger one: with nothing to do the flow asks DVC once for all stages, which by itself would flatter it.
    """
    from benchmarks.chaos.services import prefect_server
    from benchmarks.finished import copy_finished
    from flows.orchestration.graph import read_stages

    copied = copy_finished(finished, (folder / "noop").resolve())
    stages = len(read_stages(copied))
    service, address = prefect_server((folder / "server").resolve())
    env = {**environment(), "PREFECT_API_URL": address}
    commands = {
        "noop": [sys.executable, "-m", "dvc", "repro"],
        "plan": [sys.executable, "-m", "flows.pipeline", "--plan"],
        "flow_noop": [sys.executable, "-m", "flows.pipeline"],
        "restoring": [sys.executable, "-m", "dvc", "repro"],
        "flow_restoring": [sys.executable, "-m", "flows.pipeline"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    service.start()
    try:
        for turn in range(_REPEATED + 1):
            for name, command in commands.items():
                if "restoring" in name:
                    _clear(copied)
                seconds = seconds_of(command, copied, env)
                if turn:
                    taken[name].append(seconds)
    finally:
        service.stop()
        shutil.rmtree(copied, ignore_errors=True)
    middle = {name: statistics.median(values) for name, values in taken.items()}
    added = {name: (middle[f"flow_{name}"] - middle[name]) / stages for name in ("noop", "restoring")}
    found = {
        **{f"{name}_seconds": seconds for name, seconds in middle.items()},
        **{f"flow_{name}_seconds_per_stage": seconds for name, seconds in added.items()},
        "flow_seconds_per_stage": max(added.values()),
    }
    return {"stages": stages, **{name: round(seconds, 3) for name, seconds in found.items()}}


def _clear(workspace: Path) -> None:
    """Delete what DVC restores."""
    from benchmarks.finished import restorable

    for output in (name for outputs in restorable(workspace).values() for name in outputs):
        path = workspace / output
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def missed(figures: Mapping[str, float]) -> list[str]:
    """What is not under its bar, a sentence each."""
    return [
        f"{name} is {figures[name]:g} and has to be under {bound:g}"
        for name, bound in BARS.items()
        if name in figures and not figures[name] < bound
    ]


@terminating()
def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when every figure is under its bar, 1 when one is not, 2 for something to mend."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas (default: %(default)s)")
    parser.add_argument("--workspace", type=Path, default=Path(".operations"), help="default: %(default)s")
    parser.add_argument(
        "--finished",
        type=Path,
        help="noop, pages, screens: a workspace in which everything has run; noop and pages only read it, screens judges "
        "its model with flows.promote (default: one in smoke size is made)",
    )
    parser.add_argument(
        "--pictures", type=Path, help="screens: where the pictures go (default: `pictures` in the workspace)"
    )
    parser.add_argument("--runs", type=int, default=50, help="chaos: how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="chaos: default %(default)s")
    parser.add_argument("--faults", default=",".join(FAULTS), help="chaos: which (default: %(default)s)")
    parser.add_argument(
        "--smoke-every",
        type=int,
        default=10,
        help="chaos: every how many runs one in smoke size; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--again",
        default="",
        metavar="NAMES",
        help="chaos: finished runs to run again, with commas: run-017, or `lost` for all that are lost",
    )
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    arguments = parser.parse_args(argv)
    try:
        only, kinds = arguments.only.split(","), arguments.faults.split(",")
        for name, chosen, known in (("only", only, PARTS), ("faults", kinds, FAULTS)):
            for unknown in [one for one in chosen if one not in known]:
                raise InkwellError(f"--{name} {unknown}: known are {', '.join(known)}.")
        if arguments.runs < 1 or arguments.smoke_every < 0:
            raise InkwellError("--runs has to be at least 1, --smoke-every at least 0.")
        if "screens" in only:
            chromium()  # told now, and not when the other parts have been measured
        folder = arguments.workspace.resolve()
        if "chaos" in only:
            series.check(kinds, folder / "chaos")
        found: dict[str, Any] = {}
        for name in [part for part in PARTS if part in only and part != "chaos"]:
            print(name, flush=True)
            measured = partial(_measured, name, folder, arguments.finished, arguments.pictures)
            if name == "screens":  # always anew: its pictures are wanted where --pictures says now
                found |= measured()
                continue
            of = (arguments.finished or folder / "smoke").resolve()
            state = digest([*_CODE, *_MORE.get(name, ())], str(of))
            found |= Parts(folder / "parts", {"finished": of.name}, state, arguments.fresh).done(name, measured)
        if "chaos" in only:
            print("chaos", flush=True)
            setting = {"seed": arguments.seed, "faults": "+".join(kinds), "smoke": arguments.smoke_every}
            parts = Parts(folder / "parts", setting, digest(series.CODE), arguments.fresh)
            series.forget(parts, [name for name in arguments.again.split(",") if name])
            found |= series.chaos(parts, folder, arguments.runs, arguments.seed, kinds, arguments.smoke_every)
    except InkwellError as error:
        print(f"operations: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("operations: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    beyond = missed(found)
    for why in beyond:
        print(f"  {why}", flush=True)
    print(json.dumps({**found, "bars_missed": len(beyond)}))
    return 1 if beyond else 0


def _measured(name: str, folder: Path, given: Path | None, pictures: Path | None) -> dict[str, Any]:
    """One of the parts that look at a finished workspace."""
    finished = finished_workspace(folder, given)
    if name == "pages":
        from benchmarks.registry_pages import measure as measure_pages

        return dict(measure_pages(finished, folder / "pages"))
    if name == "screens":
        from benchmarks.screens import measure as measure_screens

        return dict(measure_screens(finished, folder / "screens", (pictures or folder / "pictures").resolve()))
    return noop(folder, finished)


if __name__ == "__main__":
    sys.exit(main())
