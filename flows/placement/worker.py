"""One stage in a clone at a commit: the command that every worker runs, beside the coordinator or on another machine.

    python -m flows.placement.worker --commit SHA --stage pretrain --remote s3://bucket/store

Inputs come from the DVC remote and outputs go there, DVC's run cache with them, and what MLflow could not be told. The clone stays in
--scratch: the same command after a kill goes on from the stage's last checkpoint. Credentials come from the environment only. Exit status:
0 the stage stands and everything of it is on the remote, 1 it failed, 2 something to mend.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InkwellError
from flows.orchestration.sentences import kind_and_words
from flows.placement.snapshot import git

if TYPE_CHECKING:
    from flows.placement.handover import Store

_MARK = "INKWELL_WORKER"  # the clone that a process was started in


def work(commit: str, stage: str, remote: str, repository: str, scratch: Path, force: bool = False) -> int:
    """Bring `stage` up to date at `commit` and hand it over; the exit status of DVC.

    InkwellError when the commit, the stage or the remote is not to be had, or another worker has the stage.
    """
    from flows.orchestration.graph import read_stages
    from flows.orchestration.objects import drop_damaged_of
    from flows.placement.clones import held
    from flows.placement.handover import Store, hand_over, open_repository, take_over
    from flows.processes import terminating

    place = scratch.resolve() / commit
    with held(place, stage) as clone, terminating():
        if clone is None:
            raise InkwellError(f"another worker runs {stage} in {place}: wait for it, or end it.")
        _end_leftovers(clone)
        _make_clone(clone, commit, repository, remote)
        closure = read_stages(clone, [stage])
        store = Store(clone, remote)
        handovers = store.get(commit, [known.name for known in closure])
        take_over(clone, list(handovers.values()))
        with open_repository(clone, remote) as repo:  # `--pull` copies out of the clone's cache what it finds there
            for sentence in drop_damaged_of(repo, [known.name for known in closure]):
                print(f"cache: {sentence}", flush=True)
        repro = ["--wait-for-lock", "repro", "--single-item", "--pull", *(["--force"] if force else []), stage]
        status = _dvc(clone, *repro)
        _send_records(store, commit, clone)
        if status:
            return status
        _push(clone, stage, remote)
        uncached = next(known.uncached for known in closure if known.name == stage)
        store.put(commit, hand_over(clone, stage, uncached))
    return 0


def _push(clone: Path, stage: str, remote: str) -> None:
    from flows.placement.sharing import push

    try:
        push(clone, [stage])
    except Exception as error:  # DVC's, botocore's, the file system's
        raise InkwellError(
            f"{stage} is made, and {remote} did not take it ({kind_and_words(error)}): the same command sends it again."
        ) from error


def _send_records(store: Store, commit: str, clone: Path) -> None:
    """What MLflow was not told yet waits on the remote for the flow; where that is away too, in the clone. Never raises."""
    from flows.placement.clones import spool_of
    from flows.placement.records import send

    try:
        send(store, commit, spool_of(clone))
    except Exception as error:  # the stage itself stands
        print(f"worker: records for MLflow stay in {spool_of(clone)} ({kind_and_words(error)}).", file=sys.stderr)


def _end_leftovers(clone: Path) -> None:
    """End what a killed worker left: what a worker started in the clone, and is alive while the clone's lock is ours, belongs to nobody.

    They are known by a mark in their environment, so that a person's shell in the clone is left alone.
    """
    import psutil

    left = []
    for process in psutil.process_iter():
        try:
            inside = process.pid != os.getpid() and Path(process.cwd()).is_relative_to(clone)
            if inside and process.environ().get(_MARK) == str(clone):
                left.append(process)
        except (psutil.Error, OSError):
            continue
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def _make_clone(clone: Path, commit: str, repository: str, remote: str) -> None:
    """A clone at `commit` that keeps its results on `remote`; one that is there already is used again."""
    from configobj import ConfigObj

    from flows.placement.handover import STORE, is_address

    if not clone.exists():
        with tempfile.TemporaryDirectory(dir=clone.parent, prefix=f".{clone.name}.") as own:
            fresh = Path(own) / "clone"
            shared = ["--shared"] if Path(repository).is_dir() else []
            git(Path(own), "clone", "--quiet", "--no-checkout", *shared, repository, str(fresh))
            try:
                git(fresh, "cat-file", "-e", f"{commit}^{{commit}}")
            except InkwellError:
                git(fresh, "fetch", "--quiet", "origin", commit)
            git(fresh, "checkout", "--quiet", "--detach", commit)
            if not (fresh / ".dvc").is_dir():
                raise InkwellError(f"commit {commit[:12]} of {repository} is no pipeline's folder (.dvc is missing).")
            shutil.move(fresh, clone)
    config = ConfigObj(str(clone / ".dvc" / "config.local"), encoding="utf-8")
    if is_address(remote):
        config[f'remote "{STORE}"'] = {"url": remote}
    config["core"] = {"remote": STORE if is_address(remote) else remote}
    config.write()


def _dvc(clone: Path, *arguments: str) -> int:
    """Run `dvc` in the clone with its output passed on; the exit status."""
    from components.tracking.recorder import CARRIED
    from flows.orchestration.repro import command
    from flows.processes import Command, environment

    # Started by hand, the stage is a pipeline of its own.
    env = {**environment(os.environ.get("INKWELL_PIPELINE") or uuid.uuid4().hex), _MARK: str(clone), CARRIED: "1"}
    with Command(command(*arguments), clone, env, together=True) as running:
        for line in running.lines():
            print(line, flush=True)
        return running.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.placement.worker", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--commit", required=True, help="the whole hash of the commit to run at")
    parser.add_argument("--stage", required=True, help="a stage of its dvc.yaml")
    parser.add_argument("--remote", required=True, help="a DVC remote: a name that the commit knows, or an address")
    parser.add_argument("--repository", default=".", help="path or address to clone from (default: the current folder)")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(".inkwell") / "workers",
        help="where clones are made (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="run the stage even where nothing changed")
    arguments = parser.parse_args(argv)
    repository = arguments.repository
    if Path(repository).is_dir():
        repository = str(Path(repository).resolve())
    began = time.monotonic()
    try:
        status = work(
            arguments.commit, arguments.stage, arguments.remote, repository, arguments.scratch, arguments.force
        )
    except InkwellError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("worker: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    if status:
        return 1
    print(f"worker: {arguments.stage} stands after {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
