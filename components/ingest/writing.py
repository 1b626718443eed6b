"""The files of ingest: documents.parquet for the corpus, and one file for each other role that a source has."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.corpus.documents import raw_schema

if TYPE_CHECKING:
    import pyarrow.parquet as pq

TRAIN = "train"
_ROWS, _CHARACTERS = 10_000, 4_000_000  # held before they are written, whichever comes first


def file_of(role: str) -> str:
    """The name of the file that documents of a role are written to."""
    return "documents.parquet" if role == TRAIN else f"{role}.parquet"


def write_roles(folder: Path, rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, int]:
    """Write (role, document) as they come, each into its role's file (zstd), and return how many there were of each.

    Only `train` has a file without any document. Memory is bounded by what is held before it is written. What an error
    leaves is the caller's to remove.
    """
    import pyarrow.parquet as pq

    files: dict[str, _RoleFile] = {}
    with ExitStack() as stack:

        def opened(role: str) -> _RoleFile:
            if role not in files:
                writer = pq.ParquetWriter(folder / file_of(role), raw_schema(), compression="zstd")
                files[role] = _RoleFile(stack.enter_context(writer))
            return files[role]

        opened(TRAIN)
        for role, row in rows:
            opened(role).add(row)
        for file in files.values():
            file.flush()
    return {role: file.count for role, file in files.items()}


class _RoleFile:
    """One open file, and the documents that are still to be written to it."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer, self.count = writer, 0
        self._pending: list[dict[str, Any]] = []
        self._characters = 0

    def add(self, row: dict[str, Any]) -> None:
        """Take one document; it is written together with others."""
        self._pending.append(row)
        self._characters += len(row["text"]) + len(row["metadata"])
        if len(self._pending) >= _ROWS or self._characters >= _CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        import pyarrow as pa

        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, schema=raw_schema()))
        self.count += len(self._pending)
        self._pending, self._characters = [], 0
