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
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from flows.experiments.comparing import answered, options

if TYPE_CHECKING:
    from components.configuration import Pretrain
    from components.scaling import Run
    from flows.experiments.proxy import Bench, Cell
    from flows.scaling.law import Fit

Size = tuple[int, int]  # width, layers
SIZES = "64x2,128x2,128x4,192x4,256x4"
BUDGETS = "300000,600000,1200000"
HELD_BACK = "320x6-2400000"
_HEAD = 64  # width of an attention head


def shape(size: Size, base: Pretrain) -> dict[str, Any]:
    """`pretrain` of a size: heads of 64, a feed-forward block of three widths, the rest as in `base`."""
    width, layers = size
    heads = max(1, width // _HEAD)
    return {
        "hidden_size": width,
        "layers": layers,
        "heads": heads,
        "key_value_heads": heads,
        "feed_forward_size": 3 * width,
        "block": base.block,
    }


def recipe(size: Size, tokens: int, base: Pretrain, unique: int, mean_tokens: float) -> dict[str, Any]:
    """Overrides of `pretrain` for a size and about so many tokens, as the dial would set them; nothing is looked at on the way."""
    from components.pretrain.transfer import batches, micro_batch, settings

    form = shape(size, base)
    batch = max(found for found, fewest in batches(base.block, unique) if fewest <= tokens)
    rows = batch // base.block
    micro = micro_batch(base.block, rows)
    steps = max(1, tokens // batch)
    shaped = base.model_copy(update=form)
    values = settings(shaped, batch_tokens=batch, steps=steps, unique=unique, mean_tokens=mean_tokens)
    return {
        **form,
        **values,
        "micro_batch": micro,
        "accumulation": rows // micro,
        "steps": steps,
        "validation_every": 1_000_000,
        "sample_every": 1_000_000,
        "validation_documents": 1,
    }


def scaling(
    workspace: Path,
    sizes: Sequence[Size],
    budgets: Sequence[int],
    held_back: tuple[Size, int],
    overrides: Sequence[str],
    seeds: int,
    documents: int,
    jobs: int,
) -> dict[str, Any]:
    """Train, fit, predict; write `scaling.{json,md,html}` into `workspace` and return what the JSON holds."""
    from components.corpus.packed import TokenShards
    from components.model.architectures import count
    from components.scaling import Run
    from flows.experiments.proxy import Cell, held_out, prepared, write_subset
    from flows.scaling.law import fit

    bench = prepared(workspace, overrides)
    print("Preparing the data", flush=True)
    for step in ("ingest", "tag", "clean"):
        bench.step(step)
    place = Path("scaling")
    read = place / "documents"
    judged_by = held_out([bench.folder / "data/clean"], documents)
    write_subset(bench.folder / "data/clean", bench.folder / read, lambda _: True, judged_by)
    bench.step("tokenizer", {"documents": read, "validated": read}, {"tokenizer": place / "tokenizer"})
    bench.step("tokenize", {"documents": read, "tokenizer": place / "tokenizer"}, {"tokens": place / "tokens"})
    train, validation = (TokenShards(bench.folder / place / "tokens", split) for split in ("train", "validation"))
    base = bench.configuration().pretrain
    first_seed = bench.configuration().seed

    def cell(size: Size, tokens: int, seed: int) -> Cell:
        values = recipe(size, tokens, base, train.tokens, train.tokens / len(train))
        settled = tuple(f"pretrain.{name}={json.dumps(value)}" for name, value in values.items())
        variant = f"{size[0]}x{size[1]} for {tokens:,} tokens"
        return Cell(variant, first_seed + seed, read, place / "tokenizer", place / "tokens", settled)

    points = [(size, tokens) for size in sizes for tokens in budgets]
    fitted_cells = {(point, seed): cell(*point, seed) for seed in range(seeds) for point in points}
    # the longest first: at the end it would leave the other cores idle
    last = cell(*held_back, 0)
    came_to = bench.train([last, *fitted_cells.values()], jobs)
    nats_a_bit = math.log(2) / (validation.tokens - len(validation))

    def run(size: Size, of: Cell) -> Run:
        configuration = bench.configuration(of.overrides).pretrain
        seen = configuration.steps * configuration.micro_batch * configuration.accumulation * configuration.block
        multiplied = count(configuration, train.vocabulary).multiplied
        return Run(multiplied, seen, train.tokens, sum(came_to[of]["bits"]) * nats_a_bit)

    runs = [run(point[0], of) for (point, _), of in fitted_cells.items()]
    kept_back = run(held_back[0], last)
    found = fit(runs)
    foretold = found.predicted(kept_back.parameters, kept_back.tokens, kept_back.unique)
    residuals = found.residuals()
    outcome: dict[str, Any] = {
        "law": {name: value for name, value in asdict(found.law).items() if math.isfinite(value)},
        "scales": {name: asdict(band) for name, band in found.scales().items()},
        "tokens_per_parameter": _shared(found),
        "root_mean_square_residual": math.sqrt(sum(value**2 for value in residuals) / len(residuals)),
        "held_back": {
            "size": f"{held_back[0][0]}x{held_back[0][1]}",
            **asdict(kept_back),
            "predicted": asdict(foretold),
            "error": kept_back.loss - foretold.value,
            "inside": kept_back.loss in foretold,
            "seconds": came_to[last]["seconds"],
        },
        "runs": [
            {
                "size": f"{point[0][0]}x{point[0][1]}",
                "seed": first_seed + seed,
                **asdict(one),
                "residual": residual,
                "bits_per_character": came_to[of]["bits_per_character"],
                "seconds": came_to[of]["seconds"],
            }
            for ((point, seed), of), one, residual in zip(fitted_cells.items(), runs, residuals, strict=True)
        ],
        "held_out_documents": len(judged_by),
        "unique_tokens": train.tokens,
    }
    outcome["verdict"] = verdict(outcome)
    _write(bench, outcome, found, kept_back)
    return outcome


def verdict(outcome: Mapping[str, Any]) -> str:
    """What the law is good for, in two sentences."""
    back = outcome["held_back"]
    band = back["predicted"]
    held = "inside" if back["inside"] else "outside"
    share = outcome["tokens_per_parameter"]
    return (
        f"For {back['parameters'] / 1e6:.2f} M parameters and {back['tokens']:,.0f} tokens the law foretold {band['value']:.3f} nats a token "
        f"({band['low']:.3f} to {band['high']:.3f}); the run that was held back came to {back['loss']:.3f}, {held} the band and "
        f"{abs(back['error']) / back['loss']:.1%} {'above' if back['error'] > 0 else 'below'} the prediction. "
    ) + (
        "These runs do not tell how work is best shared between size and tokens."
        if share is None
        else f"A little more work is best shared between size and tokens at {share:.0f} tokens a parameter."
    )


def _shared(found: Fit) -> float | None:
    """Tokens a parameter where a little more work is as well spent on either; None where the runs leave a scale open."""
    scales = found.scales()
    if any(scales[name].low < scales[name].value / 10 or scales[name].value < 1e-3 for name in ("capacity", "data")):
        return None
    return 1e6 / found.law.parameters_for(1e6)


def _write(bench: Bench, outcome: Mapping[str, Any], found: Fit, kept_back: Run) -> None:
    from flows.experiments.findings import Table, write_findings
    from flows.scaling.pictures import pictures

    tables = [
        Table(
            "Runs that the law was fitted to",
            ["size", "parameters", "tokens", "passes", "nats a token", "law", "residual", "seconds"],
            [
                [
                    row["size"],
                    f"{row['parameters'] / 1e6:.2f} M",
                    f"{row['tokens']:,}",
                    f"{row['tokens'] / row['unique']:.2f}",
                    f"{row['loss']:.4f}",
                    f"{row['loss'] - row['residual']:.4f}",
                    f"{row['residual']:+.4f}",
                    f"{row['seconds']:.0f}",
                ]
                for row in outcome["runs"]
            ],
        ),
        Table(
            "Scales of the law with their 95 % bands",
            ["scale", "value", "from", "to"],
            [
                [name, *(f"{band[key]:.4g}" for key in ("value", "low", "high"))]
                for name, band in outcome["scales"].items()
            ],
        ),
    ]
    said = (
        f"L(N, D) of components/scaling.py: exponents as published (arXiv 2305.16264), scales by least squares, bands from {len(found.laws)} samples of "
        f"the runs. N counts parameters that a token is multiplied with; a token is one of this corpus' tokenizer. Judged on "
        f"{outcome['held_out_documents']:,} held-out documents; the corpus has {outcome['unique_tokens']:,} tokens to train on."
    )
    write_findings(
        bench.folder / "scaling",
        "Scaling law",
        outcome["verdict"],
        said,
        tables,
        pictures(found, outcome["runs"], kept_back),
        outcome,
    )


def _sizes(text: str) -> list[Size]:
    return [_size("--sizes", part.strip()) for part in text.split(",") if part.strip()]


def _size(option: str, text: str) -> Size:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, layers = (int(match[1]), int(match[2])) if match else (0, 0)
    if not layers or width < 32 or width % 32 or (width > _HEAD and width % _HEAD):
        raise InkwellError(
            f"{option} {text}: write sizes as WIDTHxLAYERS, such as 128x4; widths are 32 or multiples of {_HEAD}."
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
