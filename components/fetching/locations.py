"""Where a source lies: as a path of this machine, and as what strangers may be told of it."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Source

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_LOGIN = re.compile(r"//[^/]*@")
_SHOWN = 200  # characters of a path in a sentence


def own_path(location: str, what: str) -> Path:
    """`location` with `~` resolved; InkwellError, naming `what` it belongs to, where there can be no such path here."""
    shown = location if len(location) <= _SHOWN else f"{location[:_SHOWN]}..."
    try:
        path = Path(location).expanduser()
        path.exists()
    except RuntimeError as error:
        raise InkwellError(f"{what}: {shown}: there is no such user here; write the folder out.") from error
    except OSError as error:  # a name too long, or a folder that is closed to this user
        raise InkwellError(f"{what}: {shown} cannot be looked at ({error.strerror}): correct it.") from error
    return path


def public(address: str) -> str:
    """An address without user, password and signed query: fit for messages and records."""
    bare = (
        address if address.startswith("s3://") else re.split("[?#]", address, maxsplit=1)[0]
    )  # there "?" is a pattern
    return _LOGIN.sub("//", bare, count=1)


def without_secrets(text: str) -> str:
    """What a library says, with the addresses in it made public."""
    return _ADDRESS.sub(lambda match: public(match[0]), text)


def public_location(source: Source) -> str:
    """What may be told to strangers: addresses without passwords, paths of this machine without their folders."""
    if source.kind == "url":
        return public(source.location)
    if source.kind in ("path", "huggingface"):
        path = PurePath(source.location)
        return path.name if path.is_absolute() or source.location.startswith("~") else source.location
    return source.location
