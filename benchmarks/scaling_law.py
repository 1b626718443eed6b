"""The scales of the dial's law, fitted to small runs: `python -m benchmarks.scaling_law`.

Trains models of several sizes for several numbers of tokens on the workspace's corpus with the dial's hyper-parameters, some
of them many times on a small part of it, and fits the law's scales and the harm that repetition does (`components/scaling.py`)
to what they reached; exponents and the decay of repeated tokens stay as published. The table shows how far the fit is off; `--write` puts scales and runs into
`components/pretrain/law.yaml`. Run it again when the recipe has changed: about 45 minutes on two quiet cores, and a killed
run goes on where it was. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite, log
from pathlib import Path
from typing import Any

from benchmarks.small_runs import SmallRuns
from benchmarks.width_transfer import shape
from components.atomic import atomic_file
from components.errors import InkwellError
from components.pretrain.transfer import recipe
from components.scaling import FRESH_RUNS, PUBLISHED, Law, Run, fitted

LAW = Path(__file__).resolve().parents[1] / "components" / "pretrain" / "law.yaml"
_HEADER = """\
# The law that the dial trusts (components/scaling.py): exponents and the decay of repeated tokens as published (arXiv
# 2305.16264, appendix A), the rest fitted to the runs below, which `python -m benchmarks.scaling_law --write` trains anew.
"""
Cell = tuple[int, int, int, int | None]
# (width, layers, tokens, training tokens of the corpus that may be seen): size and tokens, then repetition
GRID: tuple[Cell, ...] = (
    (128, 4, 500_000, None),
    (128, 4, 1_000_000, None),
    (128, 4, 2_000_000, None),
    (128, 4, 3_900_000, None),
    (192, 6, 1_000_000, None),
    (192, 6, 2_000_000, None),
    (256, 4, 1_000_000, None),
    (256, 4, 2_000_000, None),
    (256, 4, 3_900_000, None),
    (256, 8, 2_000_000, None),
    (384, 6, 1_000_000, None),
    (384, 6, 2_000_000, None),
    (128, 4, 7_800_000, None),
    (256, 4, 7_800_000, None),
    (128, 4, 700_000, 350_000),
    (128, 4, 1_400_000, 350_000),
    (128, 4, 2_800_000, 350_000),
    (256, 4, 700_000, 350_000),
    (256, 4, 1_400_000, 350_000),
    (256, 4, 2_800_000, 350_000),
)


def parameters(width: int, layers: int, tokens: int, unique: int, mean_tokens: float) -> dict[str, Any]:
    """`pretrain` as the dial would set it for that shape and so many tokens."""
    from components.configuration import Pretrain

    form = shape(width, layers)
    values = recipe(Pretrain(**form), tokens, unique=unique, mean_tokens=mean_tokens)
    held = ("validation_every", "sample_every", "validation_documents")  # what `SmallRuns` does without
    return {**form, **{name: value for name, value in values.items() if name not in held}}


def check(runs: SmallRuns, grid: Sequence[Cell]) -> None:
    """Raise InkwellError for a grid that no law could be fitted to, before hours are spent on it."""
    from components.configuration import Pretrain

    fresh = set()
    for width, layers, tokens, train_tokens in grid:
        corpus = runs.shards("train", train_tokens)
        values = parameters(width, layers, tokens, corpus.tokens, corpus.tokens / len(corpus))
        seen = Pretrain(**values).total_tokens
        if seen <= corpus.tokens:
            fresh.add((width, layers, seen))
    if len(fresh) < FRESH_RUNS:
        raise InkwellError(
            f"{len(fresh)} of these {len(grid)} runs see their text no more than once, and the law's scales are fitted to "
            f"{FRESH_RUNS} at least: add --cells of other shapes, or of other numbers of tokens that the corpus has."
        )


def train(runs: SmallRuns, grid: Sequence[Cell], seed: int) -> list[Run]:
    """What every cell of the grid came to, in nats a token of the held-out documents."""
    from components.configuration import Pretrain
    from components.model.architectures import count

    found = []
    for width, layers, tokens, train_tokens in grid:
        corpus, held_out = runs.shards("train", train_tokens), runs.shards("validation", train_tokens)
        # bits a character, end marks counted, times this are nats a predicted token
        nats = log(2) * (held_out.characters + len(held_out)) / (held_out.tokens - len(held_out))
        values = parameters(width, layers, tokens, corpus.tokens, corpus.tokens / len(corpus))
        label = f"{width}x{layers}-{tokens}" + (f"-of-{train_tokens}" if train_tokens else "")
        metrics = runs.train(label, values, seed=seed, train_tokens=train_tokens)
        run = Pretrain(**values)
        multiplied = count(run, corpus.vocabulary).multiplied
        found.append(Run(multiplied, run.total_tokens, corpus.tokens, round(metrics["val_bits_per_char"] * nats, 4)))
        print(f"  {label}: {metrics['val_bits_per_char']:.4f} bits a character, {metrics['seconds']:.0f} s", flush=True)
    return found


def printed(law: Law, runs: Sequence[Run]) -> str:
    """Runs beside what the law says."""
    lines = [f"{'multiplied':>12} {'tokens':>12} {'of':>12} {'nats a token':>12} {'law':>8} {'off':>8}"]
    for run in runs:
        said = law.loss(run.parameters, run.tokens, run.unique)
        lines.append(
            f"{run.parameters:12,.0f} {run.tokens:12,.0f} {run.loss:12.4f} {said:8.4f} {said - run.loss:+8.4f}"
        )
    return "\n".join(lines)


def write(law: Law, runs: Sequence[Run], path: Path = LAW) -> None:
    """`law.yaml`, whole or not at all."""
    import yaml

    values = {**{name: round(value, 7) for name, value in asdict(law).items()}, "runs": [asdict(run) for run in runs]}
    with atomic_file(path) as temporary:
        temporary.write_text(_HEADER + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_law", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with data/tokens (default: here)")
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="WIDTHxLAYERS-TOKENS",
        help="other runs than the usual ones; -TOKENS more: of the corpus that they see",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the outcome into components/pretrain/law.yaml")
    arguments = parser.parse_args(argv)
    try:
        grid = [_cell(text) for text in arguments.cells] if arguments.cells else GRID
        small = SmallRuns(arguments.workspace, "scaling-law")
        check(small, grid)
        runs = train(small, grid, arguments.seed)
    except InkwellError as error:
        print(f"scaling_law: {error}", file=sys.stderr)
        return 2
    law = fitted(runs, PUBLISHED)
    print(printed(law, runs))
    if arguments.write:
        write(law, runs)
    misses = [abs(law.loss(run.parameters, run.tokens, run.unique) - run.loss) for run in runs]
    figures = {
        **{name: value for name, value in asdict(law).items() if isfinite(value)},
        "tokens_per_parameter": 1e6 / law.parameters_for(1e6),
        "largest_miss_nats": max(misses),
        "mean_miss_nats": sum(misses) / len(misses),
    }
    print(json.dumps({name: round(value, 6) for name, value in figures.items()}))
    return 0


def _cell(text: str) -> Cell:
    try:
        form, tokens, *unique = text.split("-")
        width, layers = form.split("x")
        return int(width), int(layers), int(tokens), int(unique[0]) if unique else None
    except ValueError:
        raise InkwellError(f"--cells {text}: write it as 128x4-500000, or 128x4-500000-35000.") from None


if __name__ == "__main__":
    sys.exit(main())
