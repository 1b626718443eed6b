"""The bars of training: `python -m benchmarks.pretrain`; its last line is one JSON object.

    race      equal wall time: Inkwell, the transformers Trainer, litgpt; how soon Inkwell reaches the best of the others
    compute   operations a second of a training step, as a share of what matrix products reach, and against plain eager bf16
    sixteen   the Tang model after 16 minutes
    overhead  what Lightning, logging and checkpoints cost around the steps
    scaling   tokens a second and memory from 5 to 124 million parameters

Everything is trained on data/tokens and models/tokenizer of --workspace (`make run` writes them). Run it on a quiet machine.
Finished parts are kept in .inkwell/benchmarks/pretrain/: stopped and started again, it goes on with the part that it was at.
They count for the parameters and the code that they were measured with; the others' of the race only for their own code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.parts import Parts, digest
from benchmarks.sizes import COMPUTED, SCALED
from components.errors import InkwellError

if TYPE_CHECKING:
    from benchmarks.peers.contender import Peer
    from benchmarks.peers.inkwell import Inkwell

PARTS = ("race", "compute", "sixteen", "overhead", "scaling")
PEERS = ("transformers", "litgpt")
CACHES = ("cold", "warm")
SLIDES = 39_500  # characters a second: 30 M parameters, 82 M GPT-2 tokens of 2.16 a character, 16 minutes on an A10G
_SIXTEEN = 16.0
# what Inkwell's figures depend on: what trains, and what measures it
_CODE = (
    *(f"components/{name}" for name in ("corpus", "machine", "model", "pretrain", "training", "scaling.py")),
    *(f"benchmarks/{name}.py" for name in ("compute_rate", "engine", "loop_overhead", "pretrain", "sizes")),
    "benchmarks/race",
    *(f"benchmarks/peers/{name}.py" for name in ("inkwell", "timing")),
)
_RESULTS = Path(".inkwell") / "benchmarks" / "pretrain"


class Benchmark:
    """The parts with what they share: where the corpus is, where results go, how long things may take."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from benchmarks.peers.inkwell import Inkwell
        from components.corpus.packed import TokenShards

        self.workspace: Path = arguments.workspace.absolute()
        tokens = self.workspace / "data" / "tokens"
        for needed in (tokens / "meta.json", self.workspace / "models" / "tokenizer", self.workspace / "params.yaml"):
            if not needed.exists():
                raise InkwellError(f"{needed} does not exist: run `make run` first, or name another --workspace.")
        self.corpus = TokenShards(tokens, "train")
        self.arguments = arguments
        results: Path = (arguments.results or _RESULTS).absolute()
        setting = {
            "corpus": self.corpus.fingerprint[:8],
            "minutes": f"{arguments.minutes:g}",
            "plan": arguments.plan,
        }
        written = (self.workspace / "params.yaml").read_text(encoding="utf-8")
        self.parts = Parts(results, setting, digest(_CODE, written, sorted(arguments.set)), arguments.fresh)
        self.inkwell: Inkwell = Inkwell(self.workspace, results / "caches", arguments.plan, tuple(arguments.set))
        self.environment = results / "litgpt-environment"

    def race(self) -> dict[str, float | None]:
        """Figures of the race, None for a target that was not reached; its picture goes beside the results."""
        from benchmarks.pictures import race_picture
        from benchmarks.race.running import Race, plan

        race = Race(
            self.workspace,
            self.parts,
            self.inkwell,
            self._peers(),
            self.arguments.minutes * 60,
            self._block(),
            CACHES if self.arguments.cache == "both" else (self.arguments.cache,),
            self.arguments.full,
            repeats=self.arguments.seeds,
        )
        race.check()
        planned = plan(race)
        for what, minutes in [*planned, ("in all", sum(minutes for _, minutes in planned))]:
            print(f"  planned: {what}, {minutes:.0f} min", flush=True)
        found, curves = race.run()
        race_picture(curves, self.parts.folder / "race.svg")
        print(f"  the curves: {self.parts.folder / 'race.svg'}")
        return found

    def compute(self) -> dict[str, float]:
        """Share of the ceiling and speedup, by size."""
        found: dict[str, float] = {}
        sizes = [self.arguments.size] if self.arguments.size else list(COMPUTED)
        for size in sizes:
            found |= self._compute_rate(size)
        speedups = {size: found[f"speedup_vs_eager_{size}"] for size in sizes}
        slowest = min(speedups, key=lambda size: speedups[size])  # the bar holds for both sizes
        for suffix in ("", "_min", "_max"):
            found[f"speedup_vs_eager{suffix}"] = found[f"speedup_vs_eager_{slowest}{suffix}"]
        return found

    def _compute_rate(self, size: str) -> dict[str, float]:
        command = ("--size", size, "--rounds", str(self.arguments.rounds), *self._briefly())
        row = self._measured("compute", "compute_rate", *command)
        named = {
            "fraction": "gemm_fraction",
            "fraction_causal": "gemm_fraction_causal",
            "speedup": "speedup_vs_eager",
            "ceiling": "gemm_ceiling",
            "operations_per_second": "operations_per_second",
            "tokens_per_second": "tokens_per_second",
        }
        return {
            f"{flat}_{size}{suffix}": row[f"{name}{suffix}"]
            for name, flat in named.items()
            for suffix in ("", "_min", "_max")
            if f"{name}{suffix}" in row
        }

    def sixteen(self) -> dict[str, float]:
        """The default after 16 minutes of wall time."""
        minutes = self.arguments.sixteen_minutes
        run = self.parts.done(f"sixteen-{minutes:g}", lambda: self._minutes(minutes))
        characters = self.corpus.characters / (self.corpus.tokens - len(self.corpus))  # a predicted token
        rate = run["predicted"] * characters / run["trained"]
        return {
            "bpc_16min": run["bits"],
            "chars_per_second": rate,
            "chars_per_second_ratio_to_slides": rate / SLIDES,
            "chars_per_second_training": run["metrics"]["tokens_per_second"] * characters,
            "seconds_16min": run["trained"],
            "parameters_16min": run["metrics"]["parameters"],
        }

    def _minutes(self, minutes: float) -> dict[str, Any]:
        """A run of the default in so many minutes of wall time, with a warm cache."""
        from benchmarks.race.lengths import in_time

        whole, limit = 60 * minutes, 180 * minutes + 600
        folder = self.parts.folder / "runs" / "sixteen"
        for _ in range(2):  # the first fills the cache, the second tells what starting costs then
            start = self.inkwell.start(folder, 0.05 * whole, cold=False, limit=limit)

        def train(seconds: float) -> dict[str, Any]:
            self.inkwell.fill(folder, self.inkwell.length(seconds, start), limit)
            done = self.inkwell.train(folder, seconds, start, cold=False, limit=limit)
            print(f"  {done.bits:.4f} bits a character after {done.trained:.0f} s", flush=True)
            return done.figures()

        return in_time(whole, train)

    def overhead(self) -> dict[str, float]:
        """Share of a step's time that the loop adds."""
        more = ("--size", self.arguments.size) if self.arguments.size else ()
        rounds = ("--rounds", str(max(1, self.arguments.rounds)), "--steps", str(self.arguments.steps))
        return self._measured("overhead", "loop_overhead", *rounds, *more)

    def scaling(self) -> dict[str, float]:
        """Speed and memory by size, one process a size."""
        from benchmarks.pictures import scaling_picture

        sizes = [self.arguments.size] if self.arguments.size else list(SCALED)
        rows = [self._scaling_row(size) for size in sizes]
        print("  | parameters | tokens/s | least to most | operations/s | share of the ceiling | peak memory, GiB |")
        print("  |---|---|---|---|---|---|")
        for row in rows:
            print(
                f"  | {row['parameters'] / 1e6:.1f} M | {row['tokens_per_second']:,.0f} | "
                f"{row['tokens_per_second_min']:,.0f} to {row['tokens_per_second_max']:,.0f} | "
                f"{row['operations_per_second'] / 1e12:.2f} T | {row['fraction']:.0%} | {row['peak_gib']:.2f} |"
            )
        scaling_picture(rows, self.parts.folder / "scaling.svg")
        print(f"  the picture: {self.parts.folder / 'scaling.svg'}", flush=True)
        return {
            f"scaling_{name}_{size}": row[name]
            for size, row in zip(sizes, rows, strict=True)
            for name in (
                "parameters",
                "tokens_per_second",
                "tokens_per_second_min",
                "tokens_per_second_max",
                "peak_gib",
            )
        }

    def _scaling_row(self, size: str) -> dict[str, Any]:
        command = ("--size", size, "--rounds", str(min(5, self.arguments.rounds)), "--no-eager", *self._briefly())
        return self._measured("scaling", "compute_rate", *command)

    def _briefly(self) -> tuple[str, ...]:
        """One size only is a try, not a measurement."""
        return ("--seconds", "0.5") if self.arguments.size else ()

    def _measured(self, part: str, module: str, *arguments: str) -> dict[str, Any]:
        """A part by a process; its name says sizes, rounds and steps, so that a try is never taken for the measurement."""
        name = "-".join([part, *(argument.removeprefix("--") for argument in arguments)])
        return self.parts.done(name, lambda: self._process(module, *arguments))

    def _process(self, module: str, *arguments: str) -> dict[str, Any]:
        """A measurement in a process of its own; what it says is shown, its last line is its result."""
        from benchmarks.peers.contender import said

        command = [
            *(sys.executable, "-m", f"benchmarks.{module}"),
            *("--workspace", str(self.workspace)),
            *(part for setting in self.arguments.set for part in ("--set", setting)),
            *arguments,
        ]
        work = self.parts.folder / "runs" / module
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        variables = {"INKWELL_CACHE": str(self.inkwell.caches / "measured")}  # calibrations, once for all sizes
        return dict(json.loads(said(command, work, variables, show=True)))

    def _block(self) -> int:
        return self.inkwell.configuration().pretrain.block

    def _peers(self) -> list[Peer]:
        from benchmarks.peers.litgpt_peer import LitGPT
        from benchmarks.peers.transformers_peer import TransformersTrainer

        made: dict[str, Callable[[], Peer]] = {
            "transformers": TransformersTrainer,
            "litgpt": lambda: LitGPT(self.environment),
        }
        return [made[name]() for name in self.arguments.peers]


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", type=_names(PARTS), default=list(PARTS), metavar="PART,...", help="parts to run (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="wall time of each in the race (default: 10)")
    parser.add_argument(
        "--plan",
        choices=("dial", "steps"),
        default="dial",
        help="race, sixteen: how Inkwell is told its time: the dial's minutes, or steps of the shape in params.yaml",
    )
    parser.add_argument("--full", action="store_true", help="race: every learning rate and batch gets the whole time")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="race: seeds of Inkwell's run over the whole time and of the best other's, for the spread (default: 1)",
    )
    parser.add_argument(
        "--cache", choices=(*CACHES, "both"), default="both", help="race: compile caches to run with (default: both)"
    )
    parser.add_argument(
        "--peers",
        type=_names(PEERS),
        default=list(PEERS),
        metavar="NAME,...",
        help="race: against whom (default: both)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="compute, overhead: rounds (default: 7)")
    parser.add_argument("--steps", type=int, default=25, help="overhead: steps of a side in a round (default: 25)")
    parser.add_argument("--size", help="compute, overhead, scaling: one shape of benchmarks.sizes only, to try it out")
    parser.add_argument("--sixteen-minutes", type=float, default=_SIXTEEN, help=argparse.SUPPRESS)
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the default run (default: here)")
    parser.add_argument("--results", type=Path, help=f"where parts are kept (default: {_RESULTS})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a parameter of Inkwell's side"
    )
    arguments = parser.parse_args(argv)
    found: dict[str, float | None] = {}
    try:
        if arguments.minutes <= 0 or arguments.rounds < 1 or arguments.steps < 3 or arguments.seeds < 1:
            raise InkwellError("--minutes must be above 0, --rounds and --seeds at least 1, --steps at least 3.")
        if arguments.seeds % 2 == 0:
            raise InkwellError(f"--seeds {arguments.seeds}: take an odd number, so that one run is the median.")
        benchmark = Benchmark(arguments)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; results in {benchmark.parts.folder}", flush=True)
        for part in arguments.only:
            print(part, flush=True)
            found |= getattr(benchmark, part)()
    except InkwellError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pretrain: interrupted; the same command goes on with the part that it was at.", file=sys.stderr)
        return 130
    for name, value in found.items():
        print(f"{name:44} {'none' if value is None else f'{value:.4f}':>16}")
    print(json.dumps({name: None if value is None else round(value, 6) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
