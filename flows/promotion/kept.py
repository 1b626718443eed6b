"""What a workspace once wrote, brought back by its hash from DVC's cache or remote, whatever lies in the workspace now."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.atomic import atomic_folder
from components.errors import InkwellError
from flows.orchestration.objects import whole


def locked(workspace: Path, paths: Sequence[str], others: Sequence[str] = ()) -> dict[str, str]:
    """DVC's hash of each of `paths`, and of those of `others` that there are, as dvc.lock states them.

    Raises InkwellError for one that no finished stage has written.
    """
    import yaml

    try:
        stages = yaml.safe_load((workspace / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InkwellError(f"{workspace / 'dvc.lock'} holds no finished stage: run the pipeline first.") from error
    found = {out["path"]: str(out.get("md5", "")) for stage in stages.values() for out in stage.get("outs", [])}
    missing = [path for path in paths if not found.get(path)]
    if missing:
        raise InkwellError(f"{workspace / 'dvc.lock'} knows no {missing[0]}: run the pipeline first.")
    return {path: found[path] for path in (*paths, *others) if found.get(path)}


def missing(workspace: Path, hashes: Mapping[str, str]) -> list[str]:
    """Those of `hashes` (path: DVC's hash) of which a file is neither in the cache nor on the default remote."""
    lost = []
    with _Cache(workspace) as cache:
        for path, value in hashes.items():
            try:
                cache.files(value)
            except FileNotFoundError:
                lost.append(path)
    return lost


def fetch(workspace: Path, hashes: Mapping[str, str], target: Path) -> None:
    """Put what `hashes` name under `target`, each at its path; what lies there is replaced as a whole.

    Raises InkwellError when one can no longer be had, or is damaged in the cache.
    """
    with _Cache(workspace) as cache:
        for path, value in hashes.items():
            try:
                files = cache.files(value)
            except FileNotFoundError as error:
                raise InkwellError(
                    f"{path} ({value}) is neither in DVC's cache nor on a remote ({error}): "
                    "`dvc pull --run-cache` or a backup of the cache may bring it back."
                ) from error
            if not value.endswith(".dir"):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cache.path(files[""]), target / path)
                continue
            with atomic_folder(target / path) as folder:
                for name, oid in files.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(cache.path(oid), folder / name)


class _Cache:
    """DVC's cache of a workspace, filled from the default remote where something lacks."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._repo: Any = None

    def __enter__(self) -> _Cache:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            self._repo = Repo(str(self._workspace))
        except DvcException as error:
            raise InkwellError(f"{self._workspace} is no DVC repository: run in the project's folder.") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._repo.close()

    def path(self, oid: str) -> str:
        return str(self._repo.cache.local.oid_to_path(oid))

    def files(self, value: str) -> dict[str, str]:
        """Hash of each file by its name below the output ("" for an output that is a file); all are in the cache now.

        Raises FileNotFoundError naming what is lost.
        """
        from dvc_data.hashfile.tree import Tree

        self._need([value])
        if not value.endswith(".dir"):
            return {"": value}
        tree = Tree.load(self._repo.cache.local, self._info(value))
        files = {"/".join(key): str(info.value) for key, _, info in tree}
        self._need(list(files.values()))
        return files

    def _info(self, value: str) -> Any:
        from dvc_data.hashfile.hash_info import HashInfo

        return HashInfo("md5", value)

    def _need(self, values: Sequence[str]) -> None:
        cache = self._repo.cache.local
        lacking = [value for value in dict.fromkeys(values) if not whole(cache, value)]
        if lacking:
            from dvc.config import NoRemoteError

            for value in lacking:  # damaged ones would pass for present
                Path(self.path(value)).unlink(missing_ok=True)
            try:
                self._repo.cloud.pull([self._info(value) for value in lacking])
            except NoRemoteError:
                pass
            except Exception as error:  # botocore's, the file system's: the remote is the user's
                raise FileNotFoundError(f"the remote cannot be had: {type(error).__name__}") from error
            lost = [value for value in lacking if not whole(cache, value)]
            if lost:
                raise FileNotFoundError(f"{len(lost)} of {len(set(values))} files are lost")
