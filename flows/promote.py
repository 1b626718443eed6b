"""The challenger of a workspace takes the champion's place when it is better beyond the noise, and worse at nothing.

    python -m flows.promote                     decide, register, move the alias, leave the evidence
    python -m flows.promote --workspace .smoke
    python -m flows.promote --plan              decide and show, change nothing

Exit status: 0 promoted, 3 the champion stays, 2 something to mend.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError
from flows.promotion.decision import Decision, sentence

KEPT_CHAMPION = 3  # exit status


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.promote",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit status: 0 promoted, 3 the champion stays, 2 something to mend.",
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument("--by", help="who decides (default: INKWELL_BY, git's user.name, the user)")
    parser.add_argument("--plan", action="store_true", help="decide and show, but register and move nothing")
    arguments = parser.parse_args(argv)
    try:
        from flows.promotion.deciding import decide

        decision = decide(arguments.workspace, arguments.by, change=not arguments.plan)
        print_tables(decision)
        print(("plan: " if arguments.plan else "") + sentence(decision))
        if decision.pages:
            print(f"Evidence: {decision.pages.with_suffix('.html')}")
        if not arguments.plan:
            from flows.notify import tell

            tell(arguments.workspace, "promoted" if decision.promoted else "kept", sentence(decision))
    except InkwellError as error:
        print(f"promote: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("promote: interrupted; the same command judges again.", file=sys.stderr)
        return 130
    return 0 if decision.promoted else KEPT_CHAMPION


def print_tables(decision: Decision) -> None:
    """Checks and tasks, a line each."""
    for check in decision.checks:
        print(f"  {'ok  ' if check.holds else 'FAIL'}  {check.name}: {check.told}")
    for task in decision.tasks:
        if not task.judged:
            print(f"  --    {task.task}: {task.documents} documents in common, too few")
            continue
        state = "FAIL" if task.regressed() else "ok  "
        print(
            f"  {state}  {task.task}: {task.champion:.4g} → {task.challenger:.4g}, gain {task.gain:+.4g} "
            f"({task.low:+.4g} to {task.high:+.4g}), p = {task.adjusted:.2g}, {task.documents} documents"
        )


if __name__ == "__main__":
    sys.exit(main())
