"""Checkpoints from which training goes on bit for bit: written atomically, with every random state.

A file that was cut short by a crash of the machine is found out by its checksums, and the one before it is taken.
"""

from __future__ import annotations

import random
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from components.atomic import atomic_file
from components.training.run import CHECKPOINT_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel

    from components.training.distributed import World
    from components.training.module import DecoderTraining
    from components.training.run import Run


_ANCHOR = "-anchor.ckpt"


class StreamedFiles(TorchCheckpointIO):
    """Writes a checkpoint straight to its file; Lightning's own builds it in memory first, twice."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint`; OSError when there is no room."""
        with Path(path).open("wb") as handle:
            save(checkpoint, handle)


def save(value: Any, handle: Any) -> None:
    """torch.save that raises the OSError of a failed write, and not what torch says about its own broken archive."""
    try:
        torch.save(value, handle)
    except RuntimeError as error:
        cause = error.__context__ or error.__cause__
        if isinstance(cause, OSError):
            raise cause from None
        raise


def newest_whole(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of `folder` that is undamaged; newer ones are told and removed."""
    for path in sorted(folder.glob(CHECKPOINT_PATTERN), reverse=True):
        if is_whole(path):
            return path
        tell(f"the checkpoint {path.name} is damaged: going back to the one before it")
        if path.is_file():
            path.unlink()
    return None


def is_whole(path: Path) -> bool:
    """Whether every part of a checkpoint is there and fits its checksum. A folder (sharded) counts when it is complete."""
    if path.is_dir():
        return any(path.iterdir())
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


class ExactResume(Callback):
    """Save the whole state of a run every so many minutes, at its end, and when it is asked to end (SIGTERM).

    Lightning saves model, optimizers and loops; the module adds curve, averages and position; what both leave out are the
    random generators of torch, numpy and Python. When the disk is full, training goes on with the checkpoints it has.

    Where anomalies may be answered by rolling back, a checkpoint is also written every `anchor_every` steps, and only
    these are rolled back to: which they are does not depend on the clock, so a run that was killed rolls back as the others do.
    """

    def __init__(self, run: Run, world: World, minutes: float, keep_last: int, anchor_every: int | None = None) -> None:
        self.run, self.world, self.seconds = run, world, minutes * 60
        self.keep_last, self.anchor_every = keep_last, anchor_every
        self._saved_at = time.monotonic()
        self._restored: dict[str, Any] | None = None
        self._rolled_back = False

    def state_dict(self) -> dict[str, Any]:
        """Random states of all processes."""
        return {
            "generators": self.world.gather(
                {
                    "torch": torch.get_rng_state(),
                    "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                    "numpy": _numpy_state(),
                    "python": random.getstate(),
                }
            )
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the random states back."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: DecoderTraining) -> None:  # type: ignore[override]
        """Restore as late as possible: what runs between loading and training may draw numbers too."""
        if self._restored is not None:
            self._restore_generators(self._restored)
        self.world.listen()
        if self.anchor_every and self.world.decide(lambda: not self._anchors()):
            self.save(trainer, pl_module, anchor=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DecoderTraining, *_: Any) -> None:  # type: ignore[override]
        """Save when the interval has passed."""
        interval = time.monotonic() - self._saved_at >= self.seconds
        ending = self.world.asked_to_end(trainer.received_sigterm)
        due = self.world.decide(lambda: interval or self._rolled_back or ending)
        step = pl_module.step_count
        anchor = bool(self.anchor_every and step % self.anchor_every == 0 and pl_module.moved)
        if due or anchor:
            self.save(trainer, pl_module, anchor)
        if ending:
            pl_module.tell(f"asked to end (SIGTERM) after step {step}; the same command goes on from here")
            raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: DecoderTraining) -> None:  # type: ignore[override]
        """A kill between training and the final evaluation costs nothing either."""
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, module: DecoderTraining, anchor: bool = False) -> None:
        """Write the checkpoint of this moment, unless it is there, and remove those that are no longer wanted."""
        name = f"rows-{module.loader.rows:012}-step-{module.step_count:08}{_ANCHOR if anchor else '.ckpt'}"
        path = self.run.checkpoints / name
        self._saved_at, self._rolled_back = time.monotonic(), False
        if self.world.decide(path.exists):
            return
        try:
            if self.world.leader:
                with atomic_file(path) as temporary:
                    trainer.save_checkpoint(temporary, weights_only=False)
            else:
                trainer.save_checkpoint(path, weights_only=False)  # takes part in gathering, writes nothing
        except OSError as error:
            module.tell(
                f"checkpoint not written after step {module.step_count} ({error.strerror or error}): training goes on with the last one"
            )
            return
        if self.world.leader:
            self._remove_old()
        self._saved_at = time.monotonic()

    def roll_back(self, trainer: Trainer, module: DecoderTraining) -> bool:
        """Put weights, optimizers, averages, curve and random states back to the last anchor; the data goes on from here.

        False when there is no undamaged one.
        """
        anchors = sorted(self._anchors(), reverse=True)
        path = self.world.decide(lambda: next((path for path in anchors if is_whole(path)), None))
        if path is None:
            return False
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        trainer.strategy.load_model_state_dict(checkpoint)
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        module.roll_back_to(checkpoint["inkwell"])
        self._restore_generators(checkpoint["callbacks"][self.state_key])
        self._rolled_back = True  # saved when the batch has ended, so that it is not done again after a kill
        return True

    def _restore_generators(self, state: Mapping[str, Any]) -> None:
        rank = self.world.place.rank
        if rank >= len(state["generators"]):
            return  # one process more than before: it draws from its own seed
        mine = state["generators"][rank]
        torch.set_rng_state(mine["torch"])
        if mine["cuda"]:
            torch.cuda.set_rng_state_all(mine["cuda"])
        name, key, *rest = mine["numpy"]
        np.random.set_state((name, key.numpy().astype(np.uint32), *rest))
        random.setstate(mine["python"])

    def _anchors(self) -> list[Path]:
        return list(self.run.checkpoints.glob(f"{CHECKPOINT_PATTERN}{_ANCHOR}"))

    def _remove_old(self) -> None:
        files = sorted(self.run.checkpoints.glob(CHECKPOINT_PATTERN))
        kept = {*files[-self.keep_last :], *sorted(self._anchors())[-1:]}
        for path in files:
            if path not in kept:
                path.unlink(missing_ok=True)


def _numpy_state() -> tuple[Any, ...]:
    """NumPy's random state without its arrays, so that a checkpoint is read with `weights_only` and can run no code."""
    name, key, *rest = np.random.get_state(legacy=True)
    return (str(name), torch.from_numpy(np.asarray(key).astype(np.int64)), *rest)


class BestWeights:
    """The weights with the lowest validation so far, in a file beside the checkpoints, which is all that is remembered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lowest = float("inf")
        if is_whole(path):
            self._lowest = torch.load(path, map_location="cpu", weights_only=True)["value"]

    def offer(self, model: PreTrainedModel, step: int, value: float) -> None:
        """Keep the weights of `model` when `value` is lower than any before. Raises OSError when there is no room."""
        if not value < self._lowest:
            return
        with atomic_file(self.path) as temporary, temporary.open("wb") as handle:
            save({"step": step, "value": value, "weights": model.state_dict()}, handle)
        self._lowest = value

    def take(self, model: PreTrainedModel) -> int | None:
        """Put the best weights into `model`; returns their step, or None when none were kept."""
        if not is_whole(self.path):
            return None
        best: Mapping[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        model.load_state_dict(best["weights"])
        return int(best["step"])
