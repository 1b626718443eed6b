"""Checkpoints from which training goes on bit for bit: written atomically, with every random state.

A file that was cut short by a crash of the machine is found out by its checksums, put aside, and the one before it is taken.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import time
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from components.atomic import atomic_file
from components.errors import InkwellError
from components.training.run import CHECKPOINT_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel

    from components.training.distributed import World
    from components.training.module import DecoderTraining
    from components.training.run import Run


_ANCHOR = "-anchor.ckpt"
_DAMAGED = "damaged-"
_DAMAGED_KEPT = 2  # files that were put aside, the newest
# what zipfile and zlib raise about content that is not what it was
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class StreamedFiles(TorchCheckpointIO):
    """Writes a checkpoint straight to its file; Lightning's own builds it in memory first, twice."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint`; OSError when there is no room."""
        save(checkpoint, Path(path))


def save(value: Any, path: Path) -> None:
    """torch.save, on the disk when it returns: renamed before that, a file may be empty after a crash of the machine.

    Raises the OSError of a failed write, and not what torch says about its own broken archive.
    """
    try:
        with path.open("wb") as handle:
            torch.save(value, handle)
            handle.flush()
            os.fsync(handle.fileno())
    except RuntimeError as error:
        cause = error.__context__ or error.__cause__
        if isinstance(cause, OSError):
            raise cause from None
        raise


def newest_whole(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of `folder` that is undamaged; newer ones are told and put aside as `damaged-<name>`.

    Raises InkwellError for one that cannot be read, since nobody knows then whether it is damaged.
    """
    found = None
    for path in sorted(folder.glob(CHECKPOINT_PATTERN), reverse=True):
        if is_whole(path):
            found = path
            break
        tell(f"the checkpoint {path.name} is damaged (kept as {_DAMAGED}{path.name}): going back to the one before it")
        path.replace(path.with_name(_DAMAGED + path.name))
    for path in sorted(folder.glob(f"{_DAMAGED}*"))[:-_DAMAGED_KEPT]:
        path.unlink(missing_ok=True)
    return found


def is_whole(path: Path) -> bool:
    """Whether a file is there and every part of it fits its checksum.

    Raises InkwellError where it cannot be read: what the disk or the rights on it refuse says nothing of the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (FileNotFoundError, *_DAMAGE):
        return False
    except OSError as error:
        if error.errno == errno.EINVAL:  # its table of contents points outside the file
            return False
        raise InkwellError(
            f"{path} cannot be read ({error.strerror or error}): mend that, or move the file away to go on from the one "
            "before it."
        ) from error


class ExactResume(Callback):
    """Save the whole state of a run every so many minutes, at its end, and when it is asked to end (SIGTERM).

    Lightning saves model, optimizers and loops; the module adds curve, averages and position; what both leave out are the
    random generators of torch (the processor's and that of `device`), numpy and Python. When the disk is full, training goes
    on with the checkpoints it has.

    Where anomalies may be answered by rolling back, a checkpoint is also written every `anchor_every` steps, and only
    these are rolled back to: which they are does not depend on the clock, so a run that was killed rolls back as the others do.
    """

    def __init__(
        self,
        run: Run,
        world: World,
        minutes: float,
        keep_last: int,
        anchor_every: int | None = None,
        device: str = "cpu",
        best: BestWeights | None = None,
    ) -> None:
        self.run, self.world, self.seconds = run, world, minutes * 60
        self.keep_last, self.anchor_every = keep_last, anchor_every
        self.device, self.best = device, best
        self._saved_at = time.monotonic()
        self._restored: dict[str, Any] | None = None
        self._rolled_back = False

    def state_dict(self) -> dict[str, Any]:
        """Random states of all processes, by rank, and how these were divided into replicas."""
        parallel = self.world.parallel
        return {
            "generators": self.world.gather(
                {
                    "torch": torch.get_rng_state(),
                    "device": _device_state(self.device),
                    "numpy": _numpy_state(),
                    "python": random.getstate(),
                }
            ),
            "replica": [parallel.tensor, parallel.pipeline],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the random states back."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: DecoderTraining) -> None:  # type: ignore[override]
        """Restore as late as possible: what runs between loading and training may draw numbers too."""
        if self._restored is not None:
            self._restore_generators(self._restored, pl_module)
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
        written = self.save(trainer, pl_module, anchor) if due or anchor else False
        if ending:
            where = "here" if written else self._newest()
            pl_module.tell(f"asked to end (SIGTERM) after step {step}; the same command goes on from {where}")
            raise SIGTERMException

    def _newest(self) -> str:
        newest = max(self.run.checkpoints.glob(CHECKPOINT_PATTERN), default=None)
        return newest.name if newest else "the beginning, for there is no checkpoint"

    def on_train_end(self, trainer: Trainer, pl_module: DecoderTraining) -> None:  # type: ignore[override]
        """A kill between training and the final evaluation costs nothing either."""
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, module: DecoderTraining, anchor: bool = False) -> bool:
        """Write the checkpoint of this moment, unless it is there, and remove those that are no longer wanted.

        Whether it is there now. Every failure of the disk is made known to all processes, so that they go on together.
        """
        name = f"rows-{module.loader.rows:012}-step-{module.step_count:08}{_ANCHOR if anchor else '.ckpt'}"
        path = self.run.checkpoints / name
        self._saved_at, self._rolled_back = time.monotonic(), False
        if self.world.decide(path.exists):
            return True
        target = path  # followers take part in gathering and write nothing

        def open_file() -> str | None:
            nonlocal target
            try:
                target = opened.enter_context(atomic_file(path))
            except OSError as error:
                return _reason(error)
            return None

        def rename() -> str | None:
            try:
                opened.close()
            except OSError as error:
                return _reason(error)
            return None

        try:
            with ExitStack() as opened:
                failed = self.world.decide(open_file)
                if failed is None:
                    trainer.save_checkpoint(target, weights_only=False)
                    failed = self.world.decide(rename)
        except OSError as error:  # of writing; `components.training.strategies.AllOrNone` raises it in all
            failed = _reason(error)
        if failed is not None:
            module.tell(
                f"checkpoint not written after step {module.step_count} ({failed}): training goes on with the last one"
            )
            return False
        if self.world.leader:
            self._remove_old()
        self._saved_at = time.monotonic()
        return True

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
        self._restore_generators(checkpoint["callbacks"][self.state_key], module)
        if self.best is not None and self.world.leader:
            self.best.forget_after(module.step_count)
        self._rolled_back = True  # saved when the batch has ended, so that it is not done again after a kill
        return True

    def _restore_generators(self, state: Mapping[str, Any], module: DecoderTraining) -> None:
        """Put this process's state back; where replicas were made up otherwise, that of its replica's first process.

        The processes of one replica must drop the same numbers. A replica that was not there before draws from a seed of
        its own, which depends on where in the run it begins.
        """
        world, saved = self.world, state["generators"]
        tensor, pipeline = state["replica"]
        same = (tensor, pipeline) == (world.parallel.tensor, world.parallel.pipeline)
        index = world.place.rank if same else world.replica * tensor * pipeline
        if index >= len(saved):
            text = f"{module.loader.seed}:{world.replica}:{module.loader.rows}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            return
        mine = saved[index]
        torch.set_rng_state(mine["torch"])
        _set_device_state(self.device, mine["device"])
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


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _device_state(device: str) -> torch.Tensor | None:
    """State of the generator of this process's own device; none where that is the processor's."""
    if device == "cuda":
        return torch.cuda.get_rng_state()
    return torch.mps.get_rng_state() if device == "mps" else None


def _set_device_state(device: str, state: torch.Tensor | None) -> None:
    """Put it back; a state of another kind of device says nothing here."""
    if state is None or device == "cpu":
        return
    if device == "cuda" and len(state) == len(torch.cuda.get_rng_state()):
        torch.cuda.set_rng_state(state)
    elif device == "mps" and len(state) == len(torch.mps.get_rng_state()):
        torch.mps.set_rng_state(state)


def _numpy_state() -> tuple[Any, ...]:
    """NumPy's random state without its arrays, so that a checkpoint is read with `weights_only` and can run no code."""
    name, key, *rest = np.random.get_state(legacy=True)
    return (str(name), torch.from_numpy(np.asarray(key).astype(np.int64)), *rest)


class BestWeights:
    """The weights with the lowest validation so far, in a file beside the checkpoints.

    Those that the disk has no room for are held in memory until better ones are written: the run ends with the best even
    so, only a kill loses them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: dict[str, Any] | None = None
        best = self._best()
        self._lowest: float = best["value"] if best else float("inf")

    def offer(self, model: PreTrainedModel, step: int, value: float) -> None:
        """Keep the weights of `model` when `value` is lower than any before.

        Raises OSError when there is no room; they are held in memory then.
        """
        if not value < self._lowest:
            return
        self._lowest = value
        best = {"step": step, "value": value, "weights": model.state_dict()}
        try:
            with atomic_file(self.path) as temporary:
                save(best, temporary)
        except OSError:
            copies = {name: weight.detach().cpu().clone() for name, weight in best["weights"].items()}
            self._held = {**best, "weights": copies}
            raise
        self._held = None

    def forget_after(self, step: int) -> None:
        """The run was rolled back to `step`: weights of later steps are no longer its own."""
        if self._held is not None and self._held["step"] > step:
            self._held = None
        best = self._best()
        if best is not None and best["step"] > step:
            self.path.unlink()
            best = None
        self._lowest = best["value"] if best else float("inf")

    def take(self, model: PreTrainedModel) -> int | None:
        """Put the best weights into `model`; returns their step, or None when none were kept."""
        best = self._best()
        if best is None:
            return None
        model.load_state_dict(best["weights"])
        return int(best["step"])

    def _best(self) -> Mapping[str, Any] | None:
        if self._held is not None or not is_whole(self.path):
            return self._held
        found: Mapping[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return found
