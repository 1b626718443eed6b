"""litgpt's door to the packed corpus: a data module of its own kind over the same rows as the Trainer gets.

Runs in litgpt's environment. litgpt's TextFiles and LitData would read the same stream through worker processes and
chunk files; rows in memory cost it nothing, which is to its advantage on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from litgpt.data import DataModule
from torch.utils.data import DataLoader

from benchmarks.peers.rows import rows


@dataclass
class PackedTokens(DataModule):  # type: ignore[misc]
    """Rows of one token more than the model reads: litgpt cuts inputs and targets out of them, shifted by one."""

    tokens: Path
    seed: int = 1
    batch_size: int = field(default=1, init=False, repr=False)
    length: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__init__()

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any) -> None:
        """What litgpt tells before it asks for loaders."""
        assert max_seq_length
        self.batch_size, self.length = batch_size, max_seq_length + 1

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled anew each epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """litgpt tries two of its batches before it trains."""
        return self._loader("validation", shuffle=False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        data: Any = torch.from_numpy(rows(self.tokens, split, self.length, self.seed))
        return _Loader(data, batch_size=self.batch_size, shuffle=shuffle, drop_last=True)


class _Loader(DataLoader[Any]):
    """litgpt saves its loader with every checkpoint: as its state where it has one, else whole, with all the rows."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: no run of the race is resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
