"""The race from the first trial to the time to target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts import ROOT, Parts, digest
from benchmarks.peers.contender import COMPARABLE, Peer, Shape
from benchmarks.peers.inkwell import Inkwell, Start
from benchmarks.race.lengths import in_time
from benchmarks.race.like import shape_of_others
from benchmarks.race.settings import BUDGETS, smallest
from benchmarks.race.side import TRIAL, Side
from components.errors import InkwellError

Curves = dict[str, list[tuple[float, float]]]

_START = 0.05  # share of the time of the run that tells how long Inkwell takes to start


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

    def run(self) -> tuple[dict[str, float | None], Curves]:
        """All of it: figures by flat names, and bits per character over wall seconds by contender and cache.

        The time to target is always among them, None where the target was not reached. Raises InkwellError where the
        others have no model like Inkwell's.
        """
        self.check()
        found: dict[str, float] = {}
        targets: dict[str, float | None] = {}
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
            kept, own = self._peers_parts(), Shape.of(ours["model"])
            shape, found["parameters_others"] = shape_of_others(kept, own, int(found["parameters_inkwell"]), self.block)
            parts = self._peers_parts(shape)
            sides = {peer.name: Side(self, peer, shape, parts) for peer in self.peers}
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
            targets |= self._targets(cache, found)
            shorter = [self.parts.read(name) for name in self.parts.names(f"target-{cache}-*")]
            if shorter:
                ends = sorted((float(run["trained"]), float(run["bits"])) for run in shorter)
                curves[f"Inkwell planned for less time, {cache} cache"] = ends
        return {**found, **targets}, curves

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

    def _peers_parts(self, shape: Shape | None = None) -> Parts:
        """The others' runs depend on text, shape, time and their own code, and stay what they are when Inkwell changes.

        Without a shape: what is kept of all shapes.
        """
        from components.corpus.packed import TokenShards

        corpus = TokenShards(self.workspace / "data" / "tokens", "train").fingerprint[:8]
        setting = {
            "peers": corpus,
            "shape": shape.digest(self.block) if shape else "any",
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

    def _targets(self, cache: str, found: Mapping[str, float]) -> dict[str, float | None]:
        """How soon Inkwell reaches what the best peer ends with; None where it does not, or where there is no peer."""
        suffix = _suffix(cache)
        ratio = f"time_to_target_ratio{suffix}"
        if not self.peers:
            return {ratio: None}
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
            return {ratio: None, f"target_bpc{suffix}": target}
        runs = [self._target_run(cache, share, seed) for seed in self.seeds]
        ratios = sorted(run["trained"] / whole for run in runs)
        print(
            f"  target {target:.4f} ({name}, {cache} cache): reached by every one of {len(runs)} seeds planned for {share:.1%} "
            f"of the time, after {ratios[0]:.1%} to {ratios[-1]:.1%}",
            flush=True,
        )
        return {
            ratio: ratios[len(ratios) // 2],
            f"time_to_target_ratio_min{suffix}": ratios[0],
            f"time_to_target_ratio_max{suffix}": ratios[-1],
            f"target_bpc{suffix}": target,
            f"target_reached_bpc_min{suffix}": min(run["bits"] for run in runs),
            f"target_reached_bpc_max{suffix}": max(run["bits"] for run in runs),
        }


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
