"""Inkwell's side of the race: its own command line, as a user runs it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.peers.timing import Timed, compile_cache, marked, timed
from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Configuration

_NO_DIAL = ("pretrain.dial.minutes=null", "pretrain.dial.parameters=null")  # it would set another shape and other steps
# 100 % counts where the bar says in what time: it is drawn from 99.5 % on, and the last step is over only then
_PERCENT = marked(r"pretrain:\s+(\d{1,2}(?=%)|100(?=% in))")
_BETWEEN = 0.05  # share of the time that validations and samples take on the way
_START_STEPS = 40


@dataclass(frozen=True)
class Start:
    """What planning needs to know of earlier runs: seconds beside the training, and seconds of a step."""

    overhead: float
    pace: float


@dataclass(frozen=True)
class Trained:
    """A finished run: wall seconds until its last step and validation and of the whole command, its metrics, its curve.

    `predicted`: tokens that it learnt to predict, padding left out.
    """

    trained: float
    seconds: float
    bits: float
    steps: int
    predicted: int
    metrics: dict[str, float]
    curve: list[tuple[float, float]]
    model: Path

    def figures(self) -> dict[str, Any]:
        """For a part of the race; `model` is its configuration."""
        configuration = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        return {**asdict(self), "model": configuration}


@dataclass(frozen=True)
class Inkwell:
    """`python -m components.pretrain` on the tokens and tokenizer of `workspace`, with the workspace's parameters.

    Only its length is set. `by` dial: in minutes, from which the plan sets shape, batch, rates and steps. `by` steps: in
    steps of the shape in params.yaml, with the same shares of warm-up and decay. `settings` (section.key=value) are for
    trials. Nobody in the race keeps a tracking server: `tracking.enabled` is false, as the Trainer's `report_to` is "none".
    """

    workspace: Path
    caches: Path
    by: Literal["dial", "steps"] = "dial"
    settings: tuple[str, ...] = ()

    def start(self, folder: Path, seconds: float, *, cold: bool, limit: float) -> Start:
        """A short run that tells what planning needs; see `train`."""
        if self.by == "dial":
            done = self._run(folder, [f"pretrain.dial.minutes={seconds / 60:.4f}"], cold, limit, None)
            return Start(max(0.0, done.trained - seconds), 0.0)
        done = self._run(folder, self._steps(_START_STEPS), cold, limit, None)
        training = done.predicted / done.metrics["tokens_per_second"]
        return Start(max(0.0, done.trained - training), training / done.steps)

    def train(
        self, folder: Path, seconds: float, start: Start, *, cold: bool, limit: float, seed: int | None = None
    ) -> Trained:
        """Train in `folder` from nothing, planned to end after `seconds` of wall time.

        cold: nothing was compiled before, and nothing found out about the machine; else as if the same command had run.
        """
        return self._run(folder, self.length(seconds, start), cold, limit, seed)

    def fill(self, folder: Path, length: list[str], limit: float) -> None:
        """Fill the warm cache with what a run of that length compiles: another is begun, and ended when it trains."""
        timed(self._command(folder, length, None), folder, limit, _PERCENT, self._variables(False), first_only=True)

    def length(self, seconds: float, start: Start) -> list[str]:
        """The settings of a run that ends after `seconds`."""
        left = max(seconds - start.overhead, 0.1 * seconds)
        if self.by == "dial":
            return [f"pretrain.dial.minutes={left / 60:.4f}"]
        return self._steps(max(2, int(left * (1 - _BETWEEN) / start.pace)))

    def _steps(self, steps: int) -> list[str]:
        written = self.configuration().pretrain
        warmup = max(1, round(steps * written.warmup_steps / written.steps))
        return [*_NO_DIAL, f"pretrain.steps={steps}", f"pretrain.warmup_steps={warmup}"]

    def configuration(self) -> Configuration:
        """Parameters of the workspace, with the settings."""
        from components.configuration import load

        return load(self.workspace / "params.yaml", list(self.settings))

    def _run(self, folder: Path, length: list[str], cold: bool, limit: float, seed: int | None) -> Trained:
        return _read(folder, timed(self._command(folder, length, seed), folder, limit, _PERCENT, self._variables(cold)))

    def _command(self, folder: Path, length: list[str], seed: int | None) -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        wanted = ["tracking.enabled=false", *self.settings, *length, *([] if seed is None else [f"seed={seed}"])]
        return [
            *(sys.executable, "-m", "components.pretrain"),
            *("--params", str(self.workspace / "params.yaml")),
            *("--tokens", str(self.workspace / "data" / "tokens")),
            *("--tokenizer", str(self.workspace / "models" / "tokenizer")),
            *(part for setting in wanted for part in ("--set", setting)),
        ]

    def _variables(self, cold: bool) -> dict[str, str]:
        """What the machine was found to be like is kept beside what was compiled, and is as fresh."""
        cache = self.caches / ("inkwell-cold" if cold else "inkwell-warm")
        return compile_cache(cache, fresh=cold) | {"INKWELL_CACHE": str(cache / "machine")}


def _read(folder: Path, found: Timed) -> Trained:
    metrics: dict[str, float] = json.loads((folder / "metrics" / "pretrain.json").read_text(encoding="utf-8"))
    with (folder / "data" / "curves" / "pretrain.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if not rows:
        raise InkwellError(f"{folder / 'data' / 'curves' / 'pretrain.csv'} is empty: the run took no step.")
    # without a last word on the progress of training (a run of seconds) the command's end counts
    trained = found.trained if found.steps and found.steps[-1][0] == 100 else found.seconds
    moments = [(0, 0.0), *(mark for mark in found.steps if mark[0] < 100), (100, trained)]
    last = float(rows[-1]["step"])
    curve = [
        (_moment(moments, 100 * float(row["step"]) / last), float(row["validation_bits_per_char"]))
        for row in rows
        if row.get("validation_bits_per_char")
    ]
    return Trained(
        trained,
        found.seconds,
        metrics["val_bits_per_char"],
        len(rows),
        sum(int(row["tokens"]) for row in rows),
        metrics,
        curve,
        folder / "models" / "base",
    )


def _moment(marks: list[tuple[int, float]], percent: float) -> float:
    """Seconds at which `percent` of the work was done, between the marks that were seen."""
    for (low, begins), (high, ends) in pairwise(marks):
        if percent <= high:
            return begins + (ends - begins) * (percent - low) / max(1e-9, high - low)
    return marks[-1][1]
