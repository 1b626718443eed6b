"""The interface of a placement, and the plain one: every stage in the one checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from flows.orchestration.graph import Stage


class Placement(Protocol):
    """Where the stages of a pipeline run. The flow starts `command` in `folder`, a process group a stage."""

    folder: Path

    def check(self, stages: Sequence[Stage]) -> None:
        """InkwellError for what would fail later; asked before a server is started."""

    def begin(self, stages: Sequence[Stage]) -> None:
        """Get ready before the first stage; checks as `check` does."""

    def command(self, stage: Stage, force: bool) -> list[str]:
        """What brings a stage up to date. Its output holds DVC's lines, its exit status is 0 when the stage stands."""
        ...

    def finish(self, finished: Sequence[Stage]) -> None:
        """Bring what the `finished` stages made to `folder`; InkwellError when that cannot be."""


class Workspace:
    """Every stage in the one checkout, where DVC's own locks keep stages that run at the same time apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def check(self, stages: Sequence[Stage]) -> None:
        """Nothing can be wrong that the stages would not tell better."""

    def begin(self, stages: Sequence[Stage]) -> None:
        """Nothing to get ready."""

    def command(self, stage: Stage, force: bool) -> list[str]:
        """`dvc repro --single-item`."""
        forced = ["--force"] if force else []
        return [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *forced, stage.name]

    def finish(self, finished: Sequence[Stage]) -> None:
        """Everything is there already."""
