"""Paths, folders, globs, archives and the five formats, through the real command line."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from components.corpus.documents import raw_schema
from components.ingest.records import as_json
from components.step import content_hash
from tests.ingest.conftest import Ingest
from tests.tiny_corpus import poems

POEMS = poems(60)
TEXTS = ["\n".join(poem["paragraphs"]) for poem in POEMS]
FIELDS = {"text_field": "paragraphs", "title_field": "title", "author_field": "author"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three JSON files of 20 poems, 1, 2 and 10, beside files that are not to be read."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(["p.1.json", "p.2.json", "sub/p.10.json"]):
        part = POEMS[index * 20 : index * 20 + 20]
        (folder / name).write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
    (folder / "picture.png").write_bytes(bytes(range(256)) * 40)
    (folder / ".hidden.json").write_text("{", encoding="utf-8")
    return folder


def tar(target: Path, folder: Path, mode: Any) -> Path:
    with tarfile.open(target, mode) as archive:
        archive.add(folder, "package")
    return target


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tgz_of(target: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target


def test_a_folder_is_read_in_natural_order_with_provenance(ingest: Ingest, folder: Path) -> None:
    outcome = ingest(location=str(folder), members=["**/p.*.json"], license="ours", **FIELDS)
    rows = outcome.rows
    assert [row["text"] for row in rows] == TEXTS
    assert (rows[0]["title"], rows[0]["author"], rows[0]["metadata"]) == (POEMS[0]["title"], POEMS[0]["author"], "{}")
    assert [row["provenance"]["member"] for row in rows[::20]] == ["p.1.json", "p.2.json", "sub/p.10.json"]
    assert rows[41]["provenance"] == {
        "source": "tiny",
        "origin": f"sha256:{sha256(folder / 'sub' / 'p.10.json')}",
        "member": "sub/p.10.json",
        "row": 1,
    }
    assert len({row["id"] for row in rows}) == 60
    (source,) = outcome.sources
    assert (source["documents"], source["license"], source["version"]) == (60, "ours", None)
    assert source["location"] == folder.name, "folders of this machine are nobody else's business"
    assert source["members"][2] == {"name": "sub/p.10.json", "documents": 20, "encoding": "utf-8"}
    size = sum((folder / name).stat().st_size for name in ("p.1.json", "p.2.json", "sub/p.10.json"))
    assert outcome.metrics["bytes_read"] == size
    assert outcome.metrics["documents"] == 60
    assert outcome.metrics["characters"] == sum(map(len, TEXTS))
    assert outcome.metrics["sources"] == 1


def test_two_runs_give_the_same_bytes(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert ingest(location=str(folder), members=["**/*.json"], **FIELDS).status == 0
        (tmp_path / "raw").rename(tmp_path / f"raw{len(list(tmp_path.glob('raw*')))}")
    assert content_hash(tmp_path / "raw1") == content_hash(tmp_path / "raw2")
    assert not list(tmp_path.glob(".raw*"))


def test_a_glob_reads_what_it_matches(ingest: Ingest, folder: Path) -> None:
    assert ingest(location=str(folder / "p.*.json"), **FIELDS).texts == TEXTS[:40]
    assert ingest(location=str(folder / "**" / "*.json"), **FIELDS).texts == TEXTS


def test_the_same_text_has_the_same_id_wherever_the_folder_lies(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    here = [row["id"] for row in ingest(location=str(folder), members=["**/*.json"], **FIELDS).rows]
    moved = folder.rename(tmp_path / "elsewhere")
    assert [row["id"] for row in ingest(location=str(moved), members=["**/*.json"], **FIELDS).rows] == here


@pytest.mark.parametrize("suffix", ["tgz", "tar", "tar.bz2", "tar.xz", "zip"])
def test_archives_are_read_without_being_unpacked(ingest: Ingest, folder: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"corpus.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in folder.rglob("*.*"):
                archive.write(path, f"package/{path.relative_to(folder)}")
    else:
        tar(target, folder, {"tgz": "w:gz", "tar": "w", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[suffix])
    before = sorted(tmp_path.rglob("*.json"))
    outcome = ingest(location=str(target), members=["package/p.*.json", "package/sub/*.json"], **FIELDS)
    assert sorted(outcome.texts) == sorted(TEXTS)
    assert outcome.sources[0]["sha256"] == sha256(target)
    assert [
        path
        for path in sorted(tmp_path.rglob("*.json"))
        if path not in (before, tmp_path / "ingest.json", tmp_path / "raw" / "sources.json")
    ] == before


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_packed_single_file_is_read_by_its_inner_name(ingest: Ingest, tmp_path: Path, suffix: str, pack: Any) -> None:
    path = tmp_path / f"poems.jsonl.{suffix}"
    path.write_bytes(pack("\n".join(json.dumps(poem) for poem in POEMS).encode()))
    assert ingest(location=str(path), **FIELDS).texts == TEXTS


def test_members_of_an_archive_may_be_packed_once_more(ingest: Ingest, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in ("床前明月光", "Снег шёл"))
    inner = {"a.jsonl.gz": gzip.compress(lines.encode()), "b.jsonl.bz2": bz2.compress(lines.encode())}
    for name in ("c.zip", "d.tgz"):
        path = tmp_path / name
        if name == "c.zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for member, data in inner.items():
                    archive.writestr(member, data)
        else:
            with tarfile.open(path, "w:gz") as tar:
                for member, data in inner.items():
                    entry = tarfile.TarInfo(member)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        outcome = ingest(location=str(path))
        assert outcome.texts == ["床前明月光", "Снег шёл"] * 2
        assert [member["name"] for member in outcome.sources[0]["members"]] == list(inner)
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.write(tmp_path / "c.zip", "c.zip")
    (tmp_path / "raw").rename(tmp_path / "earlier")
    assert "c.zip is an archive within an archive" in ingest(location=str(tmp_path / "e.zip")).refused()


def test_columns_of_one_name_do_not_hide_each_other(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,tag,tag\nодин,1,2\n", encoding="utf-8")
    (row,) = ingest(location=str(tmp_path / "a.csv")).rows
    assert (row["text"], json.loads(row["metadata"])) == ("один", {"tag": "1", "tag#2": "2"})


def test_metadata_are_json_and_the_same_in_every_run(ingest: Ingest, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = pa.array([[("a", float("nan"))]], pa.map_(pa.string(), pa.float64()))
    pq.write_table(pa.table({"text": ["雪"], "scores": scores, "sound": [b"12345"]}), tmp_path / "a.parquet")
    (row,) = ingest(location=str(tmp_path / "a.parquet")).rows
    assert json.loads(row["metadata"], parse_constant=str) == {"scores": [["a", None]], "sound": "5 bytes"}
    assert as_json({"picture": object()}) == '{"picture": "a object"}', "its place in memory is no data"


@pytest.mark.parametrize("kind", ["year", "zone"])
def test_a_value_of_parquet_that_python_cannot_hold_is_one_sentence(ingest: Ingest, tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = {"year": pa.array([10**14], pa.timestamp("s")), "zone": pa.array([0], pa.timestamp("s", "Mars/Hellas"))}
    pq.write_table(pa.table({"text": ["a"], "when": values[kind]}), tmp_path / "a.parquet")
    assert "a.parquet holds a value that cannot be read" in ingest(location=str(tmp_path / "a.parquet")).refused()


@pytest.mark.parametrize("kind", ["path", "huggingface"])
@pytest.mark.parametrize("location", ["~nobody-of-this-name/texts", "/" + "a" * 5000])
def test_a_place_that_cannot_be_is_one_sentence(ingest: Ingest, kind: str, location: str) -> None:
    sentence = ingest([{"name": "tiny", "kind": kind, "location": location}]).refused()
    assert "no such user" in sentence or "File name too long" in sentence
    assert len(sentence) < 400


def test_names_that_climb_out_are_only_names(ingest: Ingest, tmp_path: Path) -> None:
    path = tgz_of(tmp_path / "evil.tgz", [("../../climbed.txt", b"one"), ("/tmp/ingest-absolute.txt", b"two")])
    outcome = ingest(location=str(path))
    assert outcome.texts == ["one", "two"]
    assert not (tmp_path.parents[1] / "climbed.txt").exists()
    assert not Path("/tmp/ingest-absolute.txt").exists()


def test_a_name_that_is_twice_in_an_archive_gives_distinct_ids(ingest: Ingest, tmp_path: Path) -> None:
    rows = ingest(location=str(tgz_of(tmp_path / "a.tgz", [("a.txt", b"one"), ("a.txt", b"two")]))).rows
    assert [row["provenance"]["member"] for row in rows] == ["a.txt", "a.txt#2"]
    assert rows[0]["id"] != rows[1]["id"]


def test_limit_takes_the_first_documents_across_sources(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("more", encoding="utf-8")
    sources = [
        {"name": "a", "kind": "path", "location": str(folder), "members": ["p.*.json"], "text_field": "paragraphs"},
        {"name": "b", "kind": "path", "location": str(tmp_path / "more.txt")},
    ]
    outcome = ingest(sources, limit=25)
    assert outcome.texts == TEXTS[:25]
    assert [source["name"] for source in outcome.sources] == ["a"]
    assert ingest(sources).texts == [*TEXTS[:40], "more"]


def test_text_is_one_document_or_divided_by_a_separator(ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "fortunes"
    path.write_bytes("перший\r\nрядок\r\n%\r\nвторой\r\n%\r\n".encode())
    assert ingest(location=str(path)).texts == ["перший\nрядок\n%\nвторой\n%\n"]
    rows = ingest(location=str(path), separator="\n%\n").rows
    assert [(row["text"], row["title"], row["provenance"]["row"]) for row in rows] == [
        ("перший\nрядок", None, 0),
        ("второй", None, 1),
    ]


def test_every_format_gives_the_same_documents(ingest: Ingest, tmp_path: Path) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [
        {"Text": text, "title": poem["title"], "author": poem["author"], "n": index}
        for index, (text, poem) in enumerate(zip(TEXTS, POEMS, strict=True))
    ]
    (tmp_path / "a.json").write_text(json.dumps(flat), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        "\n\n".join(json.dumps(row, ensure_ascii=False) for row in flat), encoding="utf-8"
    )
    for name, delimiter in (("a.csv", ","), ("semicolon.csv", ";"), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(flat[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(flat)
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "inner.parquet")
    for name in ("a.json", "a.jsonl", "a.csv", "semicolon.csv", "a.tsv", "a.parquet", "in.zip"):
        outcome = ingest(location=str(tmp_path / name), text_field="Text")
        assert [(row["text"], row["title"], row["author"]) for row in outcome.rows] == [
            (row["Text"], row["title"], row["author"]) for row in flat
        ], name
        assert [int(json.loads(row["metadata"])["n"]) for row in outcome.rows] == list(range(60)), name
        assert outcome.metrics["bytes_read"] == (tmp_path / ("a.parquet" if name == "in.zip" else name)).stat().st_size


def test_records_keep_what_they_hold(ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(
        '[{"text": "", "x": NaN}, {"text": null}, {"text": "\\ud800 lone", "title": 5}, "bare", '
        '{"text": "t", "author": ["a", "b"], "deep": {"y": [1]}}]',
        encoding="utf-8",
    )
    outcome = ingest(location=str(path))
    assert outcome.texts == ["", "", "\ufffd lone", "bare", "t"]
    rows = outcome.rows
    assert rows[0]["metadata"] == '{"x": null}'
    assert rows[2]["title"] == "5"
    assert (rows[4]["author"], rows[4]["metadata"]) == ("a, b", '{"deep": {"y": [1]}}')
    assert outcome.metrics["surrogates_replaced"] == 1


def test_a_dotted_field_leads_into_nested_records(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"data": {"en": "hello"}, "a.b": 1}\n', encoding="utf-8")
    assert ingest(location=str(tmp_path / "a.jsonl"), text_field="data.en").texts == ["hello"]


def test_the_output_is_the_contract(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert ingest(location=str(folder), members=["p.1.json"], **FIELDS).status == 0
    assert pq.read_schema(tmp_path / "raw" / "documents.parquet").equals(raw_schema())
    assert str(tmp_path) not in (tmp_path / "ingest.json").read_text(encoding="utf-8")


REFUSALS: list[tuple[str, bytes, dict[str, Any], list[str]]] = [
    ("a.json", b'[{"text": "a"},\n{"text": }]', {}, ["a.json", "broken JSON at line 2"]),
    ("a.json", b'{"text": "a"}\n{"text": "b"}', {}, ["broken JSON at line 2", "jsonl"]),
    ("a.jsonl", b'{"text": "a"}\n\n{"text": oops}', {}, ["a.jsonl", "broken JSON at line 3"]),
    ("a.jsonl", b'{"text": "a"}\n{"body": "b", "n": 1}', {}, ["row 1", "no field 'text'", "body, n", "text_field"]),
    ("a.jsonl", b"[1, 2]", {}, ["row 0", "not a record"]),
    ("a.jsonl", b'{"text": {"x": 1}}', {}, ["row 0", "'text' is a record"]),
    ("a.jsonl", b'{"text": "a"}', {"title_field": "titel"}, ["'titel'", "title_field"]),
    ("a.json", b"[" * 200_000, {}, ["a.json", "JSON"]),
    ("a.csv", b"text,n\nhello,world,1\n", {}, ["a.csv", "3 fields at line 2"]),
    ("a.csv", b'text,n\n"hello,1\n', {}, ["a.csv", "broken CSV"]),
    ("a.parquet", b"PAR1 and no more", {}, ["a.parquet", "no readable Parquet"]),
    ("a.txt", b"", {}, ["corpus is empty"]),
    ("a.txt", b" \n\t\n", {"separator": "\n"}, ["gave no documents"]),
    ("a.json", b"[]", {}, ["gave no documents"]),
    ("a.txt", bytes(range(256)) * 9, {}, ["a.txt", "not text", "encoding"]),
    ("a.txt", "text".encode("utf-16"), {"encoding": "ascii"}, ["a.txt", "not ascii at byte 0", "encoding"]),
    ("a.tgz", b"no archive", {}, ["a.tgz", "damaged"]),
    ("a.zip", b"no archive", {}, ["a.zip", "damaged"]),
    ("a.txt.gz", gzip.compress(b"text " * 9999, mtime=0)[:-30], {}, ["a.txt.gz", "truncated or damaged"]),
    ("a.txt", b"text", {"sha256": "0" * 64}, ["a.txt", "sha256", "expects 0000"]),
    ("a.txt", b"text", {"members": ["b.*"]}, ["no member that matches 'b.*'", "a.txt"]),
    ("a.txt", b"text", {"encoding": "windos-1251"}, ["encoding", "did you mean 'windows-1251'"]),
    ("a.txt", b"text", {"encoding": "base64"}, ["no encoding of text"]),
    ("a.txt", b"text", {"sha256": "abc"}, ["sha256", "64 hexadecimal digits"]),
    ("a.txt", b"text", {"kind": "npm", "location": "a"}, ["version", "exact version"]),
    ("a.txt", b"text", {"kind": "pypi", "location": "a", "version": "1.0"}, ["sha256", "hash"]),
    ("a.txt", b"text", {"kind": "npm", "location": "--help", "version": "1.0"}, ["location", "no package name"]),
    ("a.txt", b"text", {"separator": ""}, ["separator"]),
    ("a.txt", b"text", {"kind": "url", "location": "ftp://127.0.0.1/a"}, ["http, https, s3"]),
]


@pytest.mark.parametrize(("name", "data", "keys", "words"), REFUSALS)
def test_a_mistake_is_told_in_one_sentence(
    ingest: Ingest, tmp_path: Path, name: str, data: bytes, keys: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    sentence = ingest(**{"location": str(tmp_path / name), **keys}).refused()
    for word in words:
        assert word in sentence


def test_a_place_without_files_is_named(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    assert "holds no files" in ingest(location=str(tmp_path / "void")).refused()
    assert "does not exist" in ingest(location=str(tmp_path / "nowhere.txt")).refused()
    assert "no file matches" in ingest(location=str(tmp_path / "*.none")).refused()
    assert "no regular file" in ingest(location="/dev/zero").refused()


def test_two_sources_of_one_name_are_refused(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    source = {"name": "a", "kind": "path", "location": str(tmp_path / "a.txt")}
    assert "'a' is given twice" in ingest([source, source]).refused()


def test_a_truncated_tgz_is_refused_even_after_its_last_member(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    whole = tar(tmp_path / "whole.tgz", folder, "w:gz").read_bytes()
    for cut in (len(whole) // 2, len(whole) - 6):
        (tmp_path / "cut.tgz").write_bytes(whole[:cut])
        sentence = ingest(location=str(tmp_path / "cut.tgz"), members=["package/p.1.json"], **FIELDS).refused()
        assert "cut.tgz" in sentence
        assert "truncated or damaged" in sentence


def test_a_refused_run_leaves_the_last_good_output(ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    assert ingest(location=str(folder), members=["p.1.json"], **FIELDS).status == 0
    before = content_hash(tmp_path / "raw")
    (folder / "p.1.json").write_text("[", encoding="utf-8")
    assert ingest(location=str(folder), members=["p.1.json"], **FIELDS).status == 2
    assert content_hash(tmp_path / "raw") == before


def test_an_encrypted_zip_is_refused(ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "locked.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "secret")
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local head
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(data)
    assert "encrypted" in ingest(location=str(path)).refused()


def test_a_hugging_face_folder_is_streamed(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-0.jsonl").write_text(
        "\n".join(json.dumps(poem, ensure_ascii=False) for poem in POEMS), encoding="utf-8"
    )
    (folder / "data" / "test-0.jsonl").write_text(json.dumps(POEMS[0]), encoding="utf-8")
    source = {"name": "hf", "kind": "huggingface", "location": str(folder), **FIELDS}
    outcome = ingest([source])
    assert outcome.texts == TEXTS
    assert outcome.rows[3]["provenance"]["member"] == "train"
    assert outcome.rows[3]["provenance"]["origin"] == f"sha256:{outcome.sources[0]['sha256']}"
    assert ingest([{**source, "dataset_split": "test"}]).texts == TEXTS[:1]
    shutil.rmtree(tmp_path / "raw")
    assert "dataset_split" in ingest([{**source, "dataset_split": "none"}]).refused()


def test_a_dataset_of_the_hub_without_network_is_one_sentence(ingest: Ingest) -> None:
    source = {"name": "hf", "kind": "huggingface", "location": "nobody/nothing"}
    assert "the hub is out of reach" in ingest([source]).refused()
