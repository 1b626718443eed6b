"""WARC, the archive format of web crawls: its responses that are HTML or plain text, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from components.errors import InkwellError
from components.fetching.locations import public
from components.ingest.charsets import declared_by_header, decode
from components.ingest.encodings import Readable
from components.ingest.pages import LARGEST_PAGE, read_bounded, to_document
from components.ingest.records import Record, as_json, without_text

_HTML = {"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"}
_TEXT = {"text/plain"}
_UNTOLD = {"", "unk", "application/octet-stream", "application/http", "no-type"}
_KINDS_SHOWN = 40  # in the account; the rest together


class WarcFile:
    """The documents of a WARC file (already unpacked); `passed_over` counts the records that are no pages, by kind.

    A document's row is the number of its record in the file, counted from 0, requests and pictures included.
    """

    def __init__(self, stream: Readable, encoding: str, blocked: Callable[[str], str | None] | None = None) -> None:
        """`blocked` tells why an address is not wanted: its page is then not even extracted."""
        self._stream, self._encoding, self._blocked = stream, encoding, blocked
        self._passed_over: Counter[str] = Counter()

    def account(self) -> dict[str, Any]:
        """What was passed over, for the member's entry in sources.json."""
        if not self._passed_over:
            return {}
        found = dict(self._passed_over.most_common(_KINDS_SHOWN))
        if rest := self._passed_over.total() - sum(found.values()):
            found["other kinds"] = rest
        return {"passed_over": found}

    def records(self) -> Iterator[Record]:
        """A document for each page; InkwellError naming the record at which the file is damaged."""
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
        from warcio.recordloader import ArcWarcRecordLoader
        from warcio.statusandheaders import StatusAndHeadersParserException

        class Quiet(ArchiveIterator):  # type: ignore[misc]
            INC_RECORD = ""  # what it would write to the terminal about a record that is longer than it says

        class Nameless(ArcWarcRecordLoader):  # type: ignore[misc]
            def load_http_headers(self, kind: str, address: str | None, *rest: Any) -> Any:
                """The library fails on a response without an address; it has no headers then."""
                return super().load_http_headers(kind, address or "", *rest)

        records = Quiet(_Unseekable(self._stream))
        records.loader = Nameless(verify_http=False)
        row = -1
        address = None
        try:
            for row, record in enumerate(records):
                address = record.rec_headers.get_header("WARC-Target-URI") or record.rec_headers.get_header("uri")
                yield from self._document(row, record, address)
                while record.raw_stream.read(1 << 16):
                    pass
                if record.length is not None and getattr(record.raw_stream, "limit", 0) > 0:
                    raise InkwellError(
                        f"{self._stream.where} ends within record {row} ({public(address or 'without an address')}): it is truncated; "
                        "fetch or copy it again."
                    )
        except (ArchiveLoadFailed, StatusAndHeadersParserException) as error:
            first = " ".join(str(error).split())[:120]
            raise InkwellError(
                f"{self._stream.where} is no readable WARC file at record {row + 1} ({first}): fetch or write it again, or set `format`."
            ) from error
        if row < 0:
            raise InkwellError(f"{self._stream.where} holds no WARC record.")

    def _document(self, row: int, record: Any, address: str | None) -> Iterator[Record]:
        if record.rec_type != "response":
            self._passed_over[str(record.rec_type)] += 1
            return
        headers = record.http_headers
        if headers is None:
            self._passed_over["response without HTTP headers"] += 1
            return
        status = (headers.get_statuscode() or "").strip()
        if not status.startswith("2"):
            self._passed_over[f"status {status or 'unknown'}"] += 1
            return
        content_type = headers.get_header("Content-Type")
        kind = (content_type or "").partition(";")[0].strip().lower()
        if kind in _UNTOLD:
            kind = (record.rec_headers.get_header("WARC-Identified-Payload-Type") or kind).lower()
        if kind not in _HTML | _TEXT | _UNTOLD:
            self._passed_over[kind] += 1
            return
        metadata: dict[str, Any] = {
            "url": address,
            "crawled": record.rec_headers.get_header("WARC-Date") or record.rec_headers.get_header("archive-date"),
            "truncated": record.rec_headers.get_header("WARC-Truncated"),
        }
        metadata = {name: value for name, value in metadata.items() if value}
        if address and self._blocked and (why := self._blocked(address)):
            yield Record(row, "", metadata=as_json({**metadata, "url_blocked": why}))
            return
        packing = (headers.get_header("Content-Encoding") or "").strip().lower()
        if packing not in ("", "identity", "gzip", "deflate"):
            yield without_text(row, f"it is packed as {packing}, which is not unpacked here", **metadata)
            return
        data = read_bounded(record.content_stream(), LARGEST_PAGE)
        charset = declared_by_header(content_type)
        if kind in _UNTOLD:
            if not _looks_like_html(data):
                self._passed_over[kind or "without a type"] += 1
                return
            kind = "text/html"
        if kind in _HTML or isinstance(data, int):
            yield to_document(row, data, self._encoding, [charset], **metadata)
            return
        decoded = decode(data, [charset], self._encoding)
        if not decoded.text.strip():
            yield without_text(row, "the page is empty", **metadata)
            return
        text = decoded.text.replace("\r\n", "\n").replace("\r", "\n")
        yield Record(row, text, metadata=as_json({**decoded.notes(), **metadata}))


class _Unseekable:
    """warcio asks where it is; a stream out of an archive cannot tell."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._place = stream, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._place += len(data)
        return data

    def tell(self) -> int:
        return self._place


def _looks_like_html(data: bytes | int) -> bool:
    if isinstance(data, int):
        return False
    head = data[:1024].lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head")) or b"<html" in head
