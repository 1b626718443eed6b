"""The step itself: sources in, documents with provenance and a record of every source out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.errors import InkwellError
from components.fetching.locations import public_location
from components.ingest.addresses import blocker, screened
from components.ingest.faults import Limits
from components.ingest.files import local_files, together
from components.ingest.formats import read_records, to_record
from components.ingest.long_documents import cut
from components.ingest.members import File, Member, Selection, distinct, members, natural
from components.ingest.records import Record
from components.ingest.writing import TRAIN, file_of, write_roles
from components.progress import bar

if TYPE_CHECKING:
    from components.configuration import Ingest, Source
    from components.step import Context

Item = TypeVar("Item")
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


@dataclass
class Account:
    """What was read of one source."""

    name: str
    kind: str
    location: str
    role: str = TRAIN
    version: str | None = None
    sha256: str | None = None
    license: str | None = None
    documents: int = 0
    characters: int = 0
    bytes_read: int = 0
    members: list[dict[str, Any]] = field(default_factory=list)
    repaired: int = 0  # lone surrogates, which no encoding of text can hold
    written: int = 0  # documents that are not blank
    without_text: Counter[str] = field(default_factory=Counter)  # documents that are blank, by reason
    labels: Counter[str] = field(default_factory=Counter)  # documents with a title, with an author
    divided: int = 0  # documents that were too long for one row

    def record(self) -> dict[str, Any]:
        """Its part of sources.json."""
        names = (
            "name",
            "kind",
            "location",
            "role",
            "version",
            "sha256",
            "license",
            "documents",
            "characters",
            "bytes_read",
            "members",
        )
        found = {name: getattr(self, name) for name in names}
        return found | ({"without_text": dict(self.without_text.most_common(20))} if self.without_text else {})

    def total(self, fault: str) -> int:
        """A fault over all members."""
        return sum(member.get(fault, 0) for member in self.members)

    def damaged(self) -> list[str]:
        """Why members were not read to their end."""
        return [member["damaged"] for member in self.members if "damaged" in member]


def run(context: Context) -> None:
    """Write documents and `sources.json` into the output folder, which appears whole or not at all.

    Documents of role train go to `documents.parquet`, those of another role to `<role>.parquet`.
    Raises InkwellError for a source that cannot be had or read, and for a corpus without any text.
    """
    from components.atomic import atomic_folder

    parameters = context.configuration.ingest
    repeated = [name for name, count in Counter(source.name for source in parameters.sources).items() if count > 1]
    if repeated:
        raise InkwellError(f"ingest.sources: the name {repeated[0]!r} is given twice; documents are told apart by it.")
    accounts: list[Account] = []
    with atomic_folder(context.outputs["output"]) as folder:
        counts = write_roles(folder, _documents(parameters, accounts))
        if not any(account.written for account in accounts if account.role == TRAIN):
            reasons = sum((account.without_text for account in accounts if account.role == TRAIN), Counter[str]())
            raise InkwellError(
                f"the corpus is empty: all {counts[TRAIN]} documents that ingest.sources gave are blank"
                + (f" (most often: {reasons.most_common(1)[0][0]})." if reasons else ".")
            )
        with (folder / "sources.json").open("w", encoding="utf-8") as handle:  # in pieces: members may be a million
            json.dump([account.record() for account in accounts], handle, ensure_ascii=False, indent=1)
            handle.write("\n")
    context.metrics |= _metrics(accounts, counts)
    context.recorder.dataset("raw", context.outputs["output"] / file_of(TRAIN), "raw")


def _metrics(accounts: list[Account], counts: dict[str, int]) -> dict[str, float]:
    """`documents` and `characters` are those of role train; damage counts whatever was left out or replaced."""
    found: dict[str, float] = {
        "documents": counts[TRAIN],
        "characters": sum(account.characters for account in accounts if account.role == TRAIN),
        "sources": len(accounts),
        "bytes_read": sum(account.bytes_read for account in accounts),
        "documents_without_text": sum(account.without_text.total() for account in accounts),
        "surrogates_replaced": sum(account.repaired for account in accounts),
        "bytes_replaced": sum(account.total("bytes_replaced") for account in accounts),
        "nul_characters": sum(account.total("nul_characters") for account in accounts),
        "documents_divided": sum(account.divided for account in accounts),
        "members_damaged": sum(len(account.damaged()) for account in accounts),
    }
    return found | {f"documents_{role}": count for role, count in counts.items() if role != TRAIN}


def _documents(parameters: Ingest, accounts: list[Account]) -> Iterator[tuple[str, dict[str, Any]]]:
    left = parameters.limit
    for source in parameters.sources:
        if left == 0 and source.role == TRAIN:
            continue
        account = Account(
            source.name, source.kind, source.location, source.role, source.version, license=source.license
        )
        accounts.append(account)
        for record, member, origin in _records(source, account, parameters):
            account.divided += record.part == 1
            yield source.role, _row(record, source, member, origin, account)
            if left is not None and source.role == TRAIN:
                left -= 1
                if left == 0:
                    break
        else:
            _check_documents(source, account)
            _check_labels(source, account)


def _check_documents(source: Source, account: Account) -> None:
    if account.documents:
        return
    if damaged := account.damaged():
        raise InkwellError(
            f"source {source.name!r} gave no documents, since on_damage is skip and all that was tried is damaged; the first: {damaged[0]}"
        )
    raise InkwellError(
        f"source {source.name!r} gave no documents: {source.location} holds none; check `members` and `format`."
    )


def _row(record: Record, source: Source, member: str, origin: str, account: Account) -> dict[str, Any]:
    def storable(text: str | None) -> str | None:
        if text is None:
            return None
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            repaired = text.translate(_SURROGATES)
            account.repaired += sum(a != b for a, b in zip(text, repaired, strict=True))
            return repaired
        return text

    text = storable(record.text) or ""
    account.documents += 1
    account.characters += len(text)
    if text.strip():
        account.written += 1
    else:
        account.without_text[_reason(record.metadata)] += 1
    account.labels.update(name for name in ("title", "author") if getattr(record, name) is not None)
    identity = f"{source.name}\0{member}\0{record.row}" + (f"\0{record.part}" if record.part > 1 else "")
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "text": text,
        "title": storable(record.title),
        "author": storable(record.author),
        "metadata": storable(record.metadata),
        "provenance": {"source": source.name, "origin": origin, "member": member, "row": record.row},
    }


def _reason(metadata: str) -> str:
    """Why a document has no text, as its metadata say it."""
    found = json.loads(metadata)
    if "url_blocked" in found:
        return "its address is blocked"  # by different words, which the document has
    return str(found.get("extraction") or "it is blank in its source")


def _check_labels(source: Source, account: Account) -> None:
    """A title or author field of one's own choice that is nowhere there is a misspelling, not a wish.

    The defaults are only tried, also where a composed params.yaml spells them out.
    """
    for label, name in (("title", source.title_field), ("author", source.author_field)):
        if name not in (None, label) and not account.labels[label]:
            raise InkwellError(
                f"source {source.name!r}: no document has the field {name!r} that {label}_field names; correct it or set it to null."
            )


def _records(source: Source, account: Account, parameters: Ingest) -> Iterator[tuple[Record, str, str]]:
    """Every record with the name of its member and its origin, none longer than the parameters allow."""
    return (_dataset_records if source.kind == "huggingface" else _file_records)(source, account, parameters)


def _given(records: Iterator[Record], source: Source, parameters: Ingest) -> Iterator[Record]:
    """The records as they are written: without the text of blocked pages, and none too long."""
    why = blocker(source)
    for record in records:
        yield from _parts(screened(record, why), parameters.maximum_document_characters)


def _parts(record: Record, maximum: int) -> Iterator[Record]:
    """The record, or parts of it; a part says which it is in its metadata."""
    if len(record.text) <= maximum and record.part == 0:
        yield record
        return
    texts = [record.text] if record.part else cut(record.text, maximum)  # texts of files come in parts already
    for part, text in enumerate(texts, start=record.part or 1):
        metadata = json.loads(record.metadata) | {"part": part}
        yield replace(record, text=text, part=part, metadata=json.dumps(metadata, ensure_ascii=False, sort_keys=True))


def _file_records(source: Source, account: Account, parameters: Ingest) -> Iterator[tuple[Record, str, str]]:
    from components.fetching.cache import check_hash

    files = _located(source)
    account.location = public_location(source)
    account.sha256 = together(files)
    check_hash(account.sha256, source.sha256, f"source {source.name!r}: {account.location}")
    selection = Selection(source.members)
    skip = source.on_damage == "skip"
    limits = Limits(parameters.maximum_unpacked_ratio, parameters.maximum_document_characters, skip)
    used: dict[str, str] = {}
    with bar(f"reading {source.name}", sum(file.path.stat().st_size for file in files)) as shown:
        for file in files:
            broken: dict[str, Any] = {"name": file.name, "documents": 0}
            found = members(replace(file, advance=shown.advance), selection, source.name, limits)
            for member in _tolerantly(found, broken, skip):
                member = distinct(member, file, used)
                entry: dict[str, Any] = {"name": member.name, "documents": 0}
                account.members.append(entry)
                for record in _member_records(member, source, account, entry, parameters):
                    yield record, member.name, member.origin
            if "damaged" in broken:
                account.members.append(broken)
    if not account.damaged():  # else what is missing may have been in the part that was lost
        selection.check(f"source {source.name!r}: {account.location}")


def _member_records(
    member: Member, source: Source, account: Account, entry: dict[str, Any], parameters: Ingest
) -> Iterator[Record]:
    """The records of one member; what is found out about it by reading goes to its `entry`."""
    told: Callable[[], dict[str, Any]] = dict

    def opened() -> Iterator[Record]:
        nonlocal told
        records, told = read_records(member, source)
        yield from _given(records, source, parameters)

    try:
        for record in _tolerantly(opened(), entry, source.on_damage == "skip"):
            if member.stream.faults.damaged and not member.stream.count:
                continue  # nothing came before the damage: that is no blank document
            entry["documents"] += 1
            yield record
    finally:  # also where `limit` ends it
        account.bytes_read += member.stream.count
        entry.update(told() | member.stream.faults.record())


def _tolerantly(items: Iterator[Item], entry: dict[str, Any], skip: bool) -> Iterator[Item]:
    """`items` up to the first that cannot be read, which ends the run or, where damage is skipped, is put down."""
    try:
        yield from items
    except InkwellError as error:
        if not skip:
            raise
        entry["damaged"] = str(error)


def _dataset_records(source: Source, account: Account, parameters: Ingest) -> Iterator[tuple[Record, str, str]]:
    from components.ingest.huggingface import open_dataset

    dataset = open_dataset(source)
    account.version, account.sha256 = dataset.revision, dataset.sha256
    account.location = public_location(source)
    member = "/".join(part for part in (source.configuration, source.dataset_split) if part)
    entry: dict[str, Any] = {"name": member, "documents": 0}
    account.members.append(entry)
    with bar(f"reading {source.name} (documents)", None) as shown:
        rows = enumerate(dataset.rows)
        records = (to_record(row, value, source, f"source {source.name!r}: {member}") for row, value in rows)
        for record in _tolerantly(_given(records, source, parameters), entry, source.on_damage == "skip"):
            entry["documents"] += 1
            account.bytes_read += len(record.text.encode("utf-8", "replace"))
            yield record, member, dataset.origin
            shown.advance()


def _located(source: Source) -> list[File]:
    locate: dict[str, Callable[[Source], list[File]]] = {
        "path": _from_path,
        "url": _from_address,
        "npm": _from_registry,
        "pypi": _from_registry,
    }
    return locate[source.kind](source)


def _from_path(source: Source) -> list[File]:
    return local_files(source.location, source.name)


def _from_address(source: Source) -> list[File]:
    from components.fetching.download import expand, fetch, file_name
    from components.ingest.recognise import with_suffix

    addresses = expand(source.location)
    if addresses == [source.location]:
        path, sha256 = fetch(source.location, source.sha256)
        return [File(path, with_suffix(path, file_name(source.location)), sha256)]
    fixed = source.location.split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0] + "/"
    found = []
    for address in sorted(addresses, key=natural):
        path, sha256 = fetch(address, None)
        found.append(File(path, address.removeprefix(fixed), sha256))
    return found


def _from_registry(source: Source) -> list[File]:
    from components.fetching.registries import fetch_npm, fetch_pypi

    assert source.version is not None
    assert source.sha256 is not None
    path: Path = (fetch_npm if source.kind == "npm" else fetch_pypi)(source.location, source.version, source.sha256)
    return [File(path, path.name, source.sha256)]
