"""What a stage hands to those after it, by way of the DVC remote: its entry of dvc.lock and the files that DVC does not keep.

The bytes of outputs travel as DVC's own objects. A handover is written after them, as one object, so that where it is
found everything that it names is there as well. It lies under `inkwell/handover/<commit>/<stage>.json`; what else travels
beside DVC's objects lies below `inkwell/` too.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from flows.orchestration.sentences import kind_and_words

STORE = "inkwell-store"  # what a remote is called that was given by its address


@dataclass(frozen=True)
class Handover:
    """`entry`: the stage's part of dvc.lock; `files`: uncached outputs by path."""

    stage: str
    entry: Mapping[str, Any]
    files: Mapping[str, bytes]

    def to_json(self) -> bytes:
        """One object, the same bytes for the same content."""
        files = {path: base64.b64encode(data).decode() for path, data in self.files.items()}
        return json.dumps({"stage": self.stage, "lock": self.entry, "files": files}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Handover:
        """The inverse of `to_json`."""
        found = json.loads(data)
        files = {path: base64.b64decode(text) for path, text in found["files"].items()}
        return cls(found["stage"], found["lock"], files)


class Store:
    """The DVC remote of a repository, as a place for handovers. `remote`: a name that the repository knows, or an address.

    Credentials come from the environment of the process, never from `remote`. Every method raises InkwellError when the remote cannot be had.
    """

    def __init__(self, folder: Path, remote: str) -> None:
        from dvc.exceptions import DvcException

        self.folder, self.remote = folder, remote
        try:
            with open_repository(folder, remote) as repo:
                place = repo.cloud.get_remote()
                self._fs, self._root = place.fs, place.path
        except (DvcException, ValueError) as error:
            raise InkwellError(
                f"--remote {remote} is no DVC remote ({' '.join(str(error).split())}): name one of `dvc remote list`, or give its address."
            ) from error

    def _place(self, name: str) -> str:
        found: str = self._fs.join(self._root, "inkwell", *name.split("/"))
        return found

    def check(self) -> None:
        """InkwellError when the remote cannot be reached."""
        self._asked(lambda: self._fs.exists(self._place("nothing")))

    def put(self, commit: str, handover: Handover) -> None:
        """Write a handover, whole or not at all."""
        self.write(f"handover/{commit}/{handover.stage}.json", handover.to_json())

    def get(self, commit: str, stages: Iterable[str]) -> dict[str, Handover]:
        """Those of the stages' handovers that there are."""
        found = {}
        for stage in stages:
            # Read at once instead of asking first: another worker may write it in between.
            data = self.read(f"handover/{commit}/{stage}.json")
            if data is not None:
                found[stage] = Handover.from_json(data)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Write the file `name` (folders apart by "/"), whole or not at all."""
        place = self._place(name)

        def write() -> None:
            self._fs.makedirs(self._fs.parent(place), exist_ok=True)
            if self._fs.protocol == "local":
                from components.atomic import atomic_file

                with atomic_file(Path(place)) as temporary:
                    temporary.write_bytes(data)
            else:
                self._fs.fs.pipe_file(place, data)

        self._asked(write)

    def read(self, name: str) -> bytes | None:
        """The file `name`; None when there is none."""
        place = self._place(name)
        found: bytes | None = self._asked(lambda: self._read(place))
        return found

    def names(self, folder: str) -> list[str]:
        """Names, sorted, of the files that lie in `folder` itself."""

        def listed() -> list[str]:
            self._fs.fs.invalidate_cache()  # others write there too
            return [self._fs.name(path) for path in self._fs.find(self._place(folder))]

        found: list[str] = self._asked(listed)
        return sorted(name for name in found if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove the file `name`, if it is there."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.fs.rm_file(self._place(name))

        self._asked(remove)

    def _read(self, place: str) -> bytes | None:
        try:
            if self._fs.protocol == "local":
                return Path(place).read_bytes()
            data: bytes = self._fs.fs.cat_file(place)
            return data
        except FileNotFoundError:
            return None

    def _asked(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # every kind of storage has errors of its own
            raise InkwellError(
                f"DVC's remote {self.remote} does not answer ({kind_and_words(error)}): "
                "look at its address and at the credentials in the environment."
            ) from error


def open_repository(folder: Path, remote: str | None) -> Any:
    """The DVC repository in `folder` with `remote`, a name or an address, as its default (None: the one that it has).

    What takes its lock waits for another `dvc` that holds it, as `dvc --wait-for-lock` does.
    """
    from dvc.repo import Repo

    if remote and is_address(remote):
        return Repo(str(folder), remote=STORE, remote_config={"url": remote}, _wait_for_lock=True)
    return Repo(str(folder), remote=remote, _wait_for_lock=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """DVC's libraries log the traceback of each file that fails; what matters of it is raised."""
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_address(remote: str) -> bool:
    """Whether it is an address or path and no name. InkwellError for one that holds credentials."""
    address = "/" in remote
    if (
        address
        and "@" in remote.partition("://")[2].partition("/")[0]
        and ":" in remote.partition("://")[2].partition("@")[0]
    ):
        raise InkwellError("--remote holds a password: take it out, credentials come from the environment only.")
    return address


def take_over(folder: Path, handovers: Sequence[Handover]) -> None:
    """Write the handovers into `folder`: entries into its dvc.lock, files where they belong.

    Outputs that the lock named before and that are others now are removed, so that DVC fetches them.
    """
    import shutil

    from dvc.utils.serialize import dump_yaml, load_yaml

    from components.atomic import atomic_file

    path = folder / "dvc.lock"
    lock: dict[str, Any] = load_yaml(str(path)) if path.exists() else {"schema": "2.0", "stages": {}}
    known: dict[str, Any] = lock.get("stages") or {}
    changed = False
    for handover in handovers:
        before = _hashes(known.get(handover.stage, {}))
        for output, digest in _hashes(handover.entry).items():
            if before.get(output) != digest and output not in handover.files:
                place = folder / output
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)
        changed |= known.get(handover.stage) != handover.entry
        known[handover.stage] = handover.entry
        for name, data in handover.files.items():
            place = folder / name
            if not place.exists() or place.read_bytes() != data:
                with atomic_file(place) as temporary:
                    temporary.write_bytes(data)
    if changed:
        with atomic_file(path) as temporary:
            dump_yaml(str(temporary), {**lock, "stages": known})


def _hashes(entry: Mapping[str, Any]) -> dict[str, str]:
    return {out["path"]: out.get("md5", "") for out in entry.get("outs", ())}


def hand_over(folder: Path, stage: str, uncached: Sequence[str]) -> Handover:
    """What `stage` has left in `folder`."""
    from dvc.utils.serialize import load_yaml

    entry = load_yaml(str(folder / "dvc.lock"))["stages"][stage]
    files = {name: (folder / name).read_bytes() for name in uncached if (folder / name).is_file()}
    return Handover(stage, entry, files)
