"""Whether learning rates carry over from one width to another: `python -m benchmarks.width_transfer`.

Trains the same few steps at several widths with the rates that the dial sets for each (`components/pretrain/transfer.py`),
times 0.5, 1 and 2. Where the rule holds, the best multiplier is the same at every width. `--control` trains once more
with the rates of width 256 for all: what the rule is good for is the difference. Two further seeds of the narrowest model
say how much is chance. Needs `data/tokens` and `models/tokenizer` in `--workspace` (`dvc repro tokenize`); about 20 minutes on
two quiet cores, and a killed run goes on where it was. The last line is one JSON object; `--picture` draws it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.small_runs import SmallRuns
from components.atomic import atomic_file
from components.errors import InkwellError
from components.pretrain.transfer import RATES, TUNED, learning_rates

_COLOURS = ("#d9622b", "#3f8fd2", "#2f9e6e", "#9b59b6", "#c0a020")
_INK = "#808080"
Table = dict[int, dict[float, float]]  # width -> multiplier -> held-out bits a character


def shape(width: int, layers: int) -> dict[str, Any]:
    """A model of that width; only the width differs from one to another."""
    return {
        "architecture": "qwen3",
        "hidden_size": width,
        "layers": layers,
        "heads": width // 64,
        "key_value_heads": width // 64,
        "feed_forward_size": 3 * width,
        "tie_embeddings": False,
        "block": 256,
    }


def parameters(width: int, layers: int, multiplier: float, steps: int, rates_of: int | None = None) -> dict[str, Any]:
    """`pretrain` of one run; rates_of: take the rates of that width instead of its own."""
    rates = learning_rates("muon", rates_of or width)
    return {
        **shape(width, layers),
        "micro_batch": TUNED.batch_tokens // 256,
        "accumulation": 1,
        "steps": steps,
        "optimizer": "muon",
        "schedule": "warmup_stable_decay",
        "warmup_steps": max(5, steps // 15),
        "decay_fraction": TUNED.decay_fraction,
        "weight_decay": TUNED.weight_decay,
        **{name: rates[name] * multiplier for name in RATES},
    }


def sweep(runs: SmallRuns, arguments: argparse.Namespace, rates_of: int | None = None) -> Table:
    """Train every width with every multiplier."""
    table: Table = {}
    for width in arguments.widths:
        table[width] = {}
        for multiplier in arguments.multipliers:
            label = f"{width}-x{multiplier:g}" + (f"-rates-of-{rates_of}" if rates_of else "")
            found = runs.train(
                label,
                parameters(width, arguments.layers, multiplier, arguments.steps, rates_of),
                seed=arguments.seed,
            )
            table[width][multiplier] = found["val_bits_per_char"]
            print(f"  {label}: {found['val_bits_per_char']:.4f} bits a character, {found['seconds']:.0f} s", flush=True)
    return table


def figures(table: Table, prefix: str = "") -> dict[str, float]:
    """Every cell, the best multiplier by width, whether it is one for all, and what the middle one costs where it is not."""
    found: dict[str, float] = {}
    best = {width: min(row, key=lambda multiplier, row=row: row[multiplier]) for width, row in table.items()}  # type: ignore[misc]
    for width, row in table.items():
        found |= {f"{prefix}bpc_{width}_x{multiplier:g}": bits for multiplier, bits in row.items()}
        found[f"{prefix}best_multiplier_{width}"] = best[width]
    found[f"{prefix}one_best_multiplier"] = float(len(set(best.values())) == 1)
    # were each width given the multiplier that is best for the narrowest
    narrow = best[min(table)]
    found[f"{prefix}largest_loss_of_transfer"] = max(row[narrow] / min(row.values()) - 1 for row in table.values())
    return found


def printed(table: Table, title: str) -> str:
    """The table, the best of each row marked."""
    multipliers = sorted({multiplier for row in table.values() for multiplier in row})
    lines = [title, "width   " + "".join(f"{f'x {one:g}':>10} " for one in multipliers)]
    for width, row in table.items():
        cells = (f"{row[one]:10.4f}{'*' if row[one] == min(row.values()) else ' '}" for one in multipliers)
        lines.append(f"{width:<8}" + "".join(cells))
    return "\n".join(lines)


def picture(tables: Mapping[str, Table], path: Path) -> None:
    """Bits a character over the multiplier, a line a width; a panel a rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tables), 3.6), layout="constrained")
    figure.patch.set_alpha(0)
    for axes, (title, table) in zip(
        figure.subplots(1, len(tables), squeeze=False, sharey=True)[0], tables.items(), strict=True
    ):
        axes.patch.set_alpha(0)
        for colour, (width, row) in zip(_COLOURS, sorted(table.items()), strict=False):
            points = sorted(row.items())
            axes.plot([m for m, _ in points], [bits for _, bits in points], "o-", color=colour, label=f"{width} wide")
            least = min(row, key=lambda multiplier, row=row: row[multiplier])  # type: ignore[misc]
            axes.plot([least], [row[least]], "o", color=colour, markersize=11, fillstyle="none")
        axes.set_xscale("log", base=2)
        axes.set_title(title, color=_INK, fontsize=10)
        axes.set_xlabel("times the rates of the rule", color=_INK)
        axes.tick_params(which="both", color=_INK, labelcolor=_INK)
        axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
        for side in axes.spines.values():
            side.set_color(_INK)
    figure.axes[0].set_ylabel("held-out bits a character", color=_INK)
    figure.axes[0].legend(frameon=False, labelcolor=_INK)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.width_transfer", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with data/tokens (default: here)")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 384, 512], help="multiples of 64")
    parser.add_argument("--multipliers", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="of the learning rates")
    parser.add_argument("--layers", type=int, default=4, help="decoder blocks of all models (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=150,
        help=f"optimizer steps of {TUNED.batch_tokens:,} tokens (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sweep; the next two measure chance")
    parser.add_argument("--control", action="store_true", help="also with the rates of width 256 for every width")
    parser.add_argument("--picture", type=Path, help="SVG to write, for instance docs/width-transfer.svg")
    arguments = parser.parse_args(argv)
    try:
        runs = SmallRuns(arguments.workspace, "width-transfer")
        tables = {"rates by width": sweep(runs, arguments)}
        if arguments.control:
            tables["rates of width 256"] = sweep(runs, arguments, TUNED.width)
        narrowest = min(arguments.widths)
        again = [
            runs.train(
                f"{narrowest}-x1" + (f"-seed-{seed}" if seed != arguments.seed else ""),
                parameters(narrowest, arguments.layers, 1.0, arguments.steps),
                seed=seed,
            )["val_bits_per_char"]
            for seed in (arguments.seed, arguments.seed + 1, arguments.seed + 2)
        ]
    except InkwellError as error:
        print(f"width_transfer: {error}", file=sys.stderr)
        return 2
    found = figures(tables["rates by width"]) | {"seed_spread": max(again) - min(again)}
    for title, table in tables.items():
        print("\n" + printed(table, title), flush=True)
        if title != "rates by width":
            found |= figures(table, "control_")
    print(f"spread of three seeds at width {narrowest}: {found['seed_spread']:.4f} bits a character\n")
    if arguments.picture:
        picture(tables, arguments.picture)
    print(json.dumps({name: round(value, 6) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
