"""What a step tells about itself, written to the spool; nothing here can make a step fail."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from components.tracking.spool import Record, milliseconds, waiting

if TYPE_CHECKING:
    from components.configuration import Configuration
    from components.step import Step

LOCAL_PATIENCE = 60.0  # seconds that the end of a step waits for a database of this machine (new ones take 8)
REMOTE_PATIENCE = 10.0  # and for a server
_LEFTOVERS = 3.0  # and for what other steps left in the spool
_SMALL = 2**20  # bytes: larger files of a model stay where they are, in DVC's cache
_SHOWN = (".csv", ".jsonl", ".html")  # outputs that are one file to look at: curves, samples, pages
_COMPARED = ("profile.json", "generations.parquet")  # in outputs that are folders: what a comparison of two runs reads
_SHOWN_BYTES = 8 * 2**20  # larger ones stay where they are

_LENT = "INKWELL_RECORD"  # names the record that a process writes for the one that opened it
# Set where whoever started the step carries its records to the database of another machine or folder; a server is told by the step itself.
CARRIED = "INKWELL_CARRIED"

P = ParamSpec("P")


def _soft(method: Callable[P, None]) -> Callable[P, None]:
    """A failure is told once on standard error, and the step goes on."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        recorder = args[0]
        assert isinstance(recorder, Recorder)
        if recorder.record is None:
            return
        try:
            method(*args, **kwargs)
        except Exception as error:
            recorder.warn(error)

    return guarded


class Recorder:
    """The MLflow run of one step. `Recorder()` records nothing."""

    def __init__(self, record: Record | None = None, patience: float = REMOTE_PATIENCE) -> None:
        self.record = record
        self._patience = patience
        self._courier: subprocess.Popen[bytes] | None = None
        self._models: set[str] = set()
        self._kept: set[str] = set()
        self._inputs: dict[str, Path] = {}
        self._warned = False

    @classmethod
    def start(cls, step: Step, configuration: Configuration, inputs: Mapping[str, Path]) -> Recorder:
        """Open the record of a step that begins now."""
        recorder = cls()
        # the environment's switch is for tests and trials that must not be recorded, whatever params.yaml says
        if not configuration.tracking.enabled or os.environ.get("INKWELL_TRACKING") == "off":
            return recorder
        try:
            if lent := os.environ.get(_LENT):
                recorder._inputs = {name: path for name, path in inputs.items() if path.exists()}
                recorder.record = Record(Path(lent))
            else:
                recorder._open(step, configuration, inputs)
        except Exception as error:
            recorder.record = None
            recorder.warn(error)
        return recorder

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Processes that are started in this block write this record; behind it the record is delivered.

        Where none of them has closed it, it is closed as failed.
        """
        record = self.record
        if record is None:
            yield
            return
        self.record = None
        os.environ[_LENT] = str(record.folder)
        try:
            yield
        finally:
            del os.environ[_LENT]
            if record.folder.exists():  # else it has been delivered as a whole
                record.close_torn_line()
                if not any(entry["kind"] == "finish" for entry in record.entries()[0]):
                    record.append({"kind": "finish", "at": milliseconds(), "status": "FAILED", "values": {}})
            self._await(record)

    def _open(self, step: Step, configuration: Configuration, inputs: Mapping[str, Path]) -> None:
        from components.step import STATE
        from components.tracking.ancestors import pipeline_identity, process_identity
        from components.tracking.surroundings import surroundings

        spool = (STATE / "spool").absolute()
        spool.mkdir(parents=True, exist_ok=True)
        tracking = configuration.tracking
        uri = tracking.uri or f"sqlite:///{(STATE / 'mlflow.db').absolute().as_posix()}"
        self._patience = REMOTE_PATIENCE if uri.startswith(("http:", "https:")) else LOCAL_PATIENCE
        everything = configuration.model_dump(mode="json", by_alias=True, exclude={"tracking"})
        own = {"seed", "language", step.section or step.name, *step.sections_read}
        digests = {name: _digest(path) for name, path in inputs.items() if path.exists()}
        self._inputs = {name: inputs[name] for name in digests}
        header = {
            "kind": "step",
            "stage": step.name,
            "summary": step.summary,
            "pipeline": pipeline_identity(),
            "at": milliseconds(),
            "uri": uri,
            "experiment": tracking.experiment,
            "artifacts": None if self._patience == REMOTE_PATIENCE else (STATE / "mlartifacts").absolute().as_uri(),
            "process": process_identity(os.getpid()),
            "tags": {
                "inkwell.fingerprint": _fingerprint(everything, own, digests),
                "inkwell.set": _set(configuration, own),
                **surroundings(configuration.seed),
            },
            "parameters": _flat({name: value for name, value in everything.items() if name in own}),
            "pipeline_parameters": _flat(everything),
        }
        self.record = Record.create(spool, header)
        for name, path in self._inputs.items():
            self.record.append(_dataset(name, path, "input", digests[name]))
        if self._patience == REMOTE_PATIENCE or not os.environ.get(CARRIED):
            self._send()

    def _send(self) -> None:
        """Start the process that delivers: at once, so that its imports pass while the step does its own."""
        assert self.record is not None
        root = str(Path(__file__).resolve().parents[2])
        found = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
        self._courier = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "components.tracking",
                "--follow",
                str(self.record.folder),
                "--step",
                str(os.getpid()),
            ],
            env=found,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @_soft
    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Record a point of each curve at step `at`."""
        assert self.record is not None
        numbers = {name: float(value) for name, value in values.items()}
        self.record.append({"kind": "metrics", "at": milliseconds(), "step": int(at), "values": numbers})

    @_soft
    def dataset(self, name: str, path: Path, role: str) -> None:
        """Record that the file or folder `path` was used as `role` (training, validation, ...)."""
        assert self.record is not None
        self.record.append(_dataset(name, path, role, _digest(path)))

    @_soft
    def model(self, name: str, folder: Path, parents: Sequence[Path] = ()) -> None:
        """Record that `folder` is a model made by this step out of the models in `parents`.

        Small files (configuration, card, manifest) are copied; weights stay in DVC's cache and are named by their hash.
        """
        assert self.record is not None
        digest = _digest(folder)
        if digest in self._models:
            return
        self._models.add(digest)
        small = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size <= _SMALL)
        self.record.append(
            {
                "kind": "model",
                "at": milliseconds(),
                "name": name,
                "path": _shown(folder),
                "digest": digest,
                "parents": [_digest(parent) for parent in parents],
                "parameters": _shape(folder),
                "files": [self.record.keep(p, f"{name}/{p.relative_to(folder).as_posix()}") for p in small],
            }
        )

    @_soft
    def artifact(self, path: Path) -> None:
        """Keep a copy of a small file (a picture, a page) with the run."""
        assert self.record is not None
        self._kept.add(path.name)
        self.record.append({"kind": "artifact", "file": self.record.keep(path, f"artifacts/{path.name}")})

    @_soft
    def finish(self, status: str, metrics: Mapping[str, float], outputs: Mapping[str, Path]) -> None:
        """Close the record ("FINISHED" or "FAILED") and deliver what is spooled, or leave it for the next step."""
        assert self.record is not None
        from components.tracking.surroundings import accelerators

        written = {name: path for name, path in outputs.items() if path.exists()} if status == "FINISHED" else {}
        models = [path for path in self._inputs.values() if _is_model(path)]
        for name, path in written.items():
            self.record.append(_dataset(name, path, "output", _digest(path)))
            if _is_model(path) and _digest(path) not in self._models:
                self.model(path.name, path, models)
            if not models:  # what was made of a model has its origins from there
                self._origins(path)
            self._files(path)
            self._documents(path)
            self._keep_shown(path)
        cards = accelerators()
        if cards:
            self.record.append({"kind": "tags", "values": {"inkwell.accelerators": cards}})
        self.record.append(
            {
                "kind": "finish",
                "at": milliseconds(),
                "status": status,
                "values": {k: float(v) for k, v in metrics.items()},
            }
        )
        record = self.record
        self.record = None
        self._await(record)

    @_soft
    def _origins(self, folder: Path) -> None:
        """Record what came from outside: the sources that were read, or the model whose weights this one began with.

        Told by the files in which the steps note it: `sources.json` of raw documents, `initial.json` beside a tokenizer.
        """
        assert self.record is not None
        for role, name, digest, facts in _from_outside(folder):
            path = f"{role}/{name}"
            self.record.append({**_described(name, path, role, digest[:32]), "facts": facts})

    @_soft
    def _files(self, folder: Path) -> None:
        """Record the plain sha256 of files that leave the house on their own, so that each leads back by itself."""
        assert self.record is not None
        if not _is_model(folder):
            return
        from components.fetching.models import folder_hash

        # The hash by which `pretrain.initial` would name this folder, where another training begins with it.
        self.record.append(_described(folder.name, _shown(folder), "file", folder_hash(folder)[:32]))
        exported = any(folder.glob("*.gguf"))
        for file in sorted(folder.rglob("*") if exported else folder.glob("*.safetensors")):
            if file.is_file():
                sha256 = file_hash(file)
                entry = _described(file.name, _shown(file), "file", sha256[:32])
                self.record.append({**entry, "facts": {"sha256": sha256, "bytes": str(file.stat().st_size)}})

    @_soft
    def _keep_shown(self, path: Path) -> None:
        """Keep curves, samples and pages with the run: whoever opens it wants to see them, and has no workspace.

        Of a folder, what a comparison of two runs reads: the corpus' profile, and what the models wrote.
        """
        for file in [path / name for name in _COMPARED] if path.is_dir() else [path]:
            wanted = (path.is_dir() or file.suffix in _SHOWN) and file.is_file() and file.name not in self._kept
            if wanted and file.stat().st_size <= _SHOWN_BYTES:
                self.artifact(file)

    @_soft
    def _documents(self, folder: Path) -> None:
        """Beside packed tokens: an index by id of the documents that they hold, kept outside the tracked outputs."""
        from components.corpus.packed import META

        assert self.record is not None
        corpora = [path for path in self._inputs.values() if (path / "documents.parquet").exists()]
        if not (folder / META).exists() or not (folder / "train-00000.bin").exists() or len(corpora) != 1:
            return
        from components.step import STATE
        from components.tracking.documents import LARGEST_ARTIFACT, build_index, index_path

        index = index_path(STATE, _digest(corpora[0]))
        build_index(corpora[0], index, folder)
        if index.stat().st_size <= LARGEST_ARTIFACT:
            self.artifact(index)

    def _await(self, record: Record) -> None:
        courier = self._courier
        if courier is None:
            return
        try:
            deadline = time.monotonic() + self._patience
            while record.folder.exists() and courier.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            deadline = min(deadline, time.monotonic() + _LEFTOVERS)
            while any(waiting(record.folder.parent)) and courier.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            # Whatever it was still doing (leaving, or others' records) can be cut short at any point.
            courier.terminate()
            courier.wait()
        if record.folder.exists():
            print(
                "tracking: MLflow cannot be had; the record waits in .inkwell/spool for the next step.", file=sys.stderr
            )

    def warn(self, error: Exception) -> None:
        """Say once that recording fails."""
        if not self._warned:
            self._warned = True
            print(
                f"tracking: {type(error).__name__}: {error}; the step goes on without a record of this.",
                file=sys.stderr,
            )


def _digest(path: Path) -> str:
    """32 hex digits of the content's hash: what MLflow has room for."""
    from components.step import content_hash

    return content_hash(path)[:32]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes: what `sha256sum` prints."""
    import hashlib

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _dataset(name: str, path: Path, role: str, digest: str) -> dict[str, Any]:
    return _described(name, _shown(path), role, digest)


def _described(name: str, path: str, role: str, digest: str) -> dict[str, Any]:
    return {"kind": "dataset", "name": name, "path": path, "role": role, "digest": digest}


def _from_outside(folder: Path) -> list[tuple[str, str, str, dict[str, str]]]:
    """(role, name, sha256, facts) of each origin that a folder names; a source without a hash has none to be found by."""
    found = []
    for role, file, named in (("source", "sources.json", "name"), ("initial", "initial.json", "model")):
        if not (folder / file).is_file():
            continue
        said = json.loads((folder / file).read_text(encoding="utf-8"))
        entries = said if isinstance(said, list) else said.get("sources", [said])
        for entry in entries:
            facts = {
                name: str(entry[name])
                for name in ("kind", "location", "version", "role", "license", "sha256", "documents", "characters")
                if entry.get(name) is not None
            }
            if entry.get("sha256"):
                found.append((role, str(entry.get(named)), str(entry["sha256"]), facts))
    return found


def _shown(path: Path) -> str:
    """Relative to the workspace where it lies inside."""
    absolute = path.absolute()
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute).as_posix()


def _is_model(folder: Path) -> bool:
    return (folder / "model.safetensors").exists() or (folder.is_dir() and any(folder.glob("*.gguf")))


def _shape(folder: Path) -> dict[str, str]:
    file = folder / "config.json"
    if not file.exists():
        return {}
    values = json.loads(file.read_text(encoding="utf-8"))
    return {name: str(value) for name, value in sorted(values.items()) if isinstance(value, str | int | float)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters by their dotted names, as text; a signature in an address is nobody's business."""
    from components.fetching.locations import without_secrets

    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = without_secrets(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
    return found


def _fingerprint(everything: Mapping[str, Any], own: set[str], digests: Mapping[str, str]) -> str:
    """Equal for two runs of a step with the same parameters, seed and inputs."""
    import hashlib

    described = {
        "parameters": {name: value for name, value in everything.items() if name in own},
        "inputs": dict(digests),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _set(configuration: Configuration, own: set[str]) -> str:
    """Names of the step's parameters whose values are not this code's defaults, as JSON."""
    from components.configuration import parse

    given = configuration.model_dump(mode="json", by_alias=True, include=own)
    least = {"ingest": {"sources": [{"name": "any", "kind": "path", "location": "any"}]}}
    defaults = _flat(parse(least).model_dump(mode="json", by_alias=True, include=own))
    return json.dumps([name for name, value in _flat(given).items() if defaults.get(name) != value])
