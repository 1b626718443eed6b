"""A copy of a workspace in which everything has run, to measure in: the workspace itself is only read.

The copy holds the code, what dvc.lock names, and the files of DVC's cache that bring the outputs back. It is no Git repository
and has no DVC remote: what is measured in it is this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from flows.orchestration.objects import names_of, whole
from flows.workspace import COPIED


def copy_finished(finished: Path, folder: Path) -> Path:
    """Make `folder` such a copy, in place of what was there; its path.

    Raises InkwellError where a stage would run in it: DVC's cache lacks what dvc.lock names, or holds it damaged, or `dvc status` knows of
    changes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    described = _stages(finished / "dvc.yaml")
    locked = {
        name: stage for name, stage in _stages(finished / "dvc.lock").items() if name.partition("@")[0] in described
    }
    cache = _cache(_settings(finished).get("dir") or finished / ".dvc" / "cache")
    copied = _cache(folder / ".dvc" / "cache")
    back = restorable(finished)
    for name, stage in locked.items():
        known = _outputs(described.get(name, {}))
        for out in stage.get("outs", []):
            # Of a stage that can be restored the cache has what `cache: false` names, too.
            if name in back or known.get(out["path"], {}).get("cache", True):
                _copy_cached(cache, copied, str(out["path"]), str(out.get("md5") or ""))
    stages = list(locked.values())
    named = {str(entry["path"]) for stage in stages for kind in ("deps", "outs") for entry in stage.get(kind, [])}
    named |= {str(name) for stage in stages for name in stage.get("params", {})}
    for name in sorted({*COPIED, *named, "params.yaml", "dvc.lock"}):  # folders come before what lies in them
        _copy(finished, folder, Path(name))
    _configure(finished, folder)
    _check(finished, folder)
    return folder


def restorable(workspace: Path) -> dict[str, list[str]]:
    """Outputs by stage, of the stages that DVC restores: it keeps no run of one that has an output with `cache: false`, but for metrics."""
    found = {}
    for name, stage in _stages(workspace / "dvc.yaml").items():
        outs = _outputs(stage, ("outs",))
        if outs and all(options.get("cache", True) and not options.get("persist") for options in outs.values()):
            found[name] = list(outs)
    return found


def _stages(file: Path) -> dict[str, Mapping[str, Any]]:
    """The stages of dvc.yaml or dvc.lock by name; of the latter those, too, that dvc.yaml has no more."""
    import yaml

    if not file.is_file():
        raise InkwellError(f"{file.parent} holds no finished pipeline: {file.name} is missing.")
    found: dict[str, Mapping[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    return found


def _outputs(
    stage: Mapping[str, Any], kinds: Sequence[str] = ("outs", "metrics", "plots")
) -> dict[str, Mapping[str, Any]]:
    """Paths and options of what a stage of dvc.yaml writes."""
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    named = [entry if isinstance(entry, dict) else {entry: {}} for entry in entries]
    return {str(path): options or {} for entry in named for path, options in entry.items()}


def _settings(finished: Path) -> Mapping[str, Any]:
    from dvc.config import Config

    found: Mapping[str, Any] = Config(str(finished / ".dvc"))["cache"]
    return found


def _cache(folder: str | Path) -> Any:
    """DVC's cache in `folder`, opened without its repository, which would be written to."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.db.local import LocalHashFileDB

    return LocalHashFileDB(LocalFileSystem(), str(Path(folder) / "files" / "md5"))


def _copy_cached(cache: Any, target: Any, path: str, value: str) -> None:
    """Copy the files behind the hash `value` of the output `path` from one cache into the other, each held against its name."""
    otherwise = "could not be restored: bring it back with `dvc fetch`, or leave --finished out."
    for name in names_of(cache, value):
        file, copied = Path(cache.oid_to_path(name)), Path(target.oid_to_path(name))
        if not name or not file.is_file():
            raise InkwellError(f"{path} is not in DVC's cache ({file}) and {otherwise}")
        if copied.is_file():
            continue
        if not whole(cache, name):
            raise InkwellError(f"{path} is damaged in DVC's cache ({file}) and {otherwise}")
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copied)


def _copy(finished: Path, folder: Path, name: Path) -> None:
    source, target = finished / name, folder / name
    if name.is_absolute() or ".." in name.parts or target.exists() or not source.exists():
        return  # what lies outside is read where it lies; `dvc status` tells of what lacks
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _configure(finished: Path, folder: Path) -> None:
    from configobj import ConfigObj

    config = ConfigObj(encoding="utf-8")
    config["core"] = {"no_scm": "true", "analytics": "false", "check_update": "false"}
    kinds = _settings(finished).get("type")
    if kinds:
        config["cache"] = {"type": ",".join(kinds)}
    config.filename = str(folder / ".dvc" / "config")
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    config.write()


def _check(finished: Path, folder: Path) -> None:
    from flows.pipeline import plan

    changed = [f"{name} ({why})" for name, why in plan(folder, [], force=False) if why]
    if changed:
        raise InkwellError(
            f"{finished} is not finished, so that stages would run: {'; '.join(changed)[:300]}. Run `python -m flows.run` there first."
        )
