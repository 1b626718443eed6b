"""The race of `benchmarks.pretrain`: equal wall time for Inkwell, the transformers Trainer and litgpt, and time to target.

Everyone gets the same tokens, cores, allocator settings and as many parameters as Inkwell's default has. The clock starts
with the command: imports and compiling are on it, saving and scoring after the last step are not. A schedule that ends too
early or too late would not be honest, so each run's length is planned: the others' from a short trial of their speed,
Inkwell's from a short run of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts import Parts
from benchmarks.peers.contender import Peer, Run, Shape, scored
from benchmarks.peers.inkwell import Inkwell, Start
from benchmarks.peers.timing import Timed, allocator, compile_cache, steps_within, timed
from components.errors import InkwellError

Curves = dict[str, list[tuple[float, float]]]

BUDGETS = (0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)  # shares of the best peer's time, tried from 0.1 on
_FIRST = BUDGETS.index(0.1)
TRIAL = 0.2  # share of the time in which learning rates are compared
_START = 0.05  # share of the time of the run that tells how long Inkwell takes to start
_PROBE_STEPS = 24
_SNAPSHOTS = 8
_SAMPLE = 400  # held-out documents that a point of a curve is scored on
_LARGE = 2**20
_MARGIN = 0.99  # speed is not known to the percent
_OVERRUN = 1.02  # a run of Inkwell that took longer than this share of the time is repeated with fewer minutes


@dataclass(frozen=True)
class Race:
    """What everyone gets: `seconds` of wall time on the corpus of `workspace`; rows of `block` tokens."""

    workspace: Path
    parts: Parts
    inkwell: Inkwell
    peers: Sequence[Peer]
    seconds: float
    block: int
    caches: tuple[str, ...] = ("cold", "warm")
    full: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)

    @property
    def limit(self) -> float:
        """Seconds after which a command is taken to hang."""
        return 3 * self.seconds + 600

    def run(self) -> tuple[dict[str, float], Curves]:
        """All of it: figures by flat names, and bits per character over wall seconds by contender and cache."""
        found: dict[str, float] = {}
        curves: Curves = {}
        for cache in self.caches:
            ours = self._ours(cache)
            suffix = _suffix(cache)
            found |= {
                f"bpc_inkwell{suffix}": ours["bits"],
                f"seconds_inkwell{suffix}": ours["trained"],
                f"seconds_inkwell_command{suffix}": ours["seconds"],
                f"tokens_inkwell{suffix}": ours["metrics"]["tokens"],
            }
            found["parameters_inkwell"] = ours["metrics"]["parameters"]
            curves[f"Inkwell, {cache} cache"] = ours["curve"]
        shape = Shape.of(ours["model"])
        for peer in self.peers:
            theirs = _Side(self, peer, shape)
            for cache in self.caches:
                best = theirs.best(cache)
                suffix = _suffix(cache)
                found |= {
                    f"bpc_{peer.name}{suffix}": best["bits"],
                    f"seconds_{peer.name}{suffix}": best["trained"],
                    f"tokens_{peer.name}{suffix}": best["tokens"],
                    f"rate_{peer.name}{suffix}": best["rate"],
                    f"compiled_{peer.name}{suffix}": float(best["mode"] == "compiled"),
                }
                curves[f"{peer.name}, {cache} cache"] = best["curve"]
        for cache in self.caches:
            found |= self._targets(cache, found)
            shorter = [self.parts.read(name) for name in self.parts.names(f"target-{cache}-*")]
            if shorter:
                ends = sorted((float(run["trained"]), float(run["bits"])) for run in shorter)
                curves[f"Inkwell planned for less time, {cache} cache"] = ends
        return found, curves

    def _start(self, cache: str) -> Start:
        """What Inkwell needs beside its training; with a warm cache only after a run that has filled it."""
        folder = self.parts.folder / "runs" / f"inkwell-start-{cache}"

        def work() -> dict[str, Any]:
            seconds = _START * self.seconds
            for _ in range(1 if cache == "cold" else 2):
                start = self.inkwell.start(folder, seconds, cold=cache == "cold", limit=self.limit)
            return asdict(start)

        return Start(**self.parts.done(f"inkwell-start-{cache}", work))

    def _fill(self, seconds: float, start: Start) -> None:
        """The dial takes another shape for another time: each is compiled once before it is on the clock."""

        def work() -> dict[str, Any]:
            self.inkwell.fill(self.parts.folder / "runs" / "fill", length, self.limit)
            return {}

        length = self.inkwell.length(seconds, start)
        if self.inkwell.by == "dial":
            self.parts.done(f"fill-{seconds:.0f}", work)

    def _ours(self, cache: str) -> dict[str, Any]:
        """Inkwell's default over the whole time."""

        def work() -> dict[str, Any]:
            seconds = self.seconds * _MARGIN
            folder = self.parts.folder / "runs" / f"inkwell-{cache}"
            done = self._train(folder, seconds, cache)
            for _ in range(2):
                if done["trained"] <= self.seconds * _OVERRUN:
                    break
                print(f"  it took {done['trained']:.0f} s of {self.seconds:.0f}: again, with less", flush=True)
                seconds = max(0.1 * self.seconds, seconds - (done["trained"] - self.seconds * _MARGIN))
                done = self._train(folder, seconds, cache)
            return done

        return self.parts.done(f"inkwell-{cache}", work)

    def _train(self, folder: Path, seconds: float, cache: str, seed: int | None = None) -> dict[str, Any]:
        start = self._start(cache)
        if cache == "warm":
            self._fill(seconds, start)
        done = self.inkwell.train(folder, seconds, start, cold=cache == "cold", limit=self.limit, seed=seed)
        print(
            f"  inkwell ({cache} cache, planned for {seconds:.0f} s): {done.bits:.4f} bits a character, "
            f"{done.metrics['parameters'] / 1e6:.1f} M parameters, {done.steps} steps in {done.trained:.1f} s "
            f"({done.seconds:.1f} s until the command ended)",
            flush=True,
        )
        return done.figures()

    def _target_run(self, cache: str, share: float, seed: int) -> dict[str, Any]:
        """A run of Inkwell planned for a share of the time."""
        name = f"target-{cache}-{share}-{seed}"
        folder = self.parts.folder / "runs" / name
        return self.parts.done(name, lambda: self._train(folder, share * self.seconds, cache, seed))

    def _targets(self, cache: str, found: Mapping[str, float]) -> dict[str, float]:
        """How soon Inkwell reaches what the best peer ends with; nothing where it does not."""
        suffix = _suffix(cache)
        if not self.peers:
            return {}
        name = min((peer.name for peer in self.peers), key=lambda name: found[f"bpc_{name}{suffix}"])
        target, whole = found[f"bpc_{name}{suffix}"], found[f"seconds_{name}{suffix}"]

        def bits(share: float, seed: int) -> float:
            return float(self._target_run(cache, share, seed)["bits"])

        share = smallest(
            lambda share: bits(share, self.seeds[0]) <= target,
            lambda share: all(bits(share, seed) <= target for seed in self.seeds),
        )
        if share is None:
            print(
                f"  no run of Inkwell within {BUDGETS[-1]:.0%} of the time reached {target:.4f} ({name}, {cache} cache)"
            )
            return {}
        runs = [self._target_run(cache, share, seed) for seed in self.seeds]
        ratios = sorted(run["trained"] / whole for run in runs)
        print(
            f"  target {target:.4f} ({name}, {cache} cache): reached by every one of {len(runs)} seeds planned for {share:.1%} "
            f"of the time, after {ratios[0]:.1%} to {ratios[-1]:.1%}",
            flush=True,
        )
        return {
            f"time_to_target_ratio{suffix}": ratios[len(ratios) // 2],
            f"time_to_target_ratio_min{suffix}": ratios[0],
            f"time_to_target_ratio_max{suffix}": ratios[-1],
            f"target_bpc{suffix}": target,
            f"target_reached_bpc_min{suffix}": min(run["bits"] for run in runs),
            f"target_reached_bpc_max{suffix}": max(run["bits"] for run in runs),
        }


def smallest(reaches: Callable[[float], bool], holds: Callable[[float], bool]) -> float | None:
    """The smallest budget that reaches the target, looked for from a tenth on: down while it `reaches`, else up.

    What was found has to hold for every seed; where it does not, the next larger one is asked. None: not even the largest.
    """
    at = _FIRST
    if reaches(BUDGETS[at]):
        while at > 0 and reaches(BUDGETS[at - 1]):
            at -= 1
    else:
        at += 1
    return next((share for share in BUDGETS[at:] if reaches(share) and holds(share)), None)


@dataclass(frozen=True)
class _Side:
    """One peer's side of the race."""

    race: Race
    peer: Peer
    shape: Shape

    @property
    def _folder(self) -> Path:
        return self.race.parts.folder / "runs" / self.peer.name

    def best(self, cache: str) -> dict[str, Any]:
        """Its best run over the whole time, with a cache that is cold or warm."""
        self.peer.install(self._folder)
        if self.race.full:
            runs = [self._whole(cache, rate) for rate in self.peer.rates]
            return min(runs, key=lambda run: float(run["bits"]))
        return self._whole(cache, self._rate())

    def _rate(self) -> float:
        """The best of three at a fifth of the time each, each with a schedule that ends there."""
        bits = {rate: float(self._trial(rate)["bits"]) for rate in self.peer.rates}
        best = min(bits, key=lambda rate: bits[rate])
        print(f"  {self.peer.name}: learning rate {best} is the best of {bits}", flush=True)
        return best

    def _trial(self, rate: float) -> dict[str, Any]:
        seconds = self.race.seconds * TRIAL
        name, mode = f"{self.peer.name}-rate-{rate}", self._mode("warm", seconds)
        return self.race.parts.done(name, lambda: self._train(name, rate, mode, "warm", seconds, 1))

    def _whole(self, cache: str, rate: float) -> dict[str, Any]:
        mode = self._mode(cache, self.race.seconds)
        name = f"{self.peer.name}-{cache}-{rate}"
        return self.race.parts.done(
            name, lambda: self._train(name, rate, mode, cache, self.race.seconds * _MARGIN, _SNAPSHOTS)
        )

    def _train(self, name: str, rate: float, mode: str, cache: str, seconds: float, saves: int) -> dict[str, Any]:
        steps = steps_within(self._probe(mode, cache), seconds)
        run = self._run(self.race.parts.folder / "runs" / name, rate, steps, saves)
        found = self._timed(run, mode, cache, fresh=cache == "cold")
        kept = self.peer.weights(run)
        assert kept[-1][0] == steps, f"{self.peer.name} kept no weights of its last step"
        moments = dict(found.steps)
        bits = self._scored(run.folder, [kept[-1][1]], None)[0]
        curve = []
        if saves > 1:
            sampled = self._scored(run.folder, [entry for _, entry in kept], _SAMPLE)
            curve = [(moments[step], value) for (step, _), value in zip(kept, sampled, strict=True)]
        for file in run.folder.rglob("*"):
            if file.is_file() and file.stat().st_size > _LARGE:
                file.unlink()  # weights that have been scored
        print(
            f"  {self.peer.name} ({mode}, {cache} cache, rate {rate}): {bits:.4f} bits a character after {steps} steps in "
            f"{found.trained:.1f} s",
            flush=True,
        )
        return {
            "bits": bits,
            "trained": found.trained,
            "seconds": found.seconds,
            "steps": steps,
            "tokens": steps * run.batch * run.block,
            "rate": rate,
            "mode": mode,
            "curve": curve,
        }

    def _scored(self, folder: Path, models: list[dict[str, Any]], documents: int | None) -> list[float]:
        tokens = str(self.race.workspace / "data" / "tokens")
        return scored(folder, {"tokens": tokens, "documents": documents, "block": self.race.block, "models": models})

    def _mode(self, cache: str, seconds: float) -> str:
        """The mode in which most steps fit into the time."""
        probes = {mode: self._probe(mode, cache) for mode in self.peer.modes}
        return max(probes, key=lambda mode: steps_within(probes[mode], seconds))

    def _probe(self, mode: str, cache: str) -> Timed:
        """A few steps that tell how long starting and a step take. Not counted, and planned with, no more."""
        cached = cache if mode == "compiled" else "warm"  # nothing is cached where nothing is compiled
        fills = mode == "compiled" and cached == "cold"  # and what it compiles is the warm cache of all that follows
        if mode == "compiled" and not fills:
            self._probe(mode, "cold")
        name = f"{self.peer.name}-speed-{mode}-{cached}"

        def work() -> dict[str, Any]:
            run = self._run(self.race.parts.folder / "runs" / name, self.peer.rates[0], _PROBE_STEPS, 1)
            found = self._timed(run, mode, "warm", fresh=fills)
            print(
                f"  {self.peer.name} ({mode}, {cached} cache): first step after {found.first:.1f} s, then {found.pace:.3f} s each",
                flush=True,
            )
            return {"seconds": found.seconds, "steps": found.steps}

        kept = self.race.parts.done(name, work)
        return Timed(kept["seconds"], [(step, moment) for step, moment in kept["steps"]])

    def _timed(self, run: Run, mode: str, cache: str, fresh: bool) -> Timed:
        shutil.rmtree(run.folder, ignore_errors=True)
        command = self.peer.command(run, mode)
        place = self.race.inkwell.caches / f"{self.peer.name}-{cache}"
        variables = allocator() | compile_cache(place, fresh)
        found = timed(command, run.folder, self.race.limit, self.peer.step, variables)
        if not found.steps or found.steps[-1][0] != run.steps:
            raise InkwellError(
                f"{self.peer.name} told of {len(found.steps)} of {run.steps} steps: see {run.folder / 'log.txt'}."
            )
        return found

    def _run(self, folder: Path, rate: float, steps: int, saves: int) -> Run:
        tokens = (self.race.workspace / "data" / "tokens").absolute()
        return Run(folder.absolute(), tokens, self.shape, rate, steps, self.peer.batch, self.race.block, saves)


def _suffix(cache: str) -> str:
    """Names of the bars are those of a warm cache; a cold one is said."""
    return "" if cache == "warm" else f"_{cache}"


def plan(race: Race) -> list[tuple[str, float]]:
    """(what, minutes) that the race will take about."""
    minutes, caches = race.seconds / 60, len(race.caches)
    found = [("Inkwell: what it takes to start, the whole of the time", caches * (1.1 * minutes + 2.0))]
    for peer in race.peers:
        rates = len(peer.rates)
        whole = caches * minutes * (rates if race.full else 1) + (0 if race.full else rates * TRIAL * minutes)
        found.append(
            (f"{peer.name}: speed, learning rates, the whole of the time, scoring", whole + 2.0 * len(peer.modes) + 3.0)
        )
    if race.peers:
        found.append((f"time to target, {len(race.seeds)} seeds", caches * (0.5 * minutes + 4.0)))
    return found
