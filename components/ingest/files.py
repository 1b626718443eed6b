"""Files on this machine: a path, a folder or a glob, in natural order, each with its hash."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError
from components.fetching.cache import file_hash
from components.fetching.locations import own_path
from components.ingest.members import File, natural, printable
from components.progress import bar


def local_files(location: str, source: str) -> list[File]:
    """The files that `location` stands for, in natural order.

    One file is called by its own name, the files of a folder or glob by their paths below its fixed part.
    Raises InkwellError when there is none, or one cannot be read.
    """
    path = own_path(location, f"source {source!r}")
    if path.is_dir():
        return folder_files(path, source)
    if path.is_file():
        return _hashed([(path, path.name)], source)
    if path.exists():
        raise InkwellError(f"source {source!r}: {location} is no regular file.")
    if not glob.has_magic(location):
        near = path.parent if path.parent.is_dir() else Path.cwd()
        raise InkwellError(
            f"source {source!r}: {location} does not exist (looked from {'the working folder' if not path.is_absolute() else 'the root'}; {near.name or near} exists): correct `location`."
        )
    root = _fixed_part(path)
    found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (Path.glob sees only folders in "**")
    files = [(file, file.relative_to(root).as_posix()) for file in found if file.is_file()]
    if not files:
        raise InkwellError(f"source {source!r}: no file matches {location}: correct `location`.")
    return _hashed(files, source)


def folder_files(folder: Path, source: str) -> list[File]:
    """Every file below `folder` but hidden ones (.git, .DS_Store), in natural order."""
    files = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            files.append((path, relative.as_posix()))
    if not files:
        raise InkwellError(f"source {source!r}: the folder {folder} holds no files.")
    return _hashed(files, source)


def together(files: Sequence[File]) -> str:
    """One hash for all: the file's own for one file, else the sha256 of what `sha256sum` would print for them."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(f"{file.sha256}  {file.name}\n" for file in files).encode()).hexdigest()


def _fixed_part(pattern: Path) -> Path:
    fixed = pattern
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def _hashed(files: list[tuple[Path, str]], source: str) -> list[File]:
    ordered = sorted(files, key=lambda pair: natural(pair[1]))
    hashed = []
    with bar(f"hashing {source}", sum(path.stat().st_size for path, _ in ordered)) as shown:
        for path, name in ordered:
            if not os.access(path, os.R_OK):
                raise InkwellError(f"source {source!r}: {name} cannot be read: change its permissions.")
            hashed.append(File(path, printable(name), file_hash(path, shown.advance)))
    return hashed
