"""Retrain when the corpus has changed, and promote what comes out if it is better.

    python -m flows.retrain                   look, train, judge
    python -m flows.retrain --when always     whatever is out of date, also on the same corpus
    python -m flows.retrain --plan            what it would do, and why

Exit status: 0 promoted, or nothing to do; 3 the champion stays; 1 a stage failed; 2 something to mend.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Configuration

WHEN = ("changed", "drifted", "always")
_LOOKED_AT = "validate"  # the last stage that knows the corpus and no model


def lock_of(workspace: Path) -> Path:
    """The file that a retraining holds; the lock ends with its process, however that ends."""
    path = workspace / ".inkwell" / "retrain.lock"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def unpinned(configuration: Configuration) -> list[str]:
    """Names of sources that may change although params.yaml does not: DVC cannot see that, ingest has to look."""
    return [source.name for source in configuration.ingest.sources if source.sha256 is None]


def why(workspace: Path, when: str | None, run: Callable[[Sequence[str], bool], object]) -> str:
    """Why to retrain, "" where there is no reason; `run(targets, force)` brings stages up to date.

    Sources that are not pinned by hash are read anew. ingest writes the same bytes for the same sources, so that nothing
    behind it runs where nothing has changed.
    """
    from components.configuration import load
    from flows.drift import changes
    from flows.promotion.registry import CHAMPION, Registry

    configuration = load(workspace / "params.yaml")
    when = when or configuration.retraining.when
    if when not in WHEN:
        raise InkwellError(f"when = {when!r} is not known: take one of {', '.join(WHEN)}.")
    champion = Registry(workspace).holder(CHAMPION)  # a registry that is away is told before hours of training
    if unpinned(configuration):
        run(["ingest"], True)
    run([_LOOKED_AT], False)
    found = changes(workspace, champion)
    counted = found if champion is None or when != "drifted" else [change for change in found if change.far]
    if counted:
        return "the corpus has changed: " + "; ".join(change.told for change in counted[:5])
    return "on schedule" if when == "always" else ""


def plan(workspace: Path, when: str | None) -> list[str]:
    """What a retraining would do, in sentences; nothing is run."""
    from components.configuration import load
    from components.tracking.delivery import exclusive
    from flows import pipeline
    from flows.drift import changes
    from flows.promotion.registry import CHAMPION, Registry

    configuration = load(workspace / "params.yaml")
    when = when or configuration.retraining.when
    champion = Registry(workspace).holder(CHAMPION)
    said = []
    with exclusive(lock_of(workspace)) as mine:
        if not mine:
            said.append("Another retraining works here: this one would be refused.")
    said.append(f"Champion: version {champion.number}." if champion else "There is no champion yet.")
    free = unpinned(configuration)
    if free:
        said.append(f"Would read again, as they are not pinned by sha256: {', '.join(free)}.")
    waiting = [f"{name} ({why})" for name, why in pipeline.plan(workspace, [_LOOKED_AT], False) if why]
    if waiting:
        said.append(f"Would run to see the corpus: {'; '.join(waiting)}.")
    else:
        found = changes(workspace, champion)
        if not found:
            said.append("The corpus as last read is the champion's.")
        for change in found:
            said.append(f"Changed: {change.told}{' (further than validate.drift allows)' if change.far else ''}.")
    rest = [name for name, why in pipeline.plan(workspace, [], False) if why]
    said.append(f"Out of date now: {', '.join(rest) or 'nothing'}.")
    trains = {"always": "in any case", "changed": "if the corpus has changed", "drifted": "if the corpus has drifted"}
    said.append(f"Would then train and promote {trains[when]} (retraining.when = {when}).")
    return said


def _before_a_server_starts(workspace: Path) -> None:
    """What would stop the flow at once is told at once: a server takes fifteen seconds to start."""
    from components.tracking.delivery import exclusive
    from flows.promotion.registry import Registry

    with exclusive(lock_of(workspace)) as mine:
        if not mine:
            raise InkwellError(f"{workspace.resolve().name}: another retraining works here; let it end.")
    Registry(workspace)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit status: 0 promoted, or nothing to do; 3 the champion stays; 1 a stage failed; 2 something to mend.",
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument("--when", choices=WHEN, help="instead of retraining.when in params.yaml")
    parser.add_argument("--plan", action="store_true", help="say what it would do, and end")
    arguments = parser.parse_args(argv)
    try:
        from flows.orchestration.graph import read_stages

        read_stages(arguments.workspace, [_LOOKED_AT])  # mistakes are told before a server starts
        if arguments.plan:
            print("\n".join(plan(arguments.workspace, arguments.when)))
            return 0
        _before_a_server_starts(arguments.workspace)
        from flows.pipeline import set_environment

        set_environment()
        from flows.orchestration.running import PipelineError
        from flows.orchestration.server import server
        from flows.processes import terminating
        from flows.scheduled import retrain

        try:
            with terminating(), server():
                outcome = retrain(str(arguments.workspace), arguments.when)
        except PipelineError as error:
            print(f"retrain: {error}", file=sys.stderr)
            return 1
    except InkwellError as error:
        print(f"retrain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("retrain: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print(outcome["said"] or "Nothing to do: the corpus is the champion's.")
    return 0 if outcome["promoted"] or not outcome["said"] else 3


if __name__ == "__main__":
    sys.exit(main())
