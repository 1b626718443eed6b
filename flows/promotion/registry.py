"""The registered model in MLflow: its versions, who is champion, and why.

A version is an export: its logged model, made by the export step, and tags that find it again without MLflow's help:

    inkwell.digest                  first 32 hex digits of components.step.content_hash(models/export)
    inkwell.sha256.<file>           of each exported file, as `sha256sum` prints it
    inkwell.dvc.<path>              DVC's hash of models/export, data/evaluation, data/clean and metrics behind it
    inkwell.sources                 hash of what ingest read
    inkwell.promotion               JSON: at, by, reason, evidence (of the latest change of the alias)
    inkwell.refusal                 the same, of a decision against it
    inkwell.dethroned               JSON: at, by, reason, for (the version that took its place)
    inkwell.withdrawn               JSON: at, by, reason: a human rolled it back; only a human crowns it again
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import InkwellError

CHAMPION, CHALLENGER = "champion", "challenger"
PROMOTION, REFUSAL = "inkwell.promotion", "inkwell.refusal"
DETHRONED, WITHDRAWN = "inkwell.dethroned", "inkwell.withdrawn"
DIGEST, SHA256, DVC = "inkwell.digest", "inkwell.sha256.", "inkwell.dvc."
_LONGEST = 2000  # characters of a reason in a tag; MLflow keeps 5,000 of a tag, and a torn JSON says nothing


@dataclass(frozen=True)
class Version:
    """A model version: its number, tags, logged model and the run that exported it ("" where that is unknown)."""

    number: str
    tags: Mapping[str, str]
    model_id: str
    run: str

    @property
    def hashes(self) -> dict[str, str]:
        """DVC's hash by path of what was kept of it."""
        return {name.removeprefix(DVC): value for name, value in self.tags.items() if name.startswith(DVC)}

    @property
    def files(self) -> dict[str, str]:
        """sha256 by exported file."""
        return {name.removeprefix(SHA256): value for name, value in self.tags.items() if name.startswith(SHA256)}

    @property
    def withdrawn(self) -> dict[str, str]:
        """{"at", "by", "reason"} of the rollback that left it; empty where there was none, or it was crowned since."""
        return self.told(WITHDRAWN)

    def told(self, tag: str) -> dict[str, str]:
        """What is written in one of its JSON tags; empty where nothing is."""
        try:
            found = json.loads(self.tags.get(tag) or "{}")
        except ValueError:
            return {}
        return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


class Registry:
    """The registered model of a workspace's parameters. Every method raises InkwellError when MLflow cannot be had."""

    def __init__(self, workspace: Path) -> None:
        from components.configuration import load
        from components.step import STATE, quiet_environment
        from components.tracking.delivery import mlflow_client

        quiet_environment()
        configuration = load(workspace / "params.yaml")
        tracking = configuration.tracking
        if not tracking.enabled:
            raise InkwellError(
                f"{workspace / 'params.yaml'}: tracking.enabled is false, and the registry is MLflow's: set it to true."
            )
        state = (workspace / STATE).absolute()
        self.name = configuration.promotion.registered_model
        self.uri = tracking.uri or f"sqlite:///{(state / 'mlflow.db').as_posix()}"
        self._artifacts = None if tracking.uri else (state / "mlartifacts").as_uri()
        self._experiment_name = tracking.experiment
        try:
            state.mkdir(parents=True, exist_ok=True)
            self._client = mlflow_client(self.uri)
            self.experiment = self._find_experiment()
        except InkwellError:
            raise
        except Exception as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> InkwellError:
        from components.fetching.locations import public, without_secrets

        told = without_secrets(" ".join(str(error).split()))[:200]
        return InkwellError(f"MLflow at {public(self.uri)} cannot be had ({told}): start it, or mend tracking.uri.")

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """MLflow's refusals and silences in the block as one sentence."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise self._away(error) from error

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._experiment_name, artifact_location=self._artifacts))

    def holder(self, alias: str) -> Version | None:
        """The version that bears `alias`; None where none does."""
        from mlflow.exceptions import MlflowException

        try:
            return self._described(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._away(error) from error

    def version(self, number: str) -> Version:
        """The version of that number; InkwellError naming those that there are."""
        versions = self.versions()
        for one in versions:
            if one.number == number:
                return one
        known = ", ".join(one.number for one in versions) or "none"
        raise InkwellError(f"{self.name} has no version {number!r}: there is {known}.")

    def find(self, digest: str) -> Version | None:
        """The latest version of an export; None where it is not registered."""
        return next((one for one in reversed(self.versions()) if one.tags.get(DIGEST) == digest), None)

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self._asked():
            found = self._client.search_model_versions(f"name = '{self.name}'", max_results=10_000)
        return sorted((self._described(one) for one in found), key=lambda one: int(one.number))

    def _described(self, found: Any) -> Version:
        # a search does not always tell the logged model's id; the source does where it is one
        model = str(getattr(found, "model_id", None) or str(found.source or "").removeprefix("models:/"))
        return Version(str(found.version), dict(found.tags or {}), model, str(found.run_id or ""))

    def register(self, digest: str, name: str, tags: Mapping[str, str], path: str, files: Path) -> Version:
        """The version of an export, made where there is none yet; `challenger` points to it unless it is the champion.

        Its logged model is the one that the export step recorded; where the record is elsewhere (restored from another
        machine's run cache), one is made here of the small files below `files`.
        """
        with self._asked():
            if not any(one.name == self.name for one in self._client.search_registered_models(f"name = '{self.name}'")):
                self._client.create_registered_model(self.name, description="Exports of the Inkwell pipeline")
            version = self.find(digest)
            if version is None:
                model, run = self._logged_model(digest, name, path, files)
                with _tracking(self.uri):
                    made = self._client.create_model_version(
                        self.name, f"models:/{model}", run_id=run or None, model_id=model, tags={DIGEST: digest, **tags}
                    )
                version = self._described(self._client.get_model_version(self.name, made.version))
            champion = self.holder(CHAMPION)
            if champion is None or champion.number != version.number:
                self._client.set_registered_model_alias(self.name, CHALLENGER, version.number)
        return version

    def _logged_model(self, digest: str, name: str, path: str, files: Path) -> tuple[str, str]:
        wanted = f"tags.`inkwell.digest` = '{digest}' and tags.`inkwell.path` = '{path}'"
        found = self._client.search_logged_models([self.experiment], wanted, max_results=1)
        if found:
            return str(found[0].model_id), str(found[0].source_run_id or "")
        tags = {"inkwell.digest": digest, "inkwell.path": path}
        model = self._client.create_logged_model(
            self.experiment, name=f"export-{name}", tags=tags, model_type="language model"
        )
        import shutil
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            for file in (files / "manifest.json", files / "huggingface" / "README.md"):
                if file.exists():
                    shutil.copyfile(file, Path(temporary) / file.name)
            self._client.log_model_artifacts(model.model_id, temporary)
        self._client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id), ""

    def crown(self, version: Version, by: str, reason: str, evidence: str, withdraw: str = "") -> None:
        """Make `version` the champion and say so in its tags and in those of the one before (`inkwell.dethroned`).

        `withdraw`: why the one before was taken back by a human; promotion does not crown it again by itself.
        """
        before = self.holder(CHAMPION)
        with self._asked():
            # the tag first: killed in between, a reason without the alias misleads nobody, an alias without a reason does
            self.tell(version, by, reason, evidence)
            if before and withdraw and before.number != version.number:
                self._write(before, WITHDRAWN, {"at": now(), "by": by, "reason": withdraw[:_LONGEST]})
            self._client.set_registered_model_alias(self.name, CHAMPION, version.number)
            challenger = self.holder(CHALLENGER)
            if challenger and challenger.number == version.number:
                self._client.delete_registered_model_alias(self.name, CHALLENGER)
            if version.withdrawn:
                self._client.delete_model_version_tag(self.name, version.number, WITHDRAWN)
            if before and before.number != version.number:
                told = {"at": now(), "by": by, "for": version.number, "reason": reason[:_LONGEST]}
                self._write(before, DETHRONED, told)

    def tell(self, version: Version, by: str, reason: str, evidence: str, tag: str = PROMOTION) -> None:
        """Write what was decided about `version` into its tag."""
        self._write(version, tag, {"at": now(), "by": by, "reason": reason[:_LONGEST], "evidence": evidence})

    def _write(self, version: Version, tag: str, told: Mapping[str, str]) -> None:
        with self._asked():
            self._client.set_model_version_tag(self.name, version.number, tag, json.dumps(told, ensure_ascii=False))

    def record(self, kind: str, files: list[Path], tags: Mapping[str, str], figures: Mapping[str, float]) -> str:
        """A run of its own for a decision, with its files; returns the run's id."""
        from mlflow.entities import Metric

        with self._asked():
            run = self._client.create_run(
                self.experiment,
                tags={"inkwell.kind": kind, "mlflow.source.name": f"python -m flows.{kind}", **tags},
                run_name=kind,
            )
            at = int(time.time() * 1000)
            self._client.log_batch(run.info.run_id, [Metric(name, value, at, 0) for name, value in figures.items()])
            for file in files:
                self._client.log_artifact(run.info.run_id, str(file))
            self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


@contextlib.contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """MLflow resolves `models:/ID` with the process' own tracking server, whatever the client was told."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def now() -> str:
    """The time as ISO 8601, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def whoami() -> str:
    """Who decides: INKWELL_BY, the name in git's settings, or the user's name."""
    import getpass
    import os
    import subprocess

    if os.environ.get("INKWELL_BY"):
        return os.environ["INKWELL_BY"]
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=5, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
