"""The URL filter: pages that are not wanted for their address alone, by words of our own list and by domains of the user's.

The scheme follows RefinedWeb (Penedo et al. 2023, appendix G.1) as FineWeb uses it: listed domains and addresses; words of
which one is enough; words of which two are needed; parts of words. Words are compared in the address as a person reads it:
percent signs and punycode decoded, in any script.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from components.errors import InkwellError
from components.fetching.locations import own_path
from components.ingest.records import Record, as_json

if TYPE_CHECKING:
    import numpy as np

    from components.configuration import Source

Blocker = Callable[[str], str | None]

_WORDS = Path(__file__).with_name("blocked_words.txt")
_HEADS = ("one", "two", "part")
_BETWEEN = re.compile(r"[\W_]+")
_NOT_HOST = re.compile(r"[/:?%@\[]|xn--", re.IGNORECASE)
_LONGEST = 4096  # characters of an address that are looked at


@dataclass(frozen=True)
class Words:
    """Words by how they block: one is enough, two different ones are needed, or as a part of anything."""

    one: frozenset[str]
    two: frozenset[str]
    part: tuple[str, ...]

    def why(self, host: str, rest: str) -> str | None:
        """The reason to block, None where there is none."""
        found = set(_BETWEEN.split(f"{host} {rest}"))
        if hit := found & self.one:
            return f"the word {min(hit)!r}"
        if len(hit := found & self.two) >= 2:
            return f"the words {' and '.join(map(repr, sorted(hit)[:2]))}"
        joined = _BETWEEN.sub("", f"{host}{rest}")
        part = next((part for part in self.part if part in joined), None)
        return None if part is None else f"{part!r} in it"


class Blocklist:
    """Domains (with all that is below them) and beginnings of addresses, a line each; millions of lines in 8 bytes each."""

    def __init__(self, path: Path, where: str) -> None:
        """InkwellError where the file cannot be read or holds nothing."""
        import numpy as np

        keys = array("Q")
        try:
            with path.expanduser().open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if entry := _entry(line):
                        keys.append(_key(entry))
        except OSError as error:
            raise InkwellError(f"{where}: the blocklist {path} cannot be read ({error.strerror}).") from error
        if not keys:
            raise InkwellError(f"{where}: the blocklist {path} holds no domain or address.")
        self._keys: np.ndarray = np.unique(np.frombuffer(keys, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._keys)

    def why(self, host: str, rest: str) -> str | None:
        """The reason to block, None where there is none."""
        for candidate in _candidates(host, rest):
            if self._has(_key(candidate)):
                return f"{candidate} on the blocklist"
        return None

    def _has(self, key: int) -> bool:
        import numpy as np

        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return place < len(self._keys) and int(self._keys[place]) == key


def blocker(source: Source) -> Blocker | None:
    """What tells why an address of this source is blocked; None where nothing is to be filtered."""
    if not source.url_filter and source.url_blocklist is None:
        return None
    where, changed = f"source {source.name!r}", 0
    if source.url_blocklist is not None:
        path = own_path(source.url_blocklist, where)
        changed = path.stat().st_mtime_ns if path.exists() else 0
    return _blocker(source.url_filter, source.url_blocklist, changed, where)


def screened(record: Record, why: Blocker | None) -> Record:
    """The record; where the `url` of its metadata is blocked, one without text that says so under `url_blocked`.

    It is counted and dropped by clean like any document without text, so that nothing is lost without a record.
    """
    if why is None or '"url"' not in record.metadata:
        return record
    metadata = json.loads(record.metadata)
    address = metadata.get("url")
    if "url_blocked" in metadata or not isinstance(address, str) or (reason := why(address)) is None:
        return record
    return replace(record, text="", metadata=as_json({**metadata, "url_blocked": reason}))


def parts_of(address: str) -> tuple[str, str]:
    """Host (without port, `www.` and login) and the rest of an address, decoded and in small letters."""
    address = address[:_LONGEST].strip()
    try:
        split = urlsplit(address if "//" in address else f"//{address}")
        host = split.hostname or ""
    except ValueError:  # such as a bracket that is not closed
        return "", unquote(address).casefold()
    if "xn--" in host:
        host = ".".join(_readable(label) for label in host.split("."))
    rest = split.path + (f"?{split.query}" if split.query else "")
    return host.rstrip(".").removeprefix("www.").casefold(), unquote(rest).casefold()


@lru_cache(maxsize=8)  # asked for each file of a crawl, and a list may have millions of lines
def _blocker(by_words: bool, blocklist: str | None, changed: int, where: str) -> Blocker:
    words = load_words() if by_words else None
    listed = Blocklist(Path(blocklist), where) if blocklist is not None else None

    def why(address: str) -> str | None:
        host, rest = parts_of(address)
        return (listed.why(host, rest) if listed else None) or (words.why(host, rest) if words else None)

    return why


def load_words(path: Path = _WORDS) -> Words:
    """The words of a list that is divided by `[one]`, `[two]` and `[part]`."""
    found: dict[str, list[str]] = {head: [] for head in _HEADS}
    head = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if text.startswith("[") and text.endswith("]") and text[1:-1] in _HEADS:
            head = text[1:-1]
        elif text and not head:
            raise InkwellError(f"{path.name}: line {number} comes before [one], [two] or [part].")
        else:
            found[head or "one"].extend(text.casefold().split())
    return Words(frozenset(found["one"]), frozenset(found["two"]), tuple(dict.fromkeys(found["part"])))


def _candidates(host: str, rest: str) -> Iterator[str]:
    """What a list may hold to block an address: its host, the domains above that, and each beginning of its path."""
    labels = host.split(".")
    yield from (".".join(labels[place:]) for place in range(len(labels)))
    path, question, query = rest.partition("?")
    segments = [segment for segment in path.split("/") if segment]
    for count in range(1, len(segments) + 1):
        yield f"{host}/{'/'.join(segments[:count])}"
    if question:
        yield f"{host}/{'/'.join(segments)}?{query}"


def _entry(line: str) -> str | None:
    text = line.partition("#")[0].split()
    if not text:
        return None
    last = text[-1]  # lists in the shape of a hosts file begin with an address
    if not _NOT_HOST.search(last):  # nearly all of the lines of large lists
        return last.rstrip(".").removeprefix("www.").casefold() or None
    host, rest = parts_of(last)
    path, question, query = rest.partition("?")
    path = "/".join(segment for segment in path.split("/") if segment)
    return f"{host}/{path}?{query}" if question else f"{host}/{path}" if path else host or None


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _readable(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return label
