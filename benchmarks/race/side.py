"""One of the others in the race: its trials and its runs over the whole time, scored by the code that scores everyone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.parts import Parts
from benchmarks.peers.contender import Peer, Run, Shape, scored
from benchmarks.peers.timing import Timed, allocator, compile_cache, steps_within, timed
from benchmarks.race.lengths import MARGIN, steps_in_time
from benchmarks.race.settings import tuned
from components.errors import InkwellError

if TYPE_CHECKING:
    from benchmarks.race.running import Race

TRIAL = 0.2  # share of the time in which learning rates and batches are compared
NEAR = 1.01  # times the least bits: closer than trials tell apart
_PROBE_STEPS = 24
_SNAPSHOTS = 8
_SAMPLE = 400  # held-out documents that a point of a curve is scored on
_LARGE = 2**20


@dataclass(frozen=True)
class Side:
    """One peer's side of the race."""

    race: Race
    peer: Peer
    shape: Shape
    parts: Parts

    def best(self, cache: str) -> dict[str, Any]:
        """Its run over the whole time with its best settings, with a cache that is cold or warm.

        The settings are the best of trials of a fifth of the time, each with a schedule that ends there; where several are
        as good as that can tell, or the race is `full`, of runs over the whole time with a warm cache.
        """
        self.peer.install(self._folder(self.peer.name))
        rate, batch = self._settings()
        return self._whole(cache, rate, batch)

    def _settings(self) -> tuple[float, int]:
        """The best learning rate and batch."""

        def bits(rate: float, batch: int) -> float:
            run = self._whole("warm", rate, batch) if self.race.full else self._trial(rate, batch)
            return float(run["bits"])

        rate, batch, tried = tuned(self.peer.rates, self.peer.batches, bits)
        told = ", ".join(f"{value:.4f} ({at:g}, {rows} rows)" for (at, rows), value in tried.items())
        print(f"  {self.peer.name}: a rate of {rate:g} with {batch} rows is the best of {told}", flush=True)
        close = [pair for pair, value in tried.items() if value <= NEAR * tried[rate, batch]]
        if self.race.full or len(close) == 1:
            return rate, batch
        print(f"  {self.peer.name}: {len(close)} are too close to tell: each gets the whole time", flush=True)
        return min(close, key=lambda pair: float(self._whole("warm", *pair)["bits"]))

    def again(self, cache: str, run: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The same run over the whole time with another seed."""
        return self._whole(cache, run["rate"], run["batch"], seed)

    def _folder(self, name: str) -> Path:
        return self.parts.folder / "runs" / name

    def _trial_name(self, rate: float, batch: int) -> str:
        return f"{self.peer.name}-trial-{rate:g}-{batch}"

    def _trial(self, rate: float, batch: int) -> dict[str, Any]:
        seconds = self.race.seconds * TRIAL
        name, mode = self._trial_name(rate, batch), self._mode("warm", batch, seconds)
        steps = steps_within(self._probe(mode, batch, "warm"), seconds)
        return self.parts.done(name, lambda: self._train(name, rate, batch, mode, "warm", steps, 1))

    def _whole(self, cache: str, rate: float, batch: int, seed: int = 1) -> dict[str, Any]:
        mode = self._mode(cache, batch, self.race.seconds)
        name = f"{self.peer.name}-{cache}-{rate:g}-{batch}" + (f"-seed-{seed}" if seed > 1 else "")
        seconds = self.race.seconds

        def work() -> dict[str, Any]:
            steps = self._steps(mode, rate, batch, cache, seconds * MARGIN)
            return steps_in_time(
                seconds, steps, lambda steps: self._train(name, rate, batch, mode, cache, steps, _SNAPSHOTS, seed)
            )

        return self.parts.done(name, work)

    def _steps(self, mode: str, rate: float, batch: int, cache: str, seconds: float) -> int:
        """Steps that fit into `seconds`: by the trial of these settings, which took longer than the probe's few steps."""
        probe, name = self._probe(mode, batch, cache), self._trial_name(rate, batch)
        trial = self.parts.read(name) if self.parts.has(name) else {}
        if trial.get("mode") != mode:
            return steps_within(probe, seconds)
        started = self._probe(mode, batch, "warm").first
        ended = probe.first + trial["trained"] - started
        return steps_within(Timed(ended, [(1, probe.first), (trial["steps"], ended)]), seconds)

    def _train(
        self, name: str, rate: float, batch: int, mode: str, cache: str, steps: int, saves: int, seed: int = 1
    ) -> dict[str, Any]:
        run = self._run(self._folder(name), rate, batch, steps, saves, seed)
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
            f"  {self.peer.name} ({mode}, {cache} cache, rate {rate:g}, {batch} rows): {bits:.4f} bits a character after "
            f"{steps} steps in {found.trained:.1f} s",
            flush=True,
        )
        return {
            "peer": self.peer.name,
            "bits": bits,
            "trained": found.trained,
            "seconds": found.seconds,
            "steps": steps,
            "tokens": steps * run.batch * run.block,
            "rate": rate,
            "batch": batch,
            "mode": mode,
            "curve": curve,
        }

    def _scored(self, folder: Path, models: list[dict[str, Any]], documents: int | None) -> list[float]:
        tokens = str(self.race.workspace / "data" / "tokens")
        return scored(folder, {"tokens": tokens, "documents": documents, "block": self.race.block, "models": models})

    def _mode(self, cache: str, batch: int, seconds: float) -> str:
        """The mode in which most steps fit into the time."""
        probes = {mode: self._probe(mode, batch, cache) for mode in self.peer.modes}
        return max(probes, key=lambda mode: steps_within(probes[mode], seconds))

    def _probe(self, mode: str, batch: int, cache: str) -> Timed:
        """A few steps that tell how long starting and a step take. Not counted, and planned with, no more."""
        cached = cache if mode == "compiled" else "warm"  # nothing is cached where nothing is compiled
        fills = mode == "compiled" and cached == "cold"  # and what it compiles is the warm cache of all that follows
        if mode == "compiled" and not fills:
            self._probe(mode, batch, "cold")
        name = f"{self.peer.name}-speed-{mode}-{batch}-{cached}"

        def work() -> dict[str, Any]:
            run = self._run(self._folder(name), self.peer.rates[0], batch, _PROBE_STEPS, 1)
            found = self._timed(run, mode, "warm", fresh=fills)
            print(
                f"  {self.peer.name} ({mode}, {cached} cache, {batch} rows): first step after {found.first:.1f} s, then "
                f"{found.pace:.3f} s each",
                flush=True,
            )
            return {"seconds": found.seconds, "steps": found.steps}

        kept = self.parts.done(name, work)
        return Timed(kept["seconds"], [(step, moment) for step, moment in kept["steps"]])

    def _timed(self, run: Run, mode: str, cache: str, fresh: bool) -> Timed:
        shutil.rmtree(run.folder, ignore_errors=True)
        command = self.peer.command(run, mode)
        # what is compiled is for one batch; where several shared a folder, a cold start of one would empty the others' too
        place = self.parts.folder / "caches" / f"{self.peer.name}-{run.batch}-{cache}"
        variables = allocator() | compile_cache(place, fresh)
        found = timed(command, run.folder, self.race.limit, self.peer.step, variables)
        if not found.steps or found.steps[-1][0] != run.steps:
            raise InkwellError(
                f"{self.peer.name} told of {len(found.steps)} of {run.steps} steps: see {run.folder / 'log.txt'}."
            )
        return found

    def _run(self, folder: Path, rate: float, batch: int, steps: int, saves: int, seed: int = 1) -> Run:
        tokens = (self.race.workspace / "data" / "tokens").absolute()
        return Run(folder.absolute(), tokens, self.shape, rate, steps, batch, self.race.block, saves, seed)
