"""Where the trials happen: workspaces to copy, what comes out of them when nothing breaks, and the servers that trials share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.disk import allocated, release
from benchmarks.chaos.services import Service, mlflow_server, postgres, prefect_server
from benchmarks.chaos.soundness import MARK, end_all_in, hashes
from components.errors import InkwellError
from flows.processes import Command, environment
from flows.workspace import make_workspace

TINY = ("corpus=tang", "size=smoke", "ingest.limit=600", "tokenizer.vocabulary=2048", "pretrain.steps=12",
        "pretrain.validation_every=6", "pretrain.sample_every=12", "tracking.enabled=false")  # fmt: skip
SMOKE = ("corpus=tang", "size=smoke", "tracking.enabled=false")
TINY_TARGETS = ("pretrain",)
_OUTPUTS = ("data", "models", "metrics", "reports")


class Grounds:
    """The folder of the trials: templates, references and servers. A server is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._stack = ExitStack()
        self._prefect: tuple[Service, str] | None = None
        self._tracking: tuple[Service, str] | None = None
        self._database: tuple[Service, Service, str] | None = None

    def __enter__(self) -> Grounds:
        end_all_in(self.folder)  # of a benchmark that was killed
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def server(self) -> tuple[Service, str]:
        """The Prefect server, started where it is not alive, and its address."""
        if self._prefect is None:
            self._prefect = prefect_server(self.folder / "server")
            self._stack.callback(self._prefect[0].stop)
        return _alive(self._prefect)

    def tracking(self) -> tuple[Service, str]:
        """The MLflow server, started where it is not alive, and its address."""
        if self._tracking is None:
            place = self.folder / "mlflow"
            place.mkdir(parents=True, exist_ok=True)
            self._tracking = mlflow_server(place, f"sqlite:///{place / 'mlflow.db'}", (place / "artifacts").as_uri())
            self._stack.callback(self._tracking[0].stop)
        return _alive(self._tracking)

    def database(self) -> tuple[Service, Service, str]:
        """PostgreSQL and a Prefect server on it, neither of them started, and that server's address."""
        if self._database is None:
            place = self.folder / "database"
            database, url = postgres(place)
            self._stack.callback(database.stop)
            service, address = prefect_server(place / "server", url)
            self._stack.callback(service.stop)
            self._database = database, service, address
        return self._database

    def reference(self, smoke: bool) -> Path:
        """The workspace in which nothing broke."""
        return self.folder / ("reference-smoke" if smoke else "reference-tiny")

    def undisturbed(self, smoke: bool) -> dict[str, str]:
        """Hashes of a run in which nothing breaks; made by plain `dvc repro`, without the flow."""
        # With the code of now: what an earlier state of it left runs again where it has to.
        folder = _refreshed(self.reference(smoke), smoke)
        command = [sys.executable, "-m", "dvc", "repro", *targets(smoke)]
        with Command(command, folder, {**environment(), MARK: "1"}, together=True) as running:
            said = " ".join(running.lines())
            status = running.wait()
        if status:
            raise InkwellError(f"the undisturbed run in {folder} failed: {' '.join(said.split())[-400:]}")
        return hashes(folder)

    def seconds(self, smoke: bool) -> Mapping[str, float]:
        """How long each stage took when nothing broke."""
        from flows.orchestration.graph import last_seconds

        return last_seconds(self.reference(smoke))

    def outputs(self, smoke: bool) -> tuple[int, int]:
        """Bytes of all outputs when nothing broke, as a disk counts them, and of the largest file."""
        folders = [self.reference(smoke) / name for name in _OUTPUTS]
        sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
        return sum(allocated(folder) for folder in folders), max(sizes, default=0)

    def fresh(self, name: str, smoke: bool) -> Path:
        """A workspace of that name in which nothing has run; what an earlier one of that name left is gone."""
        folder = self.folder / name
        end_all_in(folder)  # of an earlier draw, or of a benchmark that was killed
        release(folder)
        shutil.rmtree(folder, ignore_errors=True)
        template = _refreshed(self.folder / ("template-smoke" if smoke else "template-tiny"), smoke)
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
        return folder


def targets(smoke: bool) -> list[str]:
    """What is asked of a pipeline; empty for all."""
    return [] if smoke else list(TINY_TARGETS)


def _alive(served: tuple[Service, str]) -> tuple[Service, str]:
    service, _ = served
    if not service.alive():
        service.start()
    return served


def _refreshed(folder: Path, smoke: bool) -> Path:
    if folder.exists() and not (folder / ".dvc" / "config").exists():  # killed while it was made
        shutil.rmtree(folder)
    make_workspace(folder, SMOKE if smoke else TINY)
    return folder
