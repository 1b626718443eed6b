"""Tries values of parameters, each trial a DVC experiment under Prefect, and says which are best.

    python -m flows.sweep pretrain.learning_rate=0.005,0.01 pretrain.layers=2,4
    python -m flows.sweep --space recipe.yaml --optuna --trials 20
    python -m flows.sweep ... --apply                         and write the best into params.yaml

Without --optuna every combination is tried. Killed and started again, it goes on and repeats no finished trial. The experiments are
listed by `dvc exp show`, and MLflow shows them as children of one run. Parameters and code are those of the checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError

_TRIALS = 20
_SEED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when a trial was finished, 1 when all failed, 2 for something to mend."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", nargs="*", metavar="SECTION.KEY=A,B,C", help="values of a parameter to be tried")
    parser.add_argument(
        "--space", dest="file", type=Path, metavar="FILE", help="more of them, also ranges (docs/sweep.md)"
    )
    parser.add_argument(
        "--objective",
        default="pretrain.val_bits_per_char",
        metavar="STAGE.METRIC",
        help="a figure of metrics/<stage>.json; stages up to this one run (default: %(default)s)",
    )
    parser.add_argument("--maximize", action="store_true", help="more is better (default: less)")
    parser.add_argument(
        "--optuna", action="store_true", help="let Optuna choose the values (default: every combination)"
    )
    parser.add_argument("--trials", type=int, help=f"how many Optuna chooses (default: {_TRIALS})")
    parser.add_argument("--seed", type=int, help=f"of Optuna's choices (default: {_SEED})")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="end a trial that takes longer")
    parser.add_argument("--name", help="of the sweep and its experiments (default: made from the space)")
    parser.add_argument("--retry", action="store_true", help="try again what has failed")
    parser.add_argument("--apply", action="store_true", help="write the best parameters into params.yaml")
    parser.add_argument("--workspace", type=Path, default=Path(), help="the checkout (default: this folder)")
    arguments = parser.parse_intermixed_args(argv)
    from flows.sweep.trials import Plan, read_space

    try:
        for number in ("trials", "jobs"):
            given = getattr(arguments, number)
            if given is not None and given < 1:
                raise InkwellError(f"--{number} must be at least 1.")
        if arguments.minutes is not None and arguments.minutes <= 0:
            raise InkwellError("--minutes must be above 0.")
        if not arguments.optuna and (arguments.trials, arguments.seed) != (None, None):
            raise InkwellError("--trials and --seed are for --optuna: without it, every combination is tried once.")
        plan = Plan.make(
            arguments.workspace,
            read_space(arguments.space, arguments.file),
            arguments.objective,
            trials=(arguments.trials or _TRIALS) if arguments.optuna else None,
            seed=_SEED if arguments.seed is None else arguments.seed,
            maximize=arguments.maximize,
            name=arguments.name,
        )
        from flows.pipeline import set_environment

        set_environment()
        from flows.sweep.running import run_sweep

        outcome = run_sweep(plan, arguments.jobs, arguments.minutes, arguments.retry)
        if arguments.apply and outcome["best"]:
            from flows.sweep.trials import apply

            apply(plan.folder, outcome["best"]["values"])
            print(f"{plan.folder / 'params.yaml'} has the best parameters; `dvc repro` runs with them.")
    except InkwellError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sweep: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print(f"\n{outcome['verdict']}\n{plan.place / 'sweep.html'} shows it; `dvc exp show` lists the experiments.")
    print(json.dumps({"trials": len(outcome["trials"]), "failed": outcome["failed"], "best": outcome["best"]}))
    return 0 if outcome["best"] else 1


if __name__ == "__main__":
    sys.exit(main())
