"""The transformers Trainer as a contender."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contender import BATCHES, Run
from benchmarks.peers.timing import marked
from benchmarks.peers.trainer import Settings


class TransformersTrainer:
    """`benchmarks.peers.trainer`: bf16 on the CPU as documented, with and without its `torch_compile`."""

    name = "transformers"
    modes: Sequence[str] = ("compiled", "eager")
    rates: Sequence[float] = (5e-4, 1e-3, 3e-3)
    batches: Sequence[int] = BATCHES

    def __init__(self) -> None:
        self.step = marked(r"^@ (\d+)$")

    def install(self, folder: Path) -> None:
        """It is in our own environment."""

    def command(self, run: Run, mode: str) -> list[str]:
        """See `Peer`."""
        settings = Settings(
            tokens=str(run.tokens),
            out=str(run.folder),
            shape=run.shape.llama(run.block),
            rate=run.rate,
            steps=run.steps,
            batch=run.batch,
            block=run.block,
            compile=mode == "compiled",
            saves=run.saves,
            seed=run.seed,
        )
        run.folder.mkdir(parents=True, exist_ok=True)
        settings.write(run.folder / "settings.json")
        return [sys.executable, "-m", "benchmarks.peers.trainer", str(run.folder / "settings.json")]

    def weights(self, run: Run) -> list[tuple[int, dict[str, Any]]]:
        """See `Peer`."""
        found = {int(path.name.rpartition("-")[2]): path for path in run.folder.glob("checkpoint-*")}
        return [(step, {"folder": str(found[step])}) for step in sorted(found)]
