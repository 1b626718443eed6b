"""Model operations a second of Inkwell's training steps at one size: `python -m benchmarks.compute_rate --size 14m`.

In every round: the matrix products that are the ceiling, steps of Inkwell's engine, steps of the stock model in plain eager
bf16 with the same batches and optimizers. Ratios are taken within a round, so that a machine that slows down slows all
three. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sizes import SIZES
from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Configuration


def measure(
    configuration: Configuration,
    size: str,
    workspace: Path,
    rounds: int,
    batch: tuple[int, int],
    seconds: float,
    eager: bool,
) -> dict[str, float]:
    """Figures of one size; batch: rows a forward pass and forward passes a step; `seconds`: of our steps in a round, about."""
    import torch

    from benchmarks.engine import Bare, opened, plain
    from components.machine.ceiling import SQUARES, CeilingMeter, operations_per_token, run_shapes
    from components.step import peak_gib

    course = {"micro_batch": batch[0], "accumulation": batch[1], "steps": 100_000, "batch_ramp": 0.0, "initial": None}
    parameters = configuration.pretrain.model_copy(update={**SIZES[size], **course})
    with opened(parameters, configuration.machine, workspace) as training:
        operations = operations_per_token(training.model, parameters.block)
        causal = operations_per_token(training.model, parameters.block, causal=True) / operations
        shapes = (*SQUARES, *run_shapes(training.model, batch[0] * parameters.block))
        count = sum(weight.numel() for weight in training.model.parameters())
        ours = Bare.of(training)
        began = time.perf_counter()
        ours.timed(1)
        first = time.perf_counter() - began
        steps = max(1, round(seconds / (ours.timed(2)[0] / 2)))
        figures: dict[str, float] = {
            "parameters": count,
            "first_step_seconds": first,
            "threads": torch.get_num_threads(),
        }
        stock = Bare.of(plain(parameters, training)) if eager else None
        if stock is not None:
            stock.timed(1)
        rates, ceilings, fractions, speedups, eager_rates = [], [], [], [], []
        for number in range(rounds):
            meter = CeilingMeter(torch.bfloat16, shapes=shapes)  # the fastest of them is the ceiling
            meter.read(2)
            spent, read = ours.timed(steps)
            meter.read(2)
            best = meter.ceiling().operations_per_second
            rates.append(read / spent)
            ceilings.append(best)
            fractions.append(rates[-1] * operations / best)
            if stock is not None:
                spent, read = stock.timed(max(1, steps // 3))
                eager_rates.append(read / spent)
                speedups.append(rates[-1] / eager_rates[-1])
            print(
                f"  {size}, round {number + 1}: {rates[-1]:,.0f} tokens/s, {fractions[-1]:.1%} of {best / 1e12:.3f} TFLOP/s"
                + (f", {speedups[-1]:.2f} x eager" if speedups else ""),
                flush=True,
            )
        for name, values in {
            "tokens_per_second": rates,
            "ceiling": ceilings,
            "fraction": fractions,
            "eager_tokens_per_second": eager_rates,
            "speedup": speedups,
        }.items():
            if values:
                figures |= {
                    name: statistics.median(values),
                    f"{name}_min": min(values),
                    f"{name}_max": max(values),
                }
        figures["fraction_causal"] = figures["fraction"] * causal
        figures["operations_per_second"] = figures["tokens_per_second"] * operations
        figures["peak_gib"] = peak_gib()
    return figures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compute_rate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the default run (default: here)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a parameter")
    parser.add_argument("--size", choices=sorted(SIZES), default="14m", help="shape (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows a forward pass (default: %(default)s)")
    parser.add_argument("--accumulation", type=int, default=4, help="forward passes a step (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of our steps in a round (default: %(default)s)")
    parser.add_argument("--no-eager", action="store_true", help="leave the stock model out")
    arguments = parser.parse_args()
    from components.configuration import load

    try:
        figures = measure(
            load(arguments.workspace / "params.yaml", arguments.set),
            arguments.size,
            arguments.workspace,
            arguments.rounds,
            (arguments.micro_batch, arguments.accumulation),
            arguments.seconds,
            not arguments.no_eager,
        )
    except InkwellError as error:
        print(f"compute_rate: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
