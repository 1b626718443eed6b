"""MLflow's runs as a comparison needs them: a run, its children, the points of a curve, and repeated runs of a stage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.tracking.reading import SQLITE, Point, Question, Run, Store, open_store


class Runs:
    """The runs of a tracking store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, identity: str) -> Run | None:
        """The run of that id; None where there is none."""
        return self._store.run(identity)

    def children(self, identity: str) -> list[Run]:
        """Runs whose parent it is, the oldest first."""
        return self._store.runs(Question({"mlflow.parentRunId": identity}))

    def of_stage(self, stage: str) -> list[Run]:
        """Finished runs of a stage."""
        return self._store.runs(Question({"stage": stage}, status="FINISHED"))

    def history(self, identity: str, metric: str) -> list[Point]:
        """The points of a curve, by step."""
        return self._store.history(identity, metric)

    def kept(self, run: Run | None, name: str) -> bytes | None:
        """A file that was kept beside the run; None where there is none."""
        if run is None or not run.artifacts:
            return None
        with tempfile.TemporaryDirectory() as folder:
            found = self._store.fetch(run.artifacts, name, Path(folder))
            return found.read_bytes() if found else None


def runs_of(workspace: Path, uri: str | None) -> Runs | None:
    """The runs of a workspace whose `tracking.uri` is `uri`; None where nothing was ever recorded."""
    address = uri or f"{SQLITE}{(workspace / '.inkwell' / 'mlflow.db').absolute().as_posix()}"
    if address.startswith(SQLITE) and not Path(address.removeprefix(SQLITE)).exists():
        return None
    return Runs(open_store(address))
