"""What a GGUF file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from gguf import GGUFReader


def opened(path: Path) -> GGUFReader:
    """The file, read as far as its metadata; InkwellError where it is none."""
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise InkwellError(
            f"{path.name} is no GGUF file, or a damaged one ({error}): fetch or copy it again."
        ) from error


def value(reader: GGUFReader, key: str, default: Any = None) -> Any:
    """One entry of the metadata."""
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def read_license(path: Path) -> str | None:
    """The licence that a file states."""
    found = value(opened(path), "general.license")
    return str(found) if found else None
