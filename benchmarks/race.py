"""The race of `benchmarks.pretrain`: equal wall time for Inkwell, the transformers Trainer and litgpt, and time to target.

Everyone gets the same tokens, cores, allocator settings and as many parameters as Inkwell's default has. The clock starts
with the command: imports and compiling are on it, saving and scoring after the last step are not (Inkwell's own validation
at its last step is). A schedule that ends too early or too late would not be honest, so each run's length is planned: the
others' from a short trial of their speed, Inkwell's from a short run of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from benchmarks.parts import ROOT, Parts, digest
from benchmarks.peers.contender import COMPARABLE, Peer, Run, Shape, scored
from benchmarks.peers.inkwell import Inkwell, Start
from benchmarks.peers.timing import Timed, allocator, compile_cache, steps_within, timed
from components.errors import InkwellError

Curves = dict[str, list[tuple[float, float]]]

BUDGETS = (0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)  # shares of the best peer's time, tried from 0.1 on
_FIRST = BUDGETS.index(0.1)
TRIAL = 0.2  # share of the time in which learning rates and batches are compared
BEYOND = 3.0  # times or over the best rate, where that is the largest or smallest of those that were tried
_START = 0.05  # share of the time of the run that tells how long Inkwell takes to start
_PROBE_STEPS = 24
_SNAPSHOTS = 8
_SAMPLE = 400  # held-out documents that a point of a curve is scored on
_LARGE = 2**20
_MARGIN = 0.99  # speed is not known to the percent
_OVERRUN = 1.02  # a run that took longer than this share of the time is repeated with less
_SHORT = 0.96  # a run of the others that took less than this share is repeated with more: the time is theirs


@dataclass(frozen=True)
class Race:
    """What everyone gets: `seconds` of wall time on the corpus of `workspace`; rows of `block` tokens.

    `parts` are of Inkwell's runs; those of the others lie beside, in a folder that does not depend on Inkwell's code.
    repeats: seeds of Inkwell's run over the whole time and of the best other's. seeds: that have to reach the target.
    """

    workspace: Path
    parts: Parts
    inkwell: Inkwell
    peers: Sequence[Peer]
    seconds: float
    block: int
    caches: tuple[str, ...] = ("cold", "warm")
    full: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)
    repeats: int = 1

    @property
    def limit(self) -> float:
        """Seconds after which a command is taken to hang."""
        return 3 * self.seconds + 600

    def run(self) -> tuple[dict[str, float], Curves]:
        """All of it: figures by flat names, and bits per character over wall seconds by contender and cache.

        Raises InkwellError where the others have no model like Inkwell's.
        """
        self.check()
        found: dict[str, float] = {}
        curves: Curves = {}
        for cache in self.caches:
            runs = [self._ours(cache, number) for number in range(self.repeats)]
            ours = _middle(runs)
            suffix = _suffix(cache)
            found |= {
                **_ends("inkwell", suffix, runs),
                f"seconds_inkwell_command{suffix}": ours["seconds"],
                f"tokens_inkwell{suffix}": ours["metrics"]["tokens"],
            }
            found["parameters_inkwell"] = ours["metrics"]["parameters"]
            curves[f"Inkwell, {cache} cache"] = ours["curve"]
        if self.peers:
            shape = Shape.of(ours["model"])
            parts = self._peers_parts(shape)
            sides = {peer.name: _Side(self, peer, shape, parts) for peer in self.peers}
            for cache in self.caches:
                runs_of = {name: [side.best(cache)] for name, side in sides.items()}
                best = min(runs_of.values(), key=lambda theirs: float(theirs[0]["bits"]))
                for seed in range(2, 1 + self.repeats):
                    best.append(sides[best[0]["peer"]].again(cache, best[0], seed))
                for name, theirs in runs_of.items():
                    suffix, shown = _suffix(cache), _middle(theirs)
                    found |= {
                        **_ends(name, suffix, theirs),
                        f"tokens_{name}{suffix}": shown["tokens"],
                        f"rate_{name}{suffix}": shown["rate"],
                        f"batch_{name}{suffix}": shown["batch"],
                        f"compiled_{name}{suffix}": float(shown["mode"] == "compiled"),
                    }
                    curves[f"{name}, {cache} cache"] = shown["curve"]
        for cache in self.caches:
            found |= self._targets(cache, found)
            shorter = [self.parts.read(name) for name in self.parts.names(f"target-{cache}-*")]
            if shorter:
                ends = sorted((float(run["trained"]), float(run["bits"])) for run in shorter)
                curves[f"Inkwell planned for less time, {cache} cache"] = ends
        return found, curves

    def check(self) -> None:
        """Raise InkwellError where the others could not train a model like Inkwell's."""
        if not self.peers:
            return
        pretrain = self.inkwell.configuration().pretrain
        if pretrain.initial or pretrain.architecture not in COMPARABLE:
            what = f"initial = {pretrain.initial}" if pretrain.initial else f"architecture = {pretrain.architecture}"
            raise InkwellError(
                f'pretrain.{what}: the others of the race train a Llama from nothing; leave them out (--peers ""), or set '
                f"pretrain.initial=null and pretrain.architecture to {', '.join(COMPARABLE[:-1])} or {COMPARABLE[-1]}."
            )

    def _peers_parts(self, shape: Shape) -> Parts:
        """The others' runs depend on text, shape, time and their own code, and stay what they are when Inkwell changes."""
        from components.corpus.packed import TokenShards

        corpus = TokenShards(self.workspace / "data" / "tokens", "train").fingerprint[:8]
        setting = {
            "peers": corpus,
            "shape": shape.digest(self.block),
            "minutes": f"{self.seconds / 60:g}",
        }
        folder = ROOT / "benchmarks" / "peers"
        code = [f"benchmarks/peers/{path.name}" for path in folder.iterdir() if path.is_file()]
        code.remove("benchmarks/peers/inkwell.py")
        # everyone is scored by the same code
        return Parts(self.parts.root, setting, digest([*code, "components/model/scoring.py"]), self.parts.fresh)

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

    def _ours(self, cache: str, number: int) -> dict[str, Any]:
        """Inkwell's default over the whole time; with the parameters' own seed, then with the next ones."""
        name = f"inkwell-{cache}" + (f"-{number}" if number else "")
        folder = self.parts.folder / "runs" / name
        seed = self.inkwell.configuration().seed + number if number else None
        return self.parts.done(
            name, lambda: in_time(self.seconds, lambda seconds: self._train(folder, seconds, cache, seed))
        )

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


def in_time(seconds: float, train: Callable[[float], dict[str, Any]]) -> dict[str, Any]:
    """A run of Inkwell in `seconds` of wall time: `train` is told what to plan for, and again, with less, where it took longer."""
    planned = seconds * _MARGIN
    done = train(planned)
    for _ in range(2):
        if done["trained"] <= seconds * _OVERRUN:
            break
        print(f"  it took {done['trained']:.0f} s of {seconds:.0f}: again, with less", flush=True)
        planned = max(0.1 * seconds, planned - (done["trained"] - seconds * _MARGIN))
        done = train(planned)
    return done


def tuned(
    rates: Sequence[float], batches: Sequence[int], bits: Callable[[float, int], float]
) -> tuple[float, int, dict[tuple[float, int], float]]:
    """(rate, batch) of the fewest `bits`: rates at the middle batch first, then the other batches at the best rate.

    Where the best is the smallest or the largest that was tried, one beyond it is tried too: a third or three times of a
    rate, half or twice a batch. Also what was tried.
    """
    found: dict[tuple[float, int], float] = {}

    def best(among: Sequence[tuple[float, int]]) -> tuple[float, int]:
        for rate, batch in among:
            if (rate, batch) not in found:
                value = bits(rate, batch)
                found[rate, batch] = value if isfinite(value) else inf  # it diverged
        return min(among, key=lambda pair: found[pair])

    middle = batches[len(batches) // 2]
    tried = [(rate, middle) for rate in sorted(rates)]
    rate, _ = best(tried)
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        beyond = float(f"{rate * BEYOND if rate == max(rates) else rate / BEYOND:.3g}")
        rate, _ = best([*tried, (beyond, middle)])
    _, batch = best([(rate, rows) for rows in batches])
    if len(batches) > 1 and batch in (min(batches), max(batches)):
        further = batch * 2 if batch == max(batches) else max(1, batch // 2)
        _, batch = best([(rate, rows) for rows in (*batches, further)])
    return rate, batch, found


def _middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median run; of an even number the worse of the two in the middle."""
    return sorted(runs, key=lambda run: float(run["bits"]))[len(runs) // 2]


def _ends(name: str, suffix: str, runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Bits and seconds of the median run; of several also the least and the most bits."""
    shown = _middle(runs)
    found = {f"bpc_{name}{suffix}": float(shown["bits"]), f"seconds_{name}{suffix}": float(shown["trained"])}
    if len(runs) > 1:
        values = [float(run["bits"]) for run in runs]
        found |= {f"bpc_{name}_min{suffix}": min(values), f"bpc_{name}_max{suffix}": max(values)}
    return found


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
    parts: Parts

    def best(self, cache: str) -> dict[str, Any]:
        """Its run over the whole time with its best settings, with a cache that is cold or warm.

        The settings are the best of trials of a fifth of the time, each with a schedule that ends there; where the race
        is `full`, of runs over the whole time.
        """
        self.peer.install(self._folder(self.peer.name))

        def bits(rate: float, batch: int) -> float:
            run = self._whole(cache, rate, batch) if self.race.full else self._trial(rate, batch)
            return float(run["bits"])

        rate, batch, tried = tuned(self.peer.rates, self.peer.batches, bits)
        told = ", ".join(f"{value:.4f} ({at:g}, {rows} rows)" for (at, rows), value in tried.items())
        print(f"  {self.peer.name}: a rate of {rate:g} with {batch} rows is the best of {told}", flush=True)
        return self._whole(cache, rate, batch)

    def again(self, cache: str, run: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The same run over the whole time with another seed."""
        return self._whole(cache, run["rate"], run["batch"], seed)

    def _folder(self, name: str) -> Path:
        return self.parts.folder / "runs" / name

    def _trial(self, rate: float, batch: int) -> dict[str, Any]:
        seconds = self.race.seconds * TRIAL
        name, mode = f"{self.peer.name}-trial-{rate:g}-{batch}", self._mode("warm", batch, seconds)
        steps = steps_within(self._probe(mode, batch, "warm"), seconds)
        return self.parts.done(name, lambda: self._train(name, rate, batch, mode, "warm", steps, 1))

    def _whole(self, cache: str, rate: float, batch: int, seed: int = 1) -> dict[str, Any]:
        mode = self._mode(cache, batch, self.race.seconds)
        name = f"{self.peer.name}-{cache}-{rate:g}-{batch}" + (f"-seed-{seed}" if seed > 1 else "")
        seconds = self.race.seconds

        def work() -> dict[str, Any]:
            steps = steps_within(self._probe(mode, batch, cache), seconds * _MARGIN)
            done = self._train(name, rate, batch, mode, cache, steps, _SNAPSHOTS, seed)
            for _ in range(2):
                if _SHORT * seconds <= done["trained"] <= _OVERRUN * seconds:
                    break
                # a few steps had promised another pace than thousands keep
                steps = max(1, int(steps * seconds * _MARGIN / done["trained"]))
                print(f"  it took {done['trained']:.0f} s of {seconds:.0f}: again, with {steps} steps", flush=True)
                done = self._train(name, rate, batch, mode, cache, steps, _SNAPSHOTS, seed)
            return done

        return self.parts.done(name, work)

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


def _suffix(cache: str) -> str:
    """Names of the bars are those of a warm cache; a cold one is said."""
    return "" if cache == "warm" else f"_{cache}"


def plan(race: Race) -> list[tuple[str, float]]:
    """(what, minutes) that the race will take about."""
    minutes, caches = race.seconds / 60, len(race.caches)
    found = [("Inkwell: what it takes to start, the whole of the time", caches * (1.1 * race.repeats * minutes + 2.0))]
    for peer in race.peers:
        trials = len(peer.rates) + len(peer.batches)  # one of them is both, and one may lie beyond an edge
        whole = caches * minutes * (trials if race.full else 1) + (0 if race.full else trials * TRIAL * minutes)
        speed = 2.0 * len(peer.modes) * len(peer.batches)
        found.append((f"{peer.name}: speed, trials, the whole of the time, scoring", whole + speed + 3.0))
    if race.peers and race.repeats > 1:
        found.append(("the best of them with other seeds", caches * (race.repeats - 1) * (minutes + 0.5)))
    if race.peers:
        found.append((f"time to target, {len(race.seeds)} seeds", caches * (0.5 * minutes + 4.0)))
    return found
