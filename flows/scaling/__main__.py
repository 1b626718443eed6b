"""How does loss fall with size and tokens? Small models are trained, a law is fitted, and a larger run says whether to trust it.

    python -m flows.scaling
    python -m flows.scaling --sizes 64x2,128x4,256x4 --budgets 250000,500000,1000000 --held-back 320x6-2000000

Sizes are WIDTHxLAYERS; every size is trained for every budget of tokens with the hyper-parameters that the dial would set. The
run that is held back is trained likewise and never fitted: the law predicts it, and is judged by what it came to. The defaults
take about 40 minutes on two cores. Killed and started again, it keeps the models that are finished.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError
from flows.experiments.comparing import answered, options
from flows.scaling.record import record
from flows.scaling.study import HEAD, Size, scaling

SIZES = "64x2,128x2,128x4,192x4,256x4"
BUDGETS = "300000,600000,1200000"
HELD_BACK = "320x6-2400000"


def _sizes(text: str) -> list[Size]:
    return [_size("--sizes", part.strip()) for part in text.split(",") if part.strip()]


def _size(option: str, text: str) -> Size:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, layers = (int(match[1]), int(match[2])) if match else (0, 0)
    if not layers or width < 32 or width % 32 or (width > HEAD and width % HEAD):
        raise InkwellError(
            f"{option} {text}: write sizes as WIDTHxLAYERS, such as 128x4; widths are 32 or multiples of {HEAD}."
        )
    return width, layers


def _budgets(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise InkwellError(
            f"--budgets {text}: write numbers of tokens with commas between them, such as 300000,600000."
        )
    return found


def _held_back(text: str) -> tuple[Size, int]:
    size, _, tokens = text.rpartition("-")
    if not tokens.isdigit():
        raise InkwellError(f"--held-back {text}: write it as WIDTHxLAYERS-TOKENS, such as {HELD_BACK}.")
    return _size("--held-back", size), int(tokens)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = options("flows.scaling", __doc__)
    parser.set_defaults(seeds=1, workspace=Path(".scaling"))
    parser.add_argument("--sizes", default=SIZES, help="WIDTHxLAYERS (default: %(default)s)")
    parser.add_argument("--budgets", default=BUDGETS, help="tokens of training (default: %(default)s)")
    parser.add_argument(
        "--held-back",
        default=HELD_BACK,
        metavar="WIDTHxLAYERS-TOKENS",
        help="predicted, not fitted (default: %(default)s)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a parameter; may be given again"
    )
    return answered(parser, argv, "scaling", _compare)


def _compare(arguments: argparse.Namespace, overrides: list[str]) -> None:
    sizes, budgets, back = _sizes(arguments.sizes), _budgets(arguments.budgets), _held_back(arguments.held_back)
    if len(sizes) * len(budgets) < 4 or len(set(sizes)) < 2 or len(budgets) < 2:
        raise InkwellError("a law needs at least two --sizes, two --budgets and four runs.")
    if back[0] in sizes and back[1] in budgets:
        raise InkwellError(
            f"--held-back {arguments.held_back} is among the runs that are fitted: hold another one back."
        )
    outcome = scaling(
        arguments.workspace,
        sizes,
        budgets,
        back,
        [*overrides, *arguments.set],
        arguments.seeds,
        arguments.held_out,
        arguments.jobs,
    )
    record(arguments.workspace, outcome)
    print(f"\n{outcome['verdict']}\n{arguments.workspace / 'scaling.html'} shows it.")
    share, back_found = outcome["tokens_per_parameter"], outcome["held_back"]
    figures = {
        "tokens_per_parameter": None if share is None else round(share, 2),
        "root_mean_square_residual": round(outcome["root_mean_square_residual"], 4),
        "predicted": round(back_found["predicted"]["value"], 4),
        "measured": round(back_found["loss"], 4),
        "inside": back_found["inside"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main())
