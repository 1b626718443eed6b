"""A small model that stands in for the large one: what `flows.ablate`, `flows.tokenizer_sweep` and `flows.scaling` share.

All fill a workspace with steps that each run once (a stamp beside the outputs names what they were made from) and with cells: one
model, trained with one seed, scored on the held-out documents. A cell that is finished is a file; a killed run goes on from there.

    python -m flows.experiments.proxy MODEL TOKENS DOCUMENTS OUTPUT     writes the bits of every held-out document: what a cell is judged by
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file, atomic_folder
from components.corpus.documents import TRAIN, VALIDATION
from components.errors import InkwellError
from flows.processes import Command, environment, terminating
from flows.run import spoken

if TYPE_CHECKING:
    from components.configuration import Configuration, Source
    from components.step import Step


@dataclass(frozen=True)
class Cell:
    """One model to be trained: its variant, seed, data, and parameters beside those of the workspace."""

    variant: str
    seed: int
    documents: Path
    tokenizer: Path
    tokens: Path
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def _state_of_files(sources: Sequence[Source]) -> str:
    """Names, sizes and times of what lies on this machine: ingest has no inputs by which a change would be seen."""
    told = []
    for source in sources:
        if source.kind == "path":
            place = Path(source.location).expanduser()
            found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))  # noqa: PTH207
            for path in sorted(found):
                if path.is_file():
                    told.append(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


class Bench:
    """A workspace in which steps run once and cells are kept. All paths are relative to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commands: set[Command] = set()
        self._stopped = threading.Event()

    def configuration(self, overrides: Sequence[str] = ()) -> Configuration:
        """The workspace's parameters with `overrides`."""
        from components.configuration import load

        return load(self.folder / "params.yaml", overrides)

    def step(
        self,
        name: str,
        inputs: Mapping[str, Path] | None = None,
        outputs: Mapping[str, Path] | None = None,
        overrides: Sequence[str] = (),
        label: str = "",
    ) -> dict[str, float]:
        """Run `python -m components.<name>` unless its outputs stand from the same inputs, parameters and code; its metrics.

        `inputs` and `outputs` name what differs from the step's defaults. InkwellError with the step's own sentence where it fails.
        """
        from components.step import Context

        declared: Step = importlib.import_module(f"components.{name}.__main__").STEP
        read = {key: Path(path) for key, path in declared.inputs.items()} | dict(inputs or {})
        written = {key: Path(path) for key, path in declared.outputs.items()} | dict(outputs or {})
        here = {key: self.folder / path for key, path in read.items()}
        context = Context(declared, self.configuration(overrides), here, written, recorder=None)  # type: ignore[arg-type]
        identity = context.fingerprint()
        if name == "ingest":
            identity += " " + _state_of_files(context.configuration.ingest.sources)
        first = next(iter(written.values()))
        stamp = self.folder / first.with_name(f"{first.name}.stamp")
        if stamp.exists() and all((self.folder / path).exists() for path in written.values()):
            kept = json.loads(stamp.read_text(encoding="utf-8"))
            if kept["identity"] == identity:
                return dict(kept["metrics"])
        stamp.unlink(missing_ok=True)
        metrics = first.with_name(f"{first.name}.metrics.json")
        arguments = ["--metrics", str(metrics)]
        for override in overrides:
            arguments += ["--set", override]
        for key, path in [*read.items(), *written.items()]:
            arguments += [f"--{key.replace('_', '-')}", str(path)]
        self.command([sys.executable, "-m", f"components.{name}", *arguments], label or name)
        found: dict[str, float] = json.loads((self.folder / metrics).read_text(encoding="utf-8"))
        with atomic_file(stamp) as temporary:
            temporary.write_text(json.dumps({"identity": identity, "metrics": found}), encoding="utf-8")
        (self.folder / metrics).unlink()
        return found

    def command(self, command: Sequence[str], label: str) -> None:
        """Run a command in the workspace; InkwellError with the last thing it said where it fails."""
        log = self.folder / "logs" / f"{label.replace(', ', '-').replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if self._stopped.is_set():
            raise KeyboardInterrupt
        last = ""
        with Command(command, self.folder, environment(), together=True) as running, log.open("a") as written:
            self._commands.add(running)
            if self._stopped.is_set():  # it began while the others were ended
                running.end()
            try:
                for line in running.lines():
                    written.write(line + "\n")
                    last = line.strip() or last
                status = running.wait()
            finally:
                self._commands.discard(running)
        if self._stopped.is_set():
            raise KeyboardInterrupt
        if status == 2:  # the step has said in one sentence what is wrong
            raise InkwellError(f"{label}: {last.partition(': ')[2] or last}")
        if status:
            raise InkwellError(f"{label} failed with status {status} ({last}); {log} holds all that it said.")

    def train(self, cells: Sequence[Cell], jobs: int) -> dict[Cell, dict[str, Any]]:
        """Train and score every cell that is not finished, `jobs` at a time; what each came to, in the order of `cells`.

        Keys: `bits` and `characters` (of each held-out document), `bits_per_character`, `seconds`, and those of pretrain. Cells of the
        same data, parameters and seed are one model, trained once.
        """
        identities = {cell: self._identity(cell) for cell in cells}
        different = {identity: cell for cell, identity in reversed(identities.items())}
        print(f"Training {len(different)} small models, {min(jobs, len(different))} at a time", flush=True)
        found: dict[str, dict[str, Any]] = {}
        spent: list[float] = []
        lock = threading.Lock()

        def work(identity: str, cell: Cell) -> None:
            kept, result = self._cell(identity, cell)
            with lock:
                found[identity] = result
                spent.extend([] if kept else [result["seconds"]])
                ahead = len(different) - len(found)
                pace = sum(spent) / len(spent) / jobs if spent else 0.0
                left = f" (about {spoken(pace * ahead)} left)" if ahead and pace else ""
                how = "kept from an earlier run" if kept else f"in {spoken(result['seconds'])}"
                also = [str(other) for other in cells if identities[other] == identity and other != cell]
                print(
                    f"  [{len(found)}/{len(different)}] {' and '.join([str(cell), *also])}: "
                    f"{result['bits_per_character']:.4f} bits per character, {how}{left}",
                    flush=True,
                )

        with ThreadPoolExecutor(jobs) as pool:
            # in the order of the cells, so that what there is after a kill compares something
            ordered = sorted(different.items(), key=lambda item: cells.index(item[1]))
            futures = [pool.submit(work, identity, cell) for identity, cell in ordered]
            try:
                with terminating():
                    for future in as_completed(futures):  # what fails is told at once, not after the longest
                        future.result()
            except BaseException:
                self._stopped.set()
                for future in futures:
                    future.cancel()
                for running in list(self._commands):
                    running.end()
                raise
        return {cell: found[identities[cell]] for cell in cells}

    def _identity(self, cell: Cell) -> str:
        """What the outcome of a cell depends on: data, parameters, seed and code."""
        from components.pretrain.__main__ import STEP
        from components.step import Context, content_hash

        inputs = {"tokens": self.folder / cell.tokens, "tokenizer": self.folder / cell.tokenizer}
        context = Context(STEP, self.configuration(_overrides(cell)), inputs, {}, recorder=None)  # type: ignore[arg-type]
        judged = content_hash(Path(__file__))
        return hashlib.sha256(f"{context.fingerprint()}:{judged}".encode()).hexdigest()[:16]

    def _cell(self, identity: str, cell: Cell) -> tuple[bool, dict[str, Any]]:
        """Whether the cell was finished before, and what it came to."""
        result = self.folder / "cells" / f"{identity}.json"
        if result.exists():
            return True, json.loads(result.read_text(encoding="utf-8"))
        began = time.monotonic()
        work = Path("cells") / identity
        trained = self.step(
            "pretrain",
            {"tokens": cell.tokens, "tokenizer": cell.tokenizer},
            {"model": work / "model", "curve": work / "curve.csv", "samples": work / "samples.jsonl"},
            _overrides(cell),
            str(cell),
        )
        scores = work / "scores.json"
        self.command(
            [
                sys.executable,
                "-m",
                "flows.experiments.proxy",
                *map(str, (work / "model", cell.tokens, cell.documents, scores)),
            ],
            str(cell),
        )
        came_to: dict[str, Any] = {
            **trained,
            **json.loads((self.folder / scores).read_text(encoding="utf-8")),
            "seconds": round(time.monotonic() - began, 1),
        }
        came_to["bits_per_character"] = sum(came_to["bits"]) / sum(came_to["characters"])
        with atomic_file(result) as temporary:
            temporary.write_text(json.dumps(came_to), encoding="utf-8")
        shutil.rmtree(self.folder / work)  # the model has served its purpose
        return False, came_to


def _overrides(cell: Cell) -> tuple[str, ...]:
    return (*cell.overrides, f"seed={cell.seed}")


def held_out(folders: Sequence[Path], most: int) -> dict[str, str]:
    """Id and content of the documents that every `documents.parquet` of `folders` holds out, alike in all; `most` at most.

    Which of more are taken depends on their ids alone. InkwellError where there are fewer than two.
    """
    shared: dict[str, str] | None = None
    counts = []
    for folder in folders:
        here = {
            name: content
            for rows in _rows(folder, ["id", "content", "split"])
            for name, content, split in rows
            if split == VALIDATION and (shared is None or shared.get(name) == content)
        }
        counts.append(len(here))
        shared = here
    assert shared is not None
    if len(shared) < 2:
        raise InkwellError(
            f"the variants share {len(shared)} held-out documents of the same content: compare variants that keep some of the same "
            "documents and treat their text alike, or raise clean.validation_fraction."
        )
    drawn = sorted(shared, key=lambda name: hashlib.sha256(name.encode()).digest())[:most]
    return {name: shared[name] for name in sorted(drawn)}


def trained_on_by_all(folders: Sequence[Path]) -> set[str]:
    """Ids of the documents that every one of `folders` trains on; InkwellError where there are none."""
    found: set[str] | None = None
    for folder in folders:
        here = {name for rows in _rows(folder, ["id", "split"]) for name, split in rows if split == TRAIN}
        found = here if found is None else found & here
    if not found:
        raise InkwellError(
            "the variants train on no document in common: there is nothing that they could be compared by."
        )
    return found


def write_subset(origin: Path, folder: Path, train: Callable[[str], bool], validation: Iterable[str]) -> None:
    """`folder`/documents.parquet: the documents of `origin` that `train` says yes to, and `validation` held out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = set(validation)
    with (
        atomic_folder(folder) as temporary,
        pq.ParquetFile(origin / "documents.parquet") as file,
        pq.ParquetWriter(temporary / "documents.parquet", file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(10_000):
            names, splits = batch.column("id").to_pylist(), batch.column("split").to_pylist()
            for name, split in zip(names, splits, strict=True):
                if split == TRAIN and name in wanted:
                    raise AssertionError(f"{name} is held out by one variant and trained on by another")
            keep = [
                train(name) if split == TRAIN else name in wanted for name, split in zip(names, splits, strict=True)
            ]
            writer.write_batch(batch.filter(pa.array(keep)))


def _rows(folder: Path, columns: Sequence[str]) -> Iterable[Iterable[Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / "documents.parquet") as file:
        for batch in file.iter_batches(10_000, columns=list(columns)):
            yield zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def prepared(folder: Path, overrides: Sequence[str]) -> Bench:
    """A workspace with these parameters, in which nothing has to run again that does not depend on what changed."""
    from flows.workspace import make_workspace

    make_workspace(folder, overrides)
    return Bench(folder)


def default_jobs() -> int:
    """One cell on each core."""
    from components.machine.cores import choose_threads

    return choose_threads(None)


def score(model: Path, tokens: Path, documents: Path, output: Path) -> None:
    """Write the bits that `model` needs for each held-out document, and its characters, the end mark counted as one."""
    import torch

    from components.corpus.documents import read_contents
    from components.corpus.packed import TokenShards
    from components.model.folders import load_model
    from components.model.scoring import document_bits

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    shards = TokenShards(tokens, VALIDATION)
    bits = document_bits(load_model(model), [shards.document(index) for index in range(len(shards))])
    characters = [len(content) + 1 for content in read_contents(documents / "documents.parquet", VALIDATION)]
    assert len(bits) == len(characters)
    with atomic_file(output) as temporary:
        temporary.write_text(json.dumps({"bits": bits.tolist(), "characters": characters}), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.experiments.proxy", description=(score.__doc__ or "").split("\n")[0]
    )
    for name in ("model", "tokens", "documents", "output"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args(argv)
    try:
        score(arguments.model, arguments.tokens, arguments.documents, arguments.output)
    except InkwellError as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
