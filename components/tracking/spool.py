"""The spool: a folder a record, holding `record.jsonl` and the small files that belong to it.

A record is a list of JSON objects, one a line, each with a `kind`; the first is the header. Writing is appending, so a
step that is killed loses at most the line it was writing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LINES = "record.jsonl"
FILES = "files"
_GONE = ".gone-"


def milliseconds() -> int:
    """Now, as MLflow counts."""
    return int(time.time() * 1000)


class Record:
    """One record of the spool, open for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, spool: Path, header: Mapping[str, Any]) -> Record:
        """A new record whose name is a fresh uuid and sorts by time; it appears with its header or not at all."""
        name = f"{milliseconds():013}-{uuid.uuid4().hex}"
        hidden = spool / f".{name}"
        (hidden / FILES).mkdir(parents=True)
        (hidden / LINES).write_text(_line({**header, "id": name}), encoding="utf-8")
        hidden.rename(spool / name)
        return cls(spool / name)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one entry; on disk when this returns, as far as the operating system's cache is.

        It is one write at the end of the file: the step and the process that delivers its record both append.
        """
        handle = os.open(self.folder / LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            line = _line(entry).encode("utf-8")
            if os.write(handle, line) != len(line):  # the disk is full: what follows begins on a line of its own
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / LINES))
        finally:
            os.close(handle)

    def keep(self, path: Path, name: str) -> str:
        """Copy a file into the record and return its name there: it may be gone when the record is delivered."""
        target = self.folder / FILES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return name

    def entries(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Whole lines from byte `offset` on, and the offset behind them."""
        with (self.folder / LINES).open("rb") as handle:
            handle.seek(offset)
            data = handle.read()
        end = data.rfind(b"\n") + 1
        found = []
        for line in data[:end].splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # half a line of a killed step, and the next entry behind it
                continue
        return found, offset + end

    def close_torn_line(self) -> None:
        """End the half line that a killed step left, so that what is appended begins on a line of its own."""
        data = (self.folder / LINES).read_bytes()
        if data and not data.endswith(b"\n"):
            with (self.folder / LINES).open("ab") as handle:
                handle.write(b"\n")

    def remove(self) -> None:
        """Take the record off the spool as a whole, then delete it."""
        gone = self.folder.with_name(f"{_GONE}{self.folder.name}")
        self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def waiting(spool: Path) -> Iterator[Record]:
    """Records of the spool, oldest first."""
    if spool.exists():
        for folder in sorted(spool.iterdir()):
            if not folder.name.startswith(".") and (folder / LINES).exists():
                yield Record(folder)


def sweep(spool: Path) -> None:
    """Delete delivered records whose deletion was cut short."""
    for gone in spool.glob(f"{_GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, default=str) + "\n"
