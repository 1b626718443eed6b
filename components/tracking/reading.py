"""What MLflow holds, read: runs with what they read and wrote, curves, logged models and the registry.

One reader for every page. There are two ways to it: a local SQLite database is read as what it is, because importing MLflow takes longer than
a page may take (`components.tracking.database`); everything else, and a database whose tables are not as expected, goes through MLflow's client
(`components.tracking.client`). A test holds both against each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from components.errors import InkwellError

SQLITE = "sqlite:///"
OUTPUT = "inkwell.output."
PROMOTION = "inkwell.promotion"
ROLE = "mlflow.data.context"

Point = tuple[int, float, int]  # step, value, milliseconds since 1970


@dataclass(frozen=True)
class Dataset:
    """Something that a run read, wrote or named: path, 32 hex digits of its hash, role, and facts about it."""

    path: str
    digest: str
    role: str
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run. Parameters and tags are text, as MLflow keeps them; times are milliseconds since 1970, `ended` is None while it runs."""

    id: str
    name: str
    status: str
    started: int
    parameters: dict[str, str]
    metrics: dict[str, float]  # the last value of each; what is no number is left out
    tags: dict[str, str]
    ended: int | None = None
    artifacts: str = ""  # address of its files
    datasets: tuple[Dataset, ...] = ()
    models: tuple[str, ...] = ()  # ids of the logged models that it made

    @property
    def stage(self) -> str:
        """The step that ran; the run's name where it was none."""
        return self.tags.get("stage", self.name)

    @property
    def seconds(self) -> float | None:
        """What the step says that it took, else from beginning to end."""
        if "seconds" in self.metrics:
            return self.metrics["seconds"]
        return (self.ended - self.started) / 1000 if self.ended else None

    @property
    def outputs(self) -> dict[str, str]:
        """Hash by path of what it wrote."""
        return {name.removeprefix(OUTPUT): value for name, value in self.tags.items() if name.startswith(OUTPUT)}

    def of_role(self, *roles: str) -> list[Dataset]:
        """Its datasets of these roles."""
        return [dataset for dataset in self.datasets if dataset.role in roles]


@dataclass(frozen=True)
class Model:
    """A logged model: the run that made it, the address of its files, and its tags."""

    id: str
    run: str
    artifacts: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Version:
    """A version of a registered model, with what was written about its promotion."""

    name: str
    number: str
    aliases: tuple[str, ...]
    run: str
    model: str
    tags: dict[str, str]

    @property
    def title(self) -> str:
        """`name/3 (champion)`."""
        return f"{self.name}/{self.number}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")

    @property
    def promotion(self) -> dict[str, Any]:
        """{"at", "by", "reason", "evidence"}; empty where nobody promoted it."""
        try:
            found = json.loads(self.tags.get(PROMOTION, "{}"))
        except ValueError:
            return {"reason": self.tags[PROMOTION]}
        return found if isinstance(found, dict) else {"reason": str(found)}


@dataclass(frozen=True)
class Question:
    """Which runs are meant: all of what is named here holds for each of them.

    `whole`: their datasets and models are wanted too.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None  # of anything that they read, wrote or named
    status: str | None = None
    deleted: bool = False
    latest: bool = False  # the latest first, else the earliest
    at_most: int | None = None
    whole: bool = False


class Store(Protocol):
    """A tracking store that is read. Every method raises InkwellError when it cannot be had."""

    uri: str

    def run(self, identity: str) -> Run | None:
        """The run of that id, whole; None where there is none, or a deleted one."""

    def runs(self, question: Question) -> list[Run]:
        """The runs that the question means; a deleted experiment's are not among them."""

    def history(self, identity: str, metric: str) -> list[Point]:
        """The points of a curve, by step; those that are no numbers are left out."""

    def model(self, identity: str) -> Model | None:
        """The logged model of that id; None where there is none."""

    def models(self, tag: str, value: str, at_most: int | None = None) -> list[Model]:
        """Logged models with this tag, the latest first."""

    def versions(self) -> list[Version]:
        """All versions of all registered models."""

    def fetch(self, artifacts: str, name: str, folder: Path) -> Path | None:
        """A copy in `folder` of the file `name` at the address of a run's or a model's files; None where there is none."""


def open_store(uri: str) -> Store:
    """The store at a tracking URI. Raises InkwellError when it cannot be had."""
    from components.tracking.client import Served

    if not uri.startswith(SQLITE):
        return Served(uri)
    from components.tracking.database import Database, UnknownTablesError

    path = Path(uri.removeprefix(SQLITE))
    if not path.exists():
        raise InkwellError(
            f"{uri} does not exist: nothing was recorded here yet, or name the records with --uri or tracking.uri."
        )
    try:
        return Database(uri, path)
    except UnknownTablesError:
        return Served(uri)


def local_copy(artifacts: str, name: str, folder: Path) -> Path | None:
    """`fetch` for files of this machine; None for an absent one. Raises ValueError for an address elsewhere."""
    import shutil
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(artifacts)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError(artifacts)
    source = Path(unquote(parts.path) if parts.scheme else artifacts) / name
    if not source.is_file():
        return None
    target = folder / Path(name).name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def without_password(words: str, uri: str) -> str:
    """The words without the name and password that the address may hold."""
    from urllib.parse import urlsplit

    login, at, _ = urlsplit(uri).netloc.rpartition("@")
    return words.replace(f"{login}@", "") if at else words


def facts_of(source: str | None) -> dict[str, str]:
    """The facts that were kept with a dataset."""
    try:
        found = json.loads(source or "{}")
    except ValueError:
        return {}
    tags = found.get("tags") if isinstance(found, dict) else None
    return {str(name): str(value) for name, value in tags.items()} if isinstance(tags, dict) else {}


def model_of(source: str | None) -> str:
    """The id in `models:/m-...`; empty for a source of another kind."""
    name = (source or "").removeprefix("models:/")
    return name if source and source.startswith("models:/") and "/" not in name else ""
