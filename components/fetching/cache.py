"""The cache of fetched archives, outside the repository: by content hash, so that nothing is fetched twice.

$INKWELL_CACHE (else $XDG_CACHE_HOME/inkwell, else ~/.cache/inkwell)
    archives/<sha256>/<file name>     whole and checked
    partial/<identity>.part           a download that was interrupted; the same command goes on from there
    addresses/<hash of address>.json  what an address without a declared hash held when it was last fetched
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.atomic import atomic_file
from components.errors import InkwellError


def cache_folder() -> Path:
    """Where fetched archives are kept."""
    if own := os.environ.get("INKWELL_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inkwell"


def file_hash(path: Path, advance: Callable[[float], None] | None = None) -> str:
    """sha256 of a file, in hexadecimal digits; `advance` is told of the bytes as they are read."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while data := handle.read(1 << 20):
            digest.update(data)
            if advance:
                advance(len(data))
    return digest.hexdigest()


def kept(sha256: str) -> Path | None:
    """The cached archive with this hash, checked again; a damaged copy is removed and None returned."""
    folder = cache_folder() / "archives" / sha256
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.name.startswith("."):
            continue  # another process is just now copying
        if file_hash(path) == sha256:
            return path
        print(f"  {path.name} in the cache is damaged and is fetched again", file=sys.stderr)
        path.unlink(missing_ok=True)
    return None


def keep(path: Path, sha256: str, name: str) -> Path:
    """Move a whole, checked file into the cache and return where it is now."""
    target = cache_folder() / "archives" / sha256 / (name.lstrip(".") or "archive")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.replace(target)
    except OSError:  # another file system
        with atomic_file(target) as temporary:
            shutil.copyfile(path, temporary)
        path.unlink(missing_ok=True)
    return target


def check_hash(found: str, expected: str | None, what: str) -> None:
    """InkwellError when a declared hash and the hash of what was fetched differ."""
    if expected and found != expected:
        raise InkwellError(
            f"{what} has the sha256 {found}, but params.yaml expects {expected}: if the new content is wanted, "
            "put its hash there; if not, somebody changed it."
        )


@contextmanager
def alone(identity: str) -> Iterator[None]:
    """Hold the lock of one download; a killed process lets go of it, a living one is waited for."""
    import fcntl

    folder = cache_folder() / "partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{identity}.lock").open("w")
    except OSError as error:
        raise InkwellError(
            f"the cache folder {cache_folder()} cannot be written ({error.strerror}): set INKWELL_CACHE to one that can."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  another process is fetching the same archive; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
