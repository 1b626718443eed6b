"""DVC's cache of a checkout, shared by way of a DVC remote: what one machine has made, another one need not make.

    python -m flows.placement.sharing STAGE      fetch what the default remote holds of the stage, then `dvc repro --single-item STAGE`

DVC's own `repro --pull` and `push --run-cache` copy every run that was ever kept, for each stage anew, and leave out what outputs with
`cache: false` (all metrics) held, without which DVC restores no run elsewhere. Here a stage asks for its own runs only, and all that
they name is sent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flows.orchestration.repro import command
from flows.orchestration.sentences import kind_and_words
from flows.placement.handover import open_repository, quiet


def default_remote(folder: Path) -> str | None:
    """The name of the remote that DVC in `folder` pushes to where none is named; None without one."""
    from dvc.config import Config

    found: str | None = Config(str(folder / ".dvc"))["core"].get("remote")
    return found


def fetch(folder: Path, name: str) -> None:
    """Bring into DVC's cache what the default remote holds of stage `name` on the inputs of now; nothing where it holds nothing.

    Raises what DVC and the remote's library raise.
    """
    from dvc.repo import lock_repo
    from dvc.stage.cache import _can_hash

    with quiet(), open_repository(folder, None) as repo, lock_repo(repo):
        (stage,) = _stages(repo, [name])
        # A stage whose inputs are missing fails, and DVC's words about it are better.
        if not all(dep.exists for dep in stage.deps) or not _can_hash(stage):
            return
        if not stage.changed_stage() and stage.deps_cached() and all(out.hash_info for out in stage.outs):
            wanted = [out.hash_info for out in stage.outs]  # dvc.lock tells what it once made of them
        else:
            stage.save_deps()
            _fetch_runs(repo, stage)
            wanted = _made_by(repo.stage_cache._load(stage))
        remote = repo.cloud.get_remote_odb()
        objects = _with_files(wanted, [repo.cache.local, remote])
        if objects:
            repo.cloud.pull(objects)


def push(folder: Path, names: Collection[str] | None = None, remote: str | None = None) -> None:
    """Send what dvc.lock says that the stages made (None: all that DVC tracks), as far as the cache holds it: first outputs, then runs.

    `remote`: a name or an address (None: the default remote). Raises what DVC and the remote's library raise.
    """
    from dvc.exceptions import UploadError
    from dvc.repo import lock_repo

    with quiet(), open_repository(folder, remote) as repo, lock_repo(repo):
        stages = _stages(repo, names)
        made = [out.hash_info for stage in stages for out in stage.outs if out.hash_info and out.can_push]
        here = [info for info in made if repo.cache.local.exists(info.value)]
        objects = _with_files(here, [repo.cache.local])
        if objects:
            failed = repo.cloud.push(objects).failed
            if failed:
                raise UploadError(len(failed))
        for stage in stages:
            _push_runs(repo, stage)


def _stages(repo: Any, names: Collection[str] | None) -> list[Any]:
    """The named stages; with None all, what `dvc add` tracks among them."""
    from dvc.stage import PipelineStage

    found = list(repo.index.stages)
    return [one for one in found if names is None or (isinstance(one, PipelineStage) and one.name in names)]


def _made_by(run: Any) -> list[Any]:
    """Hashes of the outputs of an entry of the run cache; empty without one."""
    from dvc_data.hashfile.hash_info import HashInfo

    return [HashInfo("md5", out["md5"]) for out in run["outs"]] if run else []


def _with_files(hashes: Sequence[Any], stores: Sequence[Any]) -> set[Any]:
    """`hashes`, and those of the files in folders among them. A folder whose list none of the `stores` has is left out."""
    from dvc_data.hashfile.transfer import find_tree_by_obj_id

    found: set[Any] = set()
    for info in hashes:
        tree: Any = find_tree_by_obj_id(stores, info) if info.isdir else ()
        if tree is not None:
            found |= {info, *(file for _, _, file in tree)}
    return found


def _runs(repo: Any, stage: Any) -> tuple[Path, Any, str]:
    """Where the run cache keeps the runs of `stage` on its inputs: a folder here; a file system and a folder on the remote."""
    from dvc.stage.cache import _get_stage_hash

    key = _get_stage_hash(stage)
    store = repo.cloud.get_remote_odb(hash_name="md5-dos2unix")  # where DVC itself keeps it
    return Path(repo.stage_cache.cache_dir, key[:2], key), store.fs, store.fs.join(store.path, "runs", key[:2], key)


def _fetch_runs(repo: Any, stage: Any) -> None:
    from components.atomic import atomic_file

    here, fs, there = _runs(repo, stage)
    for path in fs.find(there):
        target = here / fs.name(path)
        if not target.exists():
            with atomic_file(target) as temporary:
                temporary.write_bytes(fs.cat_file(path))


def _push_runs(repo: Any, stage: Any) -> None:
    from dvc.stage.cache import _can_hash

    if not all(out.hash_info for out in stage.outs):  # it has not been made
        return
    if not all(dep.exists for dep in stage.deps) or not _can_hash(stage):
        return
    here, fs, there = _runs(repo, stage)
    for path in sorted(here.glob("[0-9a-f]*")):
        if not fs.exists(fs.join(there, path.name)):
            fs.put_file(str(path), fs.join(there, path.name))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; it becomes `dvc repro`, with that one's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.placement.sharing", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("stage", help="a stage of dvc.yaml in the current folder")
    stage = parser.parse_args(argv).stage
    try:
        fetch(Path.cwd(), stage)
    except Exception as error:  # the stage can be made here as well
        print(
            f"sharing: nothing of {stage} comes from DVC's remote ({kind_and_words(error)}).",
            file=sys.stderr,
            flush=True,
        )
    repro = command("--wait-for-lock", "repro", "--single-item", stage)
    os.execv(repro[0], repro)


if __name__ == "__main__":
    sys.exit(main())
