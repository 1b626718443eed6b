"""What Lightning is told of several processes: where this one stands, and how all of them save and load together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from components.training.shares import share_of, whole_tensor

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from components.launch.processes import Place


class Environment(ClusterEnvironment):
    """Tells Lightning where this process stands; whoever started it has started the others too."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        """See `ClusterEnvironment`."""
        return True

    @property
    def main_address(self) -> str:
        """See `ClusterEnvironment`."""
        return self.place.address

    @property
    def main_port(self) -> int:
        """See `ClusterEnvironment`."""
        return self.place.port

    @staticmethod
    def detect() -> bool:
        """See `ClusterEnvironment`."""
        return False

    def world_size(self) -> int:
        """See `ClusterEnvironment`."""
        return self.place.size

    def set_world_size(self, size: int) -> None:
        """See `ClusterEnvironment`."""
        assert size == self.place.size

    def global_rank(self) -> int:
        """See `ClusterEnvironment`."""
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """See `ClusterEnvironment`."""
        assert rank == self.place.rank

    def local_rank(self) -> int:
        """See `ClusterEnvironment`."""
        return self.place.local_rank

    def node_rank(self) -> int:
        """See `ClusterEnvironment`."""
        return self.place.node


class AllOrNone(Strategy):
    """A checkpoint that the leader cannot write fails in all processes, so that they go on together."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """See `Strategy`."""
        failed: tuple[Any, ...] | None = None
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except OSError as error:
            failed = (error.errno, error.strerror or str(error))
        failed = self.broadcast(failed)
        if failed is not None:
            raise OSError(*failed)


class ReplicatedStrategy(AllOrNone, DDPStrategy):
    """Lightning's data parallelism, with that."""


class WholeCheckpoints(AllOrNone, ModelParallelStrategy):
    """Checkpoints of a single process: whole tensors, gathered on the leader and shared out again when they are read.

    So a run goes on with another number of processes or another strategy.
    """

    @property
    def lightning_restore_optimizer(self) -> bool:
        """See `ModelParallelStrategy`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """See `ModelParallelStrategy`."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        whole = {name: whole_tensor(value, self.is_global_zero) for name, value in state.items()}
        return whole if self.is_global_zero else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """See `ModelParallelStrategy`."""
        plain = getattr(optimizer, "_optimizer", optimizer)
        if hasattr(plain, "consolidate_state_dict"):  # WholeMatrices
            plain.consolidate_state_dict()
            return plain.state_dict() if self.is_global_zero else {}
        state = plain.state_dict()
        return {
            **state,
            "state": {
                index: {
                    name: whole_tensor(value, self.is_global_zero) if isinstance(value, torch.Tensor) else value
                    for name, value in values.items()
                }
                for index, values in state["state"].items()
            },
        }

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """See `ModelParallelStrategy`."""
        checkpoint: dict[str, Any] = Strategy.load_checkpoint(self, checkpoint_path, weights_only)
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """See `ModelParallelStrategy`."""
        module = self.lightning_module
        assert module is not None
        own = module.state_dict()
        shares = {
            name: share_of(value, own[name]) if name in own else value
            for name, value in checkpoint["state_dict"].items()
        }
        module.load_state_dict(shares, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """See `ModelParallelStrategy`."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            if hasattr(optimizer, "consolidate_state_dict"):
                optimizer.load_state_dict(saved)
                continue
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            state = {
                index: {
                    name: share_of(value, weights[index])
                    if isinstance(value, torch.Tensor) and value.shape == weights[index].shape
                    else value
                    for name, value in values.items()
                }
                for index, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
