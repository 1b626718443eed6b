"""Files from http(s) and s3 addresses through fsspec: resumed where an earlier try stopped, checked, cached.

A partial file is continued only when it is surely the same file: the server's validator (ETag or Last-Modified) is
kept beside it and sent as If-Range, as RFC 9110 (13.1.5, 14.2) describes; for s3 the ETag is compared. Where there is
no validator, only a declared sha256 lets a download go on, since a wrong join is then found at the end.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from components.atomic import atomic_file
from components.errors import InkwellError
from components.fetching.cache import alone, cache_folder, check_hash, file_hash, keep, kept
from components.fetching.locations import public, without_secrets
from components.progress import bar

if TYPE_CHECKING:
    from components.progress import Bar

SCHEMES = ("http", "https", "s3")
_CHUNK = 1 << 20  # bytes asked of an http stream at once
_RANGE = 8 << 20  # bytes of one s3 request
_CONNECT_SECONDS, _SILENCE_SECONDS = 20, 60
_TRIES = 4  # in a row without one new byte


@dataclass
class Partial:
    """What is known of a partly downloaded file."""

    validator: str | None = None
    size: int | None = None


class _ChangedError(Exception):
    """The file at the address is no longer the one that was begun."""


def file_name(address: str) -> str:
    """The last part of an address's path, as a plain file name."""
    name = PurePosixPath(unquote(urlsplit(address).path)).name.replace("\\", "_").replace("\0", "")
    return name if name not in ("", ".", "..") else "download"


def expand(address: str) -> list[str]:
    """The addresses that an s3 address with wildcards or a closing "/" stands for, in listing order."""
    try:
        parts = urlsplit(address)
    except ValueError as error:  # such as a bracket that is not closed
        raise InkwellError(f"{public(address)} is no valid address ({error}): correct `location`.") from error
    if parts.scheme not in SCHEMES:
        raise InkwellError(
            f"{public(address)} is no address that ingest reads: it begins with one of {', '.join(SCHEMES)} (for a file here, kind: path)."
        )
    if not parts.netloc:
        raise InkwellError(
            f"{public(address)} names no {'bucket' if parts.scheme == 's3' else 'server'}: write it as {parts.scheme}://NAME/PATH."
        )
    if parts.scheme != "s3" or not (address.endswith("/") or any(sign in address for sign in "*?[")):
        return [address]
    try:
        store = _store()
        store.invalidate_cache()
        found = store.find(address) if address.endswith("/") else store.glob(address)
    except Exception as error:  # botocore has a hundred kinds
        raise _unreachable(address, error) from error
    if not found:
        raise InkwellError(f"{address} matches no object: check bucket and pattern.")
    return [f"s3://{name}" for name in found if not name.endswith("/")]


def fetch(address: str, sha256: str | None) -> tuple[Path, str]:
    """The file at `address` in the cache, and its sha256.

    With `sha256` a cached copy is used without asking the server. Raises InkwellError with one sentence when the
    server cannot be reached, refuses, or serves something of another hash.
    """
    if sha256 and (cached := kept(sha256)):
        return cached, sha256
    identity = sha256 or f"address-{hashlib.sha256(address.encode()).hexdigest()[:40]}"
    with alone(identity):
        if sha256 and (cached := kept(sha256)):  # the process that was waited for has fetched it
            return cached, sha256
        partial = cache_folder() / "partial" / f"{identity}.part"
        return _fetch_alone(address, sha256, partial)


def _fetch_alone(address: str, sha256: str | None, partial: Path) -> tuple[Path, str]:
    record = cache_folder() / "addresses" / f"{hashlib.sha256(address.encode()).hexdigest()[:40]}.json"
    known = _read_json(record) if sha256 is None else None
    previous = kept(known["sha256"]) if known else None
    resumed = partial.exists() and partial.stat().st_size > 0
    transfer = _http if urlsplit(address).scheme in ("http", "https") else _s3
    with bar(f"downloading {file_name(address)}", None) as shown:
        state = _persistently(
            transfer, address, partial, shown, known["validator"] if known and previous else None, sha256 is not None
        )
        if state is None:
            assert previous is not None
            assert known is not None
            return previous, str(known["sha256"])
    found = file_hash(partial)
    if resumed and sha256 and found != sha256:
        # The earlier part may have been of another file: once more, from the start, before anyone is blamed.
        print("  the continued download does not have the expected hash; starting over", file=sys.stderr)
        _forget(partial)
        with bar(f"downloading {file_name(address)}", None) as shown:
            state = _persistently(transfer, address, partial, shown, None, True)
        assert state is not None
        found = file_hash(partial)
    if sha256 and found != sha256:
        _forget(partial)
        check_hash(found, sha256, public(address))
    path = keep(partial, found, file_name(address))
    _forget(partial)
    if sha256 is None:
        with atomic_file(record) as temporary:
            temporary.write_text(json.dumps({"sha256": found, "validator": state.validator}), encoding="utf-8")
        print(
            f"  {public(address)} has the sha256 {found}; with it in params.yaml the source is pinned", file=sys.stderr
        )
    return path, found


def _persistently(
    transfer: Any, address: str, partial: Path, shown: Bar, unchanged: str | None, pinned: bool
) -> Partial | None:
    """Run `transfer` until it is through; it is tried again, from where it broke off, while bytes keep coming."""
    failures = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            state: Partial | None = transfer(address, partial, shown, unchanged, pinned)
            return state
        except InkwellError:
            raise
        except _ChangedError:
            _forget(partial)
            failures += 1
            cause: Exception = InkwellError("the file changes while it is read")
        except Exception as error:  # aiohttp, botocore and sockets: anything that a network does
            if getattr(error, "errno", None) == 28:
                raise
            after = partial.stat().st_size if partial.exists() else 0
            failures = 1 if after > before else failures + 1
            cause = error
        if failures >= _TRIES:
            raise _unreachable(address, cause) from cause
        time.sleep(min(4.0, 0.5 * 2**failures))


def _http(address: str, partial: Path, shown: Bar, unchanged: str | None, pinned: bool) -> Partial | None:
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem, HTTPStreamFile

    begun = _begun(partial, pinned)
    have = partial.stat().st_size
    headers: dict[str, str] = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if begun.validator:
            headers["If-Range"] = begun.validator
    elif unchanged:
        headers["If-None-Match" if unchanged.startswith(('"', "W/")) else "If-Modified-Since"] = unchanged
    timeout = aiohttp.ClientTimeout(
        total=None, connect=_CONNECT_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
    )
    # auto_decompress would unpack what must be hashed as it is; trust_env honours the user's proxies.
    options = {"timeout": timeout, "auto_decompress": False, "trust_env": True}
    system = HTTPFileSystem(skip_instance_cache=True, use_listings_cache=False, client_kwargs=options)
    try:
        # A size spares fsspec's own HEAD request; block_size 0 asks for the plain stream.
        stream = system.open(address, block_size=0, size=1, headers=headers)
    except aiohttp.ClientResponseError as error:
        if error.status == 416 and have:
            total = _total_of(error.headers.get("Content-Range", "") if error.headers else "")
            if total == have:
                return begun
            raise _ChangedError from error
        if error.status < 500 and error.status not in (408, 425, 429):
            raise InkwellError(
                f"{public(address)}: the server answers {error.status} ({error.message}); check the address and your rights."
            ) from error
        raise
    except FileNotFoundError as error:
        raise InkwellError(f"{public(address)}: the server has no such file (404).") from error
    except aiohttp.InvalidURL as error:
        raise InkwellError(f"{public(address)} is no valid address.") from error
    assert isinstance(stream, HTTPStreamFile)
    with stream:
        response = stream.r
        if response.status == 304:
            return None
        length = response.headers.get("Content-Length")
        if response.status == 206:
            if not response.headers.get("Content-Range", "").replace(" ", "").startswith(f"bytes{have}-"):
                raise _ChangedError
            begun.size = _total_of(response.headers["Content-Range"]) or begun.size
        else:  # 200: the whole file, because nothing was begun, it has changed, or the server does not know Range
            have = 0
            begun = Partial(_validator(response.headers), int(length) if length else None)
        _note(partial, begun)
        shown.total = begun.size
        shown.resume_at(have)
        with partial.open("r+b") as out:
            out.truncate(have)
            out.seek(have)
            while data := stream.read(_CHUNK):
                out.write(data)
                out.flush()  # a killed process loses nothing that had come
                have += len(data)
                shown.advance(len(data))
    if begun.size is not None and have < begun.size:
        raise ConnectionError(f"the connection closed after {have} of {begun.size} bytes")
    if begun.size is not None and have > begun.size:
        raise _ChangedError
    return begun


def _validator(headers: Any) -> str | None:
    """What If-Range may carry: a strong ETag, else the date of the last change."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return str(tag)
    changed = headers.get("Last-Modified")
    return str(changed) if changed else None


def _total_of(content_range: str) -> int | None:
    total = content_range.rpartition("/")[2].strip()
    return int(total) if total.isdigit() else None


def _store() -> Any:
    """The S3 file system, with the user's own credentials, or none where they have none (public buckets)."""
    import botocore.session
    import s3fs

    settings = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _SILENCE_SECONDS, "retries": {"max_attempts": 2}}
    anonymous = botocore.session.get_session().get_credentials() is None
    return s3fs.S3FileSystem(anon=anonymous, config_kwargs=settings, skip_instance_cache=True, use_listings_cache=False)


def _s3(address: str, partial: Path, shown: Bar, unchanged: str | None, pinned: bool) -> Partial | None:
    store = _store()
    try:
        about = store.info(address)
    except FileNotFoundError as error:
        raise InkwellError(f"{address}: there is no such object.") from error
    except PermissionError as error:
        raise InkwellError(
            f"{address}: reading is refused ({error}); check your credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID)."
        ) from error
    if about.get("type") != "file":
        raise InkwellError(f"{address} is a folder: close the address with '/' to read everything in it.")
    state = Partial(about.get("ETag"), int(about["size"]))
    begun = _begun(partial, pinned)
    if unchanged and unchanged == state.validator and not partial.stat().st_size:
        return None
    have = partial.stat().st_size
    if have and (begun != state or have > about["size"]):
        have = 0
    _note(partial, state)
    shown.total = state.size
    shown.resume_at(have)
    with partial.open("r+b") as out:
        out.truncate(have)
        out.seek(have)
        while have < about["size"]:
            data = store.cat_file(address, start=have, end=min(have + _RANGE, about["size"]))
            if not data:
                raise ConnectionError(f"an empty answer at byte {have}")
            out.write(data)
            out.flush()
            have += len(data)
            shown.advance(len(data))
    if store.info(address).get("ETag") != state.validator:
        raise _ChangedError
    return state


def _begun(partial: Path, pinned: bool) -> Partial:
    """What is known of the partial file; a file that cannot safely be continued is emptied."""
    notes = _read_json(partial.with_suffix(".json"))
    begun = Partial(**notes) if notes else Partial()
    if not partial.exists() or (begun.validator is None and not pinned):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"")
        begun = Partial()
    return begun


def _note(partial: Path, state: Partial) -> None:
    with atomic_file(partial.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_suffix(".json").unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _unreachable(address: str, cause: Exception) -> InkwellError:
    text = without_secrets(" ".join(str(cause).split())) or type(cause).__name__  # aiohttp quotes the whole address
    return InkwellError(
        f"{public(address)} cannot be fetched ({text}): check network, proxy and address; "
        "what has come so far is kept and the same command goes on from there."
    )
