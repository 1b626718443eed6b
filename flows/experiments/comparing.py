"""What the commands that compare small models share: their options, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from components.errors import InkwellError


def options(module: str, explanation: str | None) -> argparse.ArgumentParser:
    """A command line with the options of every comparison; `explanation` is the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=explanation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="models trained on each (default: %(default)s)")
    parser.add_argument("--corpus", help="conf/corpus, or the path of such a file (default: that of conf/config.yaml)")
    parser.add_argument("--size", default="proxy", help="conf/size of the small model (default: %(default)s)")
    parser.add_argument(
        "--held-out", type=int, default=400, help="documents they are judged by, at most (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, help="models trained at a time (default: one a core)")
    parser.add_argument(
        "--workspace", type=Path, default=Path(".ablate"), help="where it happens (default: %(default)s)"
    )
    return parser


def answered(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    name: str,
    compare: Callable[[argparse.Namespace, list[str]], None],
) -> int:
    """Run `compare` with the arguments and the overrides of size and corpus that they stand for; the exit status.

    `jobs` is one a core where nobody said how many. `name` begins the one sentence that a mistake ends in.
    """
    from flows.experiments.proxy import default_jobs

    arguments = parser.parse_args(argv)
    try:
        for number in ("seeds", "held_out", "jobs"):
            if getattr(arguments, number) is not None and getattr(arguments, number) < 1:
                raise InkwellError(f"--{number.replace('_', '-')} must be at least 1.")
        arguments.jobs = arguments.jobs or default_jobs()
        compare(arguments, [f"size={arguments.size}", *([f"corpus={arguments.corpus}"] if arguments.corpus else [])])
    except InkwellError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0
