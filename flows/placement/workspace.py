"""The interface of a placement, and the plain one: every stage in the one checkout.

Where DVC has a default remote there (`dvc remote default`), the checkout shares its cache: a stage fetches what another machine has made of
the same inputs, and at the end what the stages made is sent. A remote that is away stops nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Protocol

from components.errors import InkwellError
from flows.orchestration.graph import Stage, read_changes
from flows.orchestration.repro import command as dvc_command
from flows.orchestration.sentences import kind_and_words


class Placement(Protocol):
    """Where the stages of a pipeline run. The flow starts `command` in `folder`, a process group a stage."""

    folder: Path

    def check(self, stages: Sequence[Stage]) -> None:
        """InkwellError for what would fail later; asked before a server is started."""

    def begin(self, stages: Sequence[Stage]) -> None:
        """Get ready before the first stage; checks as `check` does."""

    def settled(self, stages: Sequence[Stage]) -> Set[str]:
        """Names of those, given in their order, for which nothing is to do; empty where only the stages themselves can tell."""
        ...

    def command(self, stage: Stage, force: bool) -> list[str]:
        """What brings a stage up to date. Its output holds DVC's lines, its exit status is 0 when the stage stands."""
        ...

    def finish(self, finished: Sequence[Stage]) -> None:
        """Bring what the `finished` stages made to `folder`; InkwellError when that cannot be."""


class Workspace:
    """Every stage in the one checkout, where DVC's own locks keep stages that run at the same time apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._shared = False  # whether the default remote has answered

    def check(self, stages: Sequence[Stage]) -> None:
        """Nothing can be wrong that the stages would not tell better."""

    def begin(self, stages: Sequence[Stage]) -> None:
        """See whether the default remote answers, so that not each stage waits for one that is away."""
        from flows.placement.handover import Store
        from flows.placement.sharing import default_remote

        remote = default_remote(self.folder)
        if remote is None:
            return
        try:
            Store(self.folder, remote).check()
            self._shared = True
        except InkwellError as error:
            print(f"workspace: stages take nothing from other machines: {error}", file=sys.stderr)

    def settled(self, stages: Sequence[Stage]) -> Set[str]:
        """Those that have not changed and come after none that has: one `dvc status` spares them a `dvc repro` at a second each."""
        names = {stage.name for stage in stages}
        try:
            _, changes = read_changes(self.folder, sorted(names))
        except InkwellError:  # another dvc is at work: each stage waits for it and looks for itself
            return frozenset()
        found: set[str] = set()
        for stage in stages:
            before = names.intersection(stage.upstream)
            if stage.name not in changes and before <= found:
                found.add(stage.name)
        return found

    def command(self, stage: Stage, force: bool) -> list[str]:
        """`dvc repro --single-item`, which reads what it restores; with what the default remote holds of the stage."""
        if self._shared and not force:
            return [sys.executable, "-m", "flows.placement.sharing", stage.name]
        forced = ["--force"] if force else []
        return dvc_command("--wait-for-lock", "repro", "--single-item", *forced, stage.name)

    def finish(self, finished: Sequence[Stage]) -> None:
        """Everything is there already; where there is a default remote, it is sent there."""
        from flows.placement.sharing import default_remote, push

        remote = default_remote(self.folder)
        if remote is None or not finished:
            return
        try:
            push(self.folder, [stage.name for stage in finished])
        except Exception as error:  # botocore's, the file system's, DVC's: the run itself stands
            print(
                f"workspace: not all went to DVC's remote {remote} ({kind_and_words(error)}); the next run sends it.",
                file=sys.stderr,
            )
