"""The scaling study: models of several sizes and budgets are trained, a law is fitted to them and held against a larger one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.configuration import Pretrain
    from components.scaling import Run
    from flows.experiments.proxy import Cell
    from flows.scaling.law import Fit

Size = tuple[int, int]  # width, layers
HEAD = 64  # width of an attention head
_NEVER = 1_000_000  # steps


def shape(size: Size, base: Pretrain) -> dict[str, Any]:
    """`pretrain` of a size: heads of 64, a feed-forward block of three widths, the rest as in `base`."""
    width, layers = size
    heads = max(1, width // HEAD)
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
    from components.pretrain import transfer

    form = shape(size, base)
    shaped = base.model_copy(update=form)
    return {
        **form,
        **transfer.recipe(shaped, tokens, unique=unique, mean_tokens=mean_tokens),
        "validation_every": _NEVER,
        "sample_every": _NEVER,
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
    from flows.scaling.findings import write
    from flows.scaling.law import fit, require

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
        variant = f"{_name(size)} for {tokens:,} tokens"
        return Cell(variant, first_seed + seed, read, place / "tokenizer", place / "tokens", settled)

    def extent(of: Cell) -> tuple[int, int]:
        """Parameters that a token is multiplied with, and the tokens of the run, cut to whole batches."""
        configuration = bench.configuration(of.overrides).pretrain
        seen = configuration.steps * configuration.micro_batch * configuration.accumulation * configuration.block
        return count(configuration, train.vocabulary).multiplied, seen

    points = [(size, tokens) for size in sizes for tokens in budgets]
    fitted_cells = {(point, seed): cell(*point, seed) for seed in range(seeds) for point in points}
    last = cell(*held_back, 0)
    # what could not be fitted is told before it is trained
    require([extent(of) for of in fitted_cells.values()], train.tokens)
    # the longest first: at the end it would leave the other cores idle
    came_to = bench.train([last, *fitted_cells.values()], jobs)
    nats_a_bit = math.log(2) / (validation.tokens - len(validation))

    def run(of: Cell) -> Run:
        parameters, seen = extent(of)
        return Run(parameters, seen, train.tokens, sum(came_to[of]["bits"]) * nats_a_bit)

    def told(size: Size, of: Cell, one: Run) -> dict[str, Any]:
        also = {key: came_to[of][key] for key in ("bits_per_character", "seconds")}
        return {"size": _name(size), "seed": of.seed, **asdict(one), **also}

    runs = [run(of) for of in fitted_cells.values()]
    rows = [told(point[0], of, one) for ((point, _), of), one in zip(fitted_cells.items(), runs, strict=True)]
    kept_back = run(last)
    found = fit(runs)
    outcome = judged(found, rows, kept_back, told(held_back[0], last, kept_back))
    outcome |= {"held_out_documents": len(judged_by), "unique_tokens": train.tokens}
    write(workspace, outcome, found, kept_back)
    return outcome


def judged(found: Fit, rows: Sequence[Mapping[str, Any]], kept_back: Run, told: Mapping[str, Any]) -> dict[str, Any]:
    """The law with its bands, how far each run is off, and whether the run that was held back came where it was foretold.

    `rows` tell of the fitted runs, in their order, and `told` of `kept_back`.
    """
    from flows.scaling.law import operations

    residuals = found.residuals()
    foretold = found.predicted(kept_back.parameters, kept_back.tokens, kept_back.unique)
    most = max(operations(run.parameters, run.tokens) for run in found.runs)
    return {
        "law": {name: value for name, value in asdict(found.law).items() if math.isfinite(value)},
        "scales": {name: asdict(band) for name, band in found.scales().items()},
        "samples": len(found.laws),
        "tokens_per_parameter": found.tokens_per_parameter(),
        "root_mean_square_residual": math.sqrt(sum(value**2 for value in residuals) / len(residuals)),
        "held_back": {
            **told,
            "predicted": asdict(foretold),
            "error": kept_back.loss - foretold.value,
            "inside": kept_back.loss in foretold,
            "times_the_operations": operations(kept_back.parameters, kept_back.tokens) / most,
        },
        "runs": [{**row, "residual": residual} for row, residual in zip(rows, residuals, strict=True)],
    }


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
