"""The bars of curation: `python -m benchmarks.curation`; its last line is one JSON object.

    recall   copies with 1, 2 and 5 % edited characters, Chinese, Russian, English: the share that is found, and unverified removals
    speed    tag and clean on the 312k Tang and Song poems: seconds and memory
    race     the same rules, MinHash and exact de-duplication, by us and by datatrove 0.10.1, in turns on the same machine
    growth   tag and clean on 250k to 2 M synthetic documents

`--only` runs some of them, `--documents` takes fewer documents to try it out (the last line then says `documents`). Everything happens in
`--workspace`, through the command lines that a user has; memory is the resident memory of all processes together, shared pages counted more
than once. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import InkwellError
from components.machine.cores import choose_threads
from flows.parameters import ROOT
from flows.processes import Command, environment, terminating

PARTS = ("recall", "speed", "race", "growth")
SIZES = (250_000, 500_000, 1_000_000, 2_000_000)
_SAMPLED = 0.1  # seconds between two looks at memory
_SHINGLE, _BANDS, _ROWS = 3, 40, 5
_QUIET = ("tracking.enabled=false",)
_NOTHING_ELSE = (  # what datatrove's side of the race does not do
    "tag.unicode=none",
    "tag.mojibake=false",
    "tag.chinese=keep",
    "tag.remove=[]",
    "tag.identify_language=false",
    "tag.families=[shape, words, repetition, web]",
    "tag.lines={javascript: true, policy: true}",
    "tag.topics.clusters=0",
    f"tag.duplicates={{shingle_characters: {_SHINGLE}, bands: {_BANDS}, rows: {_ROWS}}}",
    "clean.policy=race",
    "clean.review_sample=0",
    "clean.kneser_ney_order=1",
    "clean.kneser_ney_characters=1000",
)


@dataclass(frozen=True)
class Cost:
    """Wall seconds, and the largest resident memory of all processes together, GiB."""

    seconds: float
    peak_gib: float

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(self.seconds + other.seconds, max(self.peak_gib, other.peak_gib))


def measured(command: Sequence[str], folder: Path) -> Cost:
    """Run a command in `folder`; InkwellError with the last line that it said where it fails."""
    env = environment() | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    last = ""
    with terminating(), Command(command, folder, env, together=True) as running:
        watch = _Watch(running.process.pid)
        for line in running.lines():
            last = line.strip() or last
        status = running.wait()
        seconds = time.monotonic() - began
        peak = watch.end()
    if status:
        raise InkwellError(f"{' '.join(command[1:])} ended with status {status}: {last}")
    return Cost(seconds, peak)


class _Watch:
    """Looks at the memory of a tree of processes until it is told to end."""

    def __init__(self, process: int) -> None:
        self._root, self._peak, self._ended = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        import psutil

        try:
            root = psutil.Process(self._root)
        except psutil.NoSuchProcess:
            return
        while not self._ended.wait(_SAMPLED):
            total = 0
            try:
                tree = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in tree:
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            self._peak = max(self._peak, total)

    def end(self) -> float:
        """The peak, GiB."""
        self._ended.set()
        self._thread.join()
        return self._peak / 2**30


def step(name: str, folder: Path, *arguments: str) -> Cost:
    """A step by its command line, in the workspace `folder`."""
    cost = measured([sys.executable, "-m", f"components.{name}", *arguments], folder)
    print(f"  {name}: {cost.seconds:.1f} s, {cost.peak_gib:.2f} GiB", flush=True)
    return cost


def curated(folder: Path, raw: Path, out: Path, settings: Sequence[str] = ()) -> Cost:
    """tag and clean of `raw` into `out`/tagged and `out`/clean, from nothing; all paths relative to the workspace."""
    shutil.rmtree(folder / out, ignore_errors=True)
    shutil.rmtree(folder / ".inkwell" / "work", ignore_errors=True)
    settings = [part for setting in settings for part in ("--set", setting)]
    tagged, clean = str(out / "tagged"), str(out / "clean")
    cost = step("tag", folder, "--raw", str(raw), "--tagged", tagged, "--metrics", str(out / "tag.json"), *settings)
    return cost + step(
        "clean", folder, "--tagged", tagged, "--clean", clean, "--metrics", str(out / "clean.json"), *settings
    )


def poems(workspace: Path, documents: int | None) -> Path:
    """A workspace with the raw Tang and Song poems in data/raw; ingest is not counted, and not repeated."""
    from flows.workspace import make_workspace

    folder = workspace / ("poems" if documents is None else f"poems-{documents}")
    limit = [] if documents is None else [f"ingest.limit={documents}"]
    make_workspace(folder, ["corpus=tang-song", *_QUIET, *limit])
    shutil.copyfile(
        ROOT / "benchmarks" / "race_policy.yaml", folder / "components" / "corpus" / "policies" / "race.yaml"
    )
    if not (folder / "data" / "raw" / "documents.parquet").exists():
        step("ingest", folder)
    return folder


def recall(documents: int | None) -> dict[str, float]:
    """Shares of planted copies that are found, by language and share of edited characters, and that of false removals."""
    from benchmarks.planted_duplicates import figures

    return figures() if documents is None else figures(documents, max(20, documents // 20))


def speed(workspace: Path, documents: int | None, repeats: int) -> dict[str, float]:
    """The whole curation of the poems: median seconds, largest peak."""
    folder = poems(workspace, documents)
    costs = [curated(folder, Path("data/raw"), Path("speed")) for _ in range(repeats)]
    kept = json.loads((folder / "speed" / "clean.json").read_text(encoding="utf-8"))
    print(f"  {kept['documents_kept']:,} of {kept['documents_in']:,} documents stay")
    count = "312k" if documents is None else str(documents)
    seconds = [cost.seconds for cost in costs]
    return {
        f"clean_seconds_{count}": statistics.median(seconds),
        f"clean_seconds_{count}_max": max(seconds),
        "clean_peak_gib": max(cost.peak_gib for cost in costs),
    }


def race(workspace: Path, documents: int | None, repeats: int) -> dict[str, float]:
    """Ratios of datatrove's seconds to ours, in turns; what each keeps is printed."""
    folder = poems(workspace, documents)
    shards = folder / "race" / "shards"
    workers = choose_threads(None)  # as many as our side has
    _shard(folder / "data" / "raw" / "documents.parquet", shards, workers)
    work = folder / "race" / "datatrove"
    command = [
        sys.executable, "-m", "benchmarks.datatrove_race", str(shards.relative_to(folder)), str(work.relative_to(folder)),
        "--shingle", str(_SHINGLE), "--bands", str(_BANDS), "--rows", str(_ROWS),
        "--workers", str(workers),
    ]  # fmt: skip
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(curated(folder, Path("data/raw"), Path("race/ours"), _NOTHING_ELSE))
        theirs.append(measured(command, folder))
        print(f"  datatrove: {theirs[-1].seconds:.1f} s, {theirs[-1].peak_gib:.2f} GiB", flush=True)
    ratios = [theirs[at].seconds / ours[at].seconds for at in range(repeats)]
    agreement = _agreement(folder)
    return {
        "speedup_vs_datatrove": statistics.median(ratios),
        "speedup_vs_datatrove_min": min(ratios),
        "speedup_vs_datatrove_max": max(ratios),
        "race_seconds": statistics.median(cost.seconds for cost in ours),
        "race_peak_gib": max(cost.peak_gib for cost in ours),
        "datatrove_seconds": statistics.median(cost.seconds for cost in theirs),
        "datatrove_peak_gib": max(cost.peak_gib for cost in theirs),
        **agreement,
    }


def _shard(documents: Path, shards: Path, count: int) -> None:
    """Text and id in `count` files: datatrove's tasks take whole files."""
    import pyarrow.parquet as pq

    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir(parents=True)
    table = pq.read_table(documents, columns=["id", "text"])
    size = math.ceil(len(table) / count)
    for number in range(count):
        pq.write_table(table.slice(number * size, size), shards / f"{number:05}.parquet")


def _agreement(folder: Path) -> dict[str, float]:
    """Print what each side keeps; the figures of `benchmarks.race_agreement`, which needs the workspace's policy."""
    command = [sys.executable, "-m", "benchmarks.race_agreement"]
    env = environment() | {"PYTHONPATH": str(ROOT)}
    with terminating(), Command(command, folder, env, together=True) as running:
        last = ""
        for line in running.lines():
            if last:
                print(last, flush=True)
            last = line
        if running.wait():
            raise InkwellError(f"comparing what both keep failed: {last}")
    figures: dict[str, float] = json.loads(last)
    return figures


def growth(workspace: Path, sizes: Sequence[int]) -> dict[str, float]:
    """Seconds and memory of tag and clean by number of synthetic documents; the exponent is 1 where cost is linear."""
    from benchmarks.synthetic import write_synthetic
    from flows.workspace import make_workspace

    folder = workspace / "growth"
    make_workspace(folder, ["corpus=tang-song", "tag.families=[shape, verse]", "clean.policy=base", *_QUIET])
    found: dict[str, float] = {}
    costs = []
    for size in sizes:
        raw = folder / "synthetic" / str(size)
        if not (raw / "documents.parquet").exists():
            print(f"  writing {size:,} documents", flush=True)
            write_synthetic(raw / "documents.parquet", size)
        cost = curated(folder, raw.relative_to(folder), Path("grown"))
        costs.append(cost)
        name = str(size) if size % 1000 else f"{size // 1000}k"
        found[f"growth_seconds_{name}"] = cost.seconds
        found[f"seconds_per_million_{name}"] = cost.seconds / size * 1e6
        found[f"growth_peak_gib_{name}"] = cost.peak_gib
    shutil.rmtree(folder / "grown", ignore_errors=True)
    if len(sizes) > 1:
        logs = [(math.log(size), math.log(cost.seconds)) for size, cost in zip(sizes, costs, strict=True)]
        found["growth_exponent"] = statistics.linear_regression(*zip(*logs, strict=True)).slope
        # between the two largest: what a start costs weighs least there
        found["growth_exponent_end"] = (logs[-1][1] - logs[-2][1]) / (logs[-1][0] - logs[-2][0])
        extra = (costs[-1].peak_gib - costs[0].peak_gib) / (sizes[-1] - sizes[0]) * 1e6
        found["growth_gib_per_million"] = extra
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas (default: %(default)s)")
    parser.add_argument("--documents", type=int, help="take this many poems, and at most this many synthetic documents")
    parser.add_argument("--repeats", type=int, default=2, help="runs of speed and race (default: %(default)s)")
    parser.add_argument(
        "--workspace", type=Path, default=Path(".curation"), help="where it happens (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    found: dict[str, float] = {}
    try:
        chosen = [part.strip() for part in arguments.only.split(",")]
        for part in chosen:
            if part not in PARTS:
                raise InkwellError(f"--only {part}: there are {', '.join(PARTS)}.")
        for name in ("documents", "repeats"):
            if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
                raise InkwellError(f"--{name} must be at least 1.")
        workspace = arguments.workspace.resolve()
        count, repeats = arguments.documents, arguments.repeats
        sizes = SIZES if count is None else [max(1, count // 4), max(2, count // 2), count]
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        for part in chosen:
            print(part, flush=True)
            if part == "recall":
                found |= recall(count)
            elif part == "speed":
                found |= speed(workspace, count, repeats)
            elif part == "race":
                found |= race(workspace, count, repeats)
            else:
                found |= growth(workspace, sizes)
    except InkwellError as error:
        print(f"curation: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("curation: interrupted.", file=sys.stderr)
        return 130
    for name, value in found.items():
        print(f"{name:36} {value:14.4f}")
    print(json.dumps({name: round(value, 6) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
