"""The clones that isolated stages run in: `<scratch>/<commit>/<stage>`, each with a lock beside it that whoever works in it holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from components.step import STATE
from components.tracking.spool import waiting


@contextlib.contextmanager
def held(place: Path, stage: str) -> Iterator[Path | None]:
    """The path of `stage`'s clone in `place`, which is ours for the block; None when another process holds it.

    The system lets go of it when this process dies, however it dies.
    """
    handle = _locked(place, stage)
    if handle is None:
        yield None
        return
    with handle:
        yield place / stage


def _locked(place: Path, stage: str) -> IO[str] | None:
    lock = place / f".{stage}.lock"
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock.open("a")
        except FileNotFoundError:  # `remove` was faster
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        if _is(handle, lock):
            return handle
        handle.close()  # the lock of a clone that was removed in between


def _is(handle: IO[str], lock: Path) -> bool:
    """Whether `lock` is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def spool_of(clone: Path) -> Path:
    """Where the stage in `clone` leaves its records for MLflow."""
    return clone / STATE / "spool"


def remove(place: Path, stages: Iterable[str]) -> None:
    """Remove the clones of `stages` in `place`, but for those in which somebody works and those whose records have not left."""
    for stage in stages:
        if not place.exists():  # the workers have disks of their own
            return
        with held(place, stage) as clone:
            if clone is None or any(waiting(spool_of(clone))):
                continue
            shutil.rmtree(clone, ignore_errors=True)
            for half_made in place.glob(f".{stage}.*/"):
                shutil.rmtree(half_made, ignore_errors=True)
            (place / f".{stage}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are still there
        place.rmdir()
