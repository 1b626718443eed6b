"""MLflow's records as lineage asks for them: by the hashes of what was read and written.

Whatever a step read or wrote is a dataset of its run, named by path and by the first 32 hex digits of its hash
(`components.tracking`); outputs are tags too (`inkwell.output.<path>`). So a run is found by the hash of its output in
one query, and the number of queries does not depend on how many runs there are.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from components.tracking.reading import OUTPUT, Dataset, Question, Run, Version, open_store, without_password

__all__ = ["UNCHANGED", "Dataset", "Records", "Run", "Version"]

UNCHANGED = "unchanged."
_MAKERS = 50  # runs that are looked at where the same bytes were made more often


class Records:
    """What a tracking server knows. Raises InkwellError when it cannot be had."""

    def __init__(self, uri: str) -> None:
        self.uri = without_password(uri, uri)  # as it stands in sentences
        self.store = open_store(uri)
        self._answers: dict[str, list[Run]] = {}
        self._logged: dict[str, frozenset[str]] = {}

    def made(self, path: str, digest: str, deleted: bool = False) -> list[Run]:
        """Runs that wrote this, the latest first; the latest fifty, where the same bytes were made more often."""
        from components.tracking.delivery import named

        tags = {f"{OUTPUT}{named(path)}": digest}
        return self._asked(Question(tags, latest=True, deleted=deleted, at_most=_MAKERS, whole=True))

    def touched(self, digest: str, deleted: bool = False) -> list[Run]:
        """Runs that read, wrote or named something of this hash, the earliest first."""
        return self._asked(Question(digest=digest, deleted=deleted, whole=True))

    def of_stage(self, stage: str) -> list[Run]:
        """Runs of a step, the latest first."""
        return self.by_tag("stage", stage)

    def of_pipeline(self, pipeline: str) -> list[Run]:
        """Runs of the steps of a pipeline, the latest first."""
        return self._asked(Question({"inkwell.pipeline": pipeline, "inkwell.kind": "step"}, latest=True, whole=True))

    def by_tag(self, name: str, value: str) -> list[Run]:
        """Runs with this tag, the latest first."""
        return self._asked(Question({name: value}, latest=True, whole=True))

    def by_id(self, run: str) -> list[Run]:
        """The run, or nothing when it is gone."""
        found = self.store.run(run)
        return [] if found is None else [found]

    def digest_of_model(self, model: str) -> tuple[str, str] | None:
        """Path and hash of a logged model; None when it is gone."""
        found = self.store.model(model)
        if found is None or not {"inkwell.path", "inkwell.digest"} <= set(found.tags):
            return None
        return found.tags["inkwell.path"], found.tags["inkwell.digest"]

    def parents_of_model(self, model: str) -> list[str] | None:
        """Hashes of the models that it was made of, as its step said; None where nothing is said."""
        found = self.store.model(model)
        said = None if found is None else found.tags.get("inkwell.parents")
        return None if said is None else said.split()

    def file_of(self, run: Run, name: str, folder: Path) -> Path | None:
        """An artifact of a run, copied to `folder`; None where there is none."""
        return self.store.fetch(run.artifacts, name, folder) if run.artifacts else None

    def keep(self, run: str, file: Path) -> None:
        """Add a file to a run's artifacts."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            MlflowClient(tracking_uri=self.store.uri, registry_uri=self.store.uri).log_artifact(run, str(file))
        except (MlflowException, OSError) as error:
            told = without_password(" ".join(str(error).split()), self.store.uri)[:200]
            raise InkwellError(f"{file} was written, and run {run} did not take a copy of it ({told}).") from error

    def manifests(self, at_most: int) -> list[tuple[str, str, dict[str, Any]]]:
        """(run, hash of the export, manifest) of exports, the latest first: for records older than hashes of files."""
        import tempfile

        found = []
        for model in self.store.models("inkwell.path", "models/export", at_most):
            with tempfile.TemporaryDirectory() as folder:
                path = self.store.fetch(model.artifacts, "manifest.json", Path(folder))
                if path is None:
                    continue
                try:
                    manifest = json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    continue
            if isinstance(manifest, dict):
                found.append((model.run, model.tags.get("inkwell.digest", ""), manifest))
        return found

    @cached_property
    def versions(self) -> list[Version]:
        """All versions in the registry."""
        return self.store.versions()

    def versions_of(self, run: Run, digest: str) -> list[Version]:
        """Versions of these bytes, whichever run made them: joined by the hash of the version's logged model or in its tags.

        A version without a logged model is joined by its run.
        """
        return [
            version
            for version in self.versions
            if (version.model and version.model in self._models(digest))
            or (not version.model and version.run == run.id)
            or digest in version.tags.values()
        ]

    def _models(self, digest: str) -> frozenset[str]:
        """Ids of the logged models with this hash."""
        if digest not in self._logged:
            self._logged[digest] = frozenset(model.id for model in self.store.models("inkwell.digest", digest))
        return self._logged[digest]

    def _asked(self, question: Question) -> list[Run]:
        key = repr(question)
        if key not in self._answers:
            self._answers[key] = self.store.runs(question)
        return self._answers[key]
