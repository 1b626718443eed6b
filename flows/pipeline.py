"""The pipeline under Prefect: a task a stage, over the graph that DVC holds.

python -m flows.pipeline                       what is out of date, without a server of its own
python -m flows.pipeline --targets export      these and what they need
python -m flows.pipeline --downstream sft       these and what needs them
python -m flows.pipeline --plan                what would run, and why
python -m flows.pipeline --placement isolated --remote store     each stage in a clone, results by way of a DVC remote
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import InkwellError

_REFUSED = {
    "the flow runs each stage by itself (`dvc repro --single-item`) and walks the graph; name stages with --targets or --downstream": (
        "-s",
        "--single-item",
        "-p",
        "--pipeline",
        "-P",
        "--all-pipelines",
        "-R",
        "--recursive",
        "--force-downstream",
        "--glob",
    ),
    "the flow decides itself what a failure stops: stages that do not need the failed one still run": (
        "-k",
        "--keep-going",
        "--ignore-errors",
    ),
    "use --plan": ("--dry", "--dry-run"),
    "nobody is there to answer": ("-i", "--interactive"),
    "an outcome that DVC does not record would run again in the next stage": ("--no-commit", "--no-run-cache"),
}


def set_environment() -> None:
    """Settings of Prefect that have to stand before it is imported; what the user has set wins."""
    from components.step import quiet_environment

    quiet_environment()
    for name, value in {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 by default, and it takes 11 to 18
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # a killed flow is seen by the server
        # In memory, by default: a server that is killed then forgets who holds a slot, and nobody ever gets it again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }.items():
        os.environ.setdefault(name, value)


def refuse(flags: Sequence[str]) -> None:
    """Raise InkwellError for flags that this command does not know, with the reason where they are DVC's."""
    for flag in flags:
        name = flag.partition("=")[0]
        for reason, names in _REFUSED.items():
            if name in names:
                raise InkwellError(f"{flag} is not for the flow: {reason}.")
        raise InkwellError(f"unknown argument {flag!r}: `python -m flows.pipeline --help` lists what there is.")


def plan(workspace: Path, targets: Sequence[str], force: bool, downstream: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(stage, why it would run), in order; "" for a stage that would be left as it is."""
    from components.step import quiet_environment
    from flows.orchestration.graph import read_changes

    quiet_environment()
    os.environ["DVC_NO_ANALYTICS"] = "1"
    stages, status = read_changes(workspace, targets, downstream)
    found: dict[str, str] = {}
    for stage in stages:
        before = [name for name in stage.upstream if found.get(name)]
        if force:
            found[stage.name] = "forced"
        elif stage.name in status:
            found[stage.name] = _why(status[stage.name])
        else:
            found[stage.name] = f"after {', '.join(before)}" if before else ""
    return list(found.items())


def _why(changes: Sequence[object]) -> str:
    reasons = []
    for change in changes:
        if not isinstance(change, dict):
            reasons.append(str(change))
            continue
        for kind, entries in change.items():
            for name, state in entries.items():
                # Parameters come as {file: {parameter: state}}, files as {path: state}.
                reasons += (
                    [f"{part} {how}" for part, how in state.items()] if isinstance(state, dict) else [f"{name} {state}"]
                )
            if not entries:
                reasons.append(str(kind))
    shown = reasons[:4] + ([f"and {len(reasons) - 4} more"] if len(reasons) > 4 else [])
    return ", ".join(shown)


def placement_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the placement, as `flows.orchestration.running.placed` reads it; InkwellError for what does not fit."""
    settings = {
        "remote": arguments.remote,
        "allow_dirty": arguments.allow_dirty,
        "repository": arguments.repository,
        "scratch": arguments.scratch,
        "launchers": arguments.launch,
    }
    given = {name: value for name, value in settings.items() if value}
    if arguments.placement == "workspace":
        if given:
            flag = {"launchers": "launch"}.get(next(iter(given)), next(iter(given))).replace("_", "-")
            raise InkwellError(f"--{flag} is for --placement isolated.")
        return {"kind": "workspace"}
    if not arguments.remote:
        raise InkwellError("--placement isolated needs --remote: a name of `dvc remote list`, or an address.")
    launchers = {}
    for launch in arguments.launch:
        pool, equals, command = launch.partition("=")
        # `srun --gres=gpu:1` has an equals sign and names no pool.
        named = bool(equals) and pool.replace("-", "").replace("_", "").isalnum()
        launchers[pool if named else ""] = command if named else launch
    return {"kind": "isolated", **given, **({"launchers": launchers} if launchers else {})}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when every stage is up to date, 1 when one failed, 2 for something to mend."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--targets", nargs="+", default=[], metavar="STAGE", help="these stages and what they need (default: all)"
    )
    parser.add_argument(
        "--downstream", nargs="+", default=[], metavar="STAGE", help="only these stages and what needs them"
    )
    parser.add_argument("--force", action="store_true", help="run them even where nothing changed")
    parser.add_argument("--plan", action="store_true", help="print what would run and why, and end")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument(
        "--workers", type=int, default=4, help="stages at a time, where the graph allows (default: %(default)s)"
    )
    elsewhere = parser.add_argument_group("placement", "where stages run: docs/placement.md")
    elsewhere.add_argument(
        "--placement",
        choices=("workspace", "isolated"),
        default="workspace",
        help="workspace: in this checkout; isolated: each stage in a clone at a commit (default: %(default)s)",
    )
    elsewhere.add_argument("--remote", help="isolated: the DVC remote to meet at, by name or address")
    elsewhere.add_argument(
        "--allow-dirty",
        action="store_true",
        help="isolated: run a snapshot of a tree with changes that are in no commit",
    )
    elsewhere.add_argument(
        "--repository", help="isolated: path or address that workers clone from (default: the workspace)"
    )
    elsewhere.add_argument("--scratch", help="isolated: where workers make clones (default: .inkwell/workers)")
    elsewhere.add_argument(
        "--launch",
        action="append",
        default=[],
        metavar="[POOL=]COMMAND",
        help="isolated: what starts a worker, such as 'srun' or gpu='sbatch --wait ...'; may be given again, once a pool",
    )
    arguments, rest = parser.parse_known_args(argv)
    try:
        refuse(rest)
        placement = placement_of(arguments)
        if arguments.workers < 1:
            raise InkwellError("--workers has to be at least 1.")
        if arguments.plan:
            planned = plan(arguments.workspace, arguments.targets, arguments.force, arguments.downstream)
            width = max(len(name) for name, _ in planned)
            for name, why in planned:
                print(f"{name:<{width}}  {'run: ' + why if why else 'unchanged'}")
            return 0
        from flows.orchestration.graph import read_stages
        from flows.placement.described import placed

        # Mistakes are told before a server starts.
        stages = read_stages(arguments.workspace, arguments.targets, arguments.downstream)
        placed(arguments.workspace, placement).check(stages)
        set_environment()
        from flows.orchestration.running import run_pipeline
        from flows.processes import terminating

        with terminating():
            outcomes = run_pipeline(
                arguments.workspace,
                arguments.targets,
                arguments.force,
                arguments.workers,
                arguments.downstream,
                placement,
            )
    except InkwellError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pipeline: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print()
    width = max(len(outcome.stage) for outcome in outcomes)
    for outcome in outcomes:
        print(f"{outcome.stage:<{width}}  {outcome.state:<9}  {outcome.seconds:8.1f} s  {outcome.note}".rstrip())
    return 1 if any(outcome.state in ("failed", "skipped") for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
