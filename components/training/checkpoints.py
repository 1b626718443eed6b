"""Checkpoints from which training goes on bit for bit: written atomically, with every random state."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.atomic import atomic_file


class ExactResume(Callback):
    """Save the whole state of a run every `minutes`, and at its end.

    Lightning saves model, optimizers, loops and the loader's position; what it leaves out are the random generators
    of torch, numpy and Python. The file is replaced only by a whole one; when the disk is full, training goes on with
    the checkpoint it has.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.seconds = path, minutes * 60
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Random states."""
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": np.random.get_state(),
            "python": random.getstate(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the random states back."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore as late as possible: what runs between loading and training may draw numbers too."""
        state = getattr(self, "_restored", None)
        if state is not None:
            torch.set_rng_state(state["torch"])
            if state["cuda"]:
                torch.cuda.set_rng_state_all(state["cuda"])
            np.random.set_state(state["numpy"])
            random.setstate(state["python"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when the interval has passed."""
        if time.monotonic() - self._saved >= self.seconds:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A kill between training and the final evaluation costs nothing either."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint."""
        try:
            with atomic_file(self.path) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)
        except OSError as error:
            print(
                f"  checkpoint not written ({error.strerror or error}): training goes on with the last one", flush=True
            )
        self._saved = time.monotonic()
