"""Two runs in one page that opens offline: what was asked for, what came of it, and whether by more than chance.

python -m flows.compare . .smoke                    two workspaces
python -m flows.compare HEAD~1 sweep-1a2b3c-4d5e6f70   commits, DVC experiments
python -m flows.compare 61eb548f96f24b22bfdf0ea7da94e656 .   runs of MLflow (pipelines, their steps)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 2 for something to mend."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", help="workspace, run, experiment or revision")
    parser.add_argument("b", help="what it is compared with")
    parser.add_argument(
        "--workspace", type=Path, default=Path(), help="where names are looked up (default: this folder)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(".inkwell/compare.html"), help="the page (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        from flows.compare.page import write
        from flows.compare.sides import find

        a, b = find(arguments.a, arguments.workspace), find(arguments.b, arguments.workspace)
        outcome = write(a, b, arguments.output)
    except InkwellError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare: interrupted.", file=sys.stderr)
        return 130
    for key, (one, other) in list(outcome["parameters"].items())[:20]:
        print(f"  {key}: {one} -> {other}")
    print(f"{outcome['verdict']}\n{arguments.output} shows it.")
    beyond = [name for name, figure in outcome["figures"].items() if figure["beyond"]]
    print(json.dumps({"parameters": len(outcome["parameters"]), "beyond": beyond}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
