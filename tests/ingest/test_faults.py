"""Damaged, hostile and enormous files: a clear sentence or a recorded loss, memory bounded, and nothing half written."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.conftest import Ingest, arguments, write_params
from tests.ingest.processes import PROJECT, finish
from tests.tiny_corpus import poems

CHINESE = "\n".join(line for poem in poems(300) for line in poem["paragraphs"])
RUSSIAN = "".join(f"Глава {number}. Снег шёл всю ночь, и к утру {number * 7} дворов замело.\n" for number in range(400))
SKIP = {"on_damage": "skip"}


def noisy(lines: int) -> str:
    """Text that packs badly, so that a packed file is damaged somewhere in its text when it is cut in the middle."""
    rng = random.Random(5)
    return "".join(f"{''.join(rng.choices('абвгдежзиклмнопрст', k=40))}\n" for _ in range(lines))


# Truncated and damaged archives


def test_a_truncated_gz_stops_with_one_sentence(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(noisy(2000).encode())[:-3000])
    sentence = ingest(location=str(tmp_path / "a.txt.gz")).refused()
    assert "a.txt.gz is truncated or damaged" in sentence


@pytest.mark.parametrize("suffix", ["gz", "zst", "xz", "bz2"])
def test_of_a_truncated_text_the_beginning_is_kept_and_the_rest_recorded(
    ingest: Ingest, tmp_path: Path, suffix: str
) -> None:
    text = noisy(60_000 if suffix == "bz2" else 8_000)  # bz2 gives nothing before its first block of 900 kB is whole
    (tmp_path / f"a.txt.{suffix}").write_bytes(packed(text.encode(), suffix)[: -len(text) // 8])
    (tmp_path / "b.txt").write_text(RUSSIAN, encoding="utf-8")
    outcome = ingest(location=str(tmp_path / "*.*"), members=["a.txt*", "b.txt"], **SKIP)
    beginning, sound = outcome.texts
    assert sound == RUSSIAN
    assert len(text) // 4 < len(beginning) < len(text)
    assert text.startswith(beginning.removesuffix("\ufffd"))
    damaged, whole = outcome.sources[0]["members"]
    assert "truncated or damaged" in damaged["damaged"]
    assert whole == {"name": "b.txt", "documents": 1, "encoding": "utf-8"}
    assert outcome.metrics["members_damaged"] == 1


def packed(data: bytes, suffix: str) -> bytes:
    import bz2
    import lzma

    import zstandard

    zstd = zstandard.ZstdCompressor()
    pack: dict[str, Callable[[bytes], bytes]]
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}
    return pack[suffix](data)


def test_of_truncated_lines_of_json_the_whole_ones_are_kept(ingest: Ingest, tmp_path: Path) -> None:
    texts = noisy(3000).splitlines()
    data = gzip.compress("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    outcome = ingest(location=str(tmp_path / "a.jsonl.gz"), **SKIP)
    assert 500 < len(outcome.texts) < 3000
    assert outcome.texts == texts[: len(outcome.texts)]
    (member,) = outcome.sources[0]["members"]
    assert member["documents"] == len(outcome.texts)
    assert "truncated or damaged" in member["damaged"], "the cause, not the broken JSON that followed from it"


def test_of_a_truncated_tgz_the_members_before_are_kept(ingest: Ingest, tmp_path: Path) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name in ("one.txt", "two.txt", "three.txt"):
            add(archive, name, (noisy(3000) + name).encode())
    (tmp_path / "a.tgz").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    outcome = ingest(location=str(tmp_path / "a.tgz"), **SKIP)
    assert outcome.texts[0] == noisy(3000) + "one.txt"
    names = [(member["name"], "damaged" in member) for member in outcome.sources[0]["members"]]
    assert names == [("one.txt", False), ("two.txt", True), ("a.tgz", True)], (
        "what comes after is lost, and is said to be"
    )
    assert outcome.metrics["members_damaged"] == 2


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def test_one_damaged_member_of_a_zip_costs_only_itself(ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("one.txt", "two.txt", "three.txt", "four.txt"):
            archive.writestr(name, noisy(500) + name)
    data = bytearray(path.read_bytes())
    where = data.index(b"two.txt") + 2000
    data[where : where + 40] = bytes(40)
    data[data.index(b"PK\x03\x04", data.index(b"three.txt") - 40)] = 0  # the head of the third
    path.write_bytes(data)
    assert "two.txt is truncated or damaged" in ingest(location=str(path)).refused()
    outcome = ingest(location=str(path), **SKIP)
    assert (outcome.texts[0], outcome.texts[-1]) == (noisy(500) + "one.txt", noisy(500) + "four.txt")
    assert [("damaged" in member) for member in outcome.sources[0]["members"]] == [False, True, True, False]


def test_a_zip_that_lies_about_itself_is_one_sentence(ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("глава.txt", RUSSIAN)
    sound = path.read_bytes()
    directory = sound.index(b"PK\x01\x02")
    lies = {
        "a later version": sound[: directory + 6] + b"\xff\xff" + sound[directory + 8 :],
        "a name that is no text": sound.replace("глава".encode(), b"\xff" * 10),
        "an offset before the file": sound[:-6] + (directory + 1000).to_bytes(4, "little") + sound[-2:],
    }
    for data in lies.values():
        path.write_bytes(data)
        assert "damaged" in ingest(location=str(path)).refused()


def test_nothing_before_the_damage_is_no_blank_document(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip at all")
    (tmp_path / "b.txt").write_text(RUSSIAN, encoding="utf-8")
    (tmp_path / "c.txt").write_text("", encoding="utf-8")
    outcome = ingest(location=str(tmp_path / "*.*"), members=["a.txt*", "b.txt", "c.txt"], **SKIP)
    assert outcome.texts == [RUSSIAN, ""]
    assert [member["documents"] for member in outcome.sources[0]["members"]] == [0, 1, 1]
    assert outcome.metrics["documents"] == outcome.sources[0]["documents"] == 2


def test_broken_files_among_sound_ones_are_recorded(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "1.json").write_text(json.dumps([{"text": CHINESE}], ensure_ascii=False), encoding="utf-8")
    (folder / "2.json").write_text('[{"text": ', encoding="utf-8")
    (folder / "3.txt").write_bytes(random.Random(1).randbytes(20_000))
    (folder / "4.txt").write_text(RUSSIAN, encoding="utf-8")
    assert "2.json is broken JSON" in ingest(location=str(folder)).refused()
    outcome = ingest(location=str(folder), **SKIP)
    assert outcome.texts == [CHINESE, RUSSIAN]
    told = {member["name"]: member.get("damaged", "") for member in outcome.sources[0]["members"]}
    assert "broken JSON" in told["2.json"]
    assert "not text" in told["3.txt"]
    assert str(tmp_path) not in json.dumps(outcome.sources), "folders of this machine are nobody else's business"
    assert outcome.metrics["members_damaged"] == 2


def test_nothing_but_damage_is_no_corpus(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{", encoding="utf-8")
    sentence = ingest(location=str(tmp_path / "a.jsonl"), **SKIP).refused()
    assert "all that was tried is damaged" in sentence
    assert "a.jsonl is broken JSON at line 1" in sentence


# Bytes that are no text


@pytest.mark.parametrize("text", [CHINESE, RUSSIAN])
def test_invalid_utf8_in_mid_file_is_replaced_and_counted(ingest: Ingest, tmp_path: Path, text: str) -> None:
    data = text.encode()
    place = data.index(b"\n", len(data) // 2)
    (tmp_path / "a.txt").write_bytes(data[:place] + b"\xff\xfe" + data[place:])
    outcome = ingest(location=str(tmp_path / "a.txt"))
    assert outcome.texts == [data[:place].decode() + "\ufffd\ufffd" + data[place:].decode()]
    (member,) = outcome.sources[0]["members"]
    assert member == {
        "name": "a.txt",
        "documents": 1,
        "encoding": "utf-8",
        "bytes_replaced": 2,
        "first_replaced": place,
    }
    assert outcome.metrics["bytes_replaced"] == 2
    declared = ingest(location=str(tmp_path / "a.txt"), encoding="utf-8", **SKIP)
    assert declared.texts == outcome.texts
    (tmp_path / "raw" / "sources.json").unlink()
    assert ingest(location=str(tmp_path / "a.txt"), encoding="utf-8").status == 2


def test_nul_bytes_are_kept_and_counted(ingest: Ingest, tmp_path: Path) -> None:
    data = RUSSIAN.encode()
    (tmp_path / "a.txt").write_bytes(data[:1001] + b"\0\0" + data[1001:])
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "до\0после"}), encoding="utf-8")
    outcome = ingest(location=str(tmp_path / "*.*"), members=["a.txt", "b.jsonl"])
    assert [text.replace("\0", "") for text in outcome.texts] == [RUSSIAN, "допосле"]
    assert outcome.sources[0]["members"][0]["nul_characters"] == 2
    assert outcome.metrics["nul_characters"] == 2


# Names and ids


def test_ids_are_distinct_whatever_names_and_ids_a_source_has(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in (1, 2):
        with tarfile.open(folder / f"{number}.tgz", "w:gz") as archive:
            for name in ("a.txt", "a.txt", "a.txt#2"):
                add(archive, name, f"{number} {name}".encode())
    (folder / "a.txt").write_text("plain", encoding="utf-8")
    (folder / "z.jsonl").write_text('{"id": "x", "text": "один"}\n{"id": "x", "text": "один"}\n', encoding="utf-8")
    rows = ingest(location=str(folder)).rows
    assert len({row["id"] for row in rows}) == len(rows) == 9
    assert len({(row["provenance"]["member"], row["provenance"]["row"]) for row in rows}) == 9
    assert [json.loads(row["metadata"]) for row in rows[-2:]] == [{"id": "x"}, {"id": "x"}]


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_names_that_climb_out_of_an_archive_make_no_files(ingest: Ingest, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside.txt"
    names = ["../outside.txt", str(outside), "a/../../outside.txt", "..\\outside.txt"]
    path = tmp_path / "deep" / "er" / f"evil.{kind}"
    path.parent.mkdir(parents=True)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name in names:
                zipped.writestr(name, f"text of {name}")
    else:
        with tarfile.open(path, "w:gz") as archive:
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            archive.addfile(link)
            for name in [*names, "link/outside.txt"]:
                add(archive, name, f"text of {name}".encode())
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    outcome = ingest(location=str(path))
    assert [row["provenance"]["member"] for row in outcome.rows][:2] == names[:2], "a name is recorded as it is"
    written = {file for file in tmp_path.rglob("*") if file.is_file()} - before
    assert {file.relative_to(tmp_path).parts[0] for file in written} <= {"raw", "ingest.json", "params.yaml", "cache"}
    assert not outside.exists()


# Sizes


def test_a_million_equal_characters_are_one_document_for_the_rules_to_drop(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "哈" * 1_000_000}) + '\n{"text": "b"}\n', encoding="utf-8")
    assert ingest(location=str(tmp_path / "a.jsonl")).texts == ["哈" * 1_000_000, "b"]


@pytest.mark.parametrize("name", ["long.txt", "long.jsonl", "long.json", "long.csv"])
def test_a_document_too_long_comes_in_parts_with_nothing_lost(ingest: Ingest, tmp_path: Path, name: str) -> None:
    text = CHINESE * 5 + "😀" * 3000 + RUSSIAN
    written = {"txt": text, "jsonl": json.dumps({"text": text, "n": 1}), "json": json.dumps([{"text": text, "n": 1}])}
    quoted = f'text,n\n"{text}",1\n'
    (tmp_path / name).write_text(written.get(name.partition(".")[2], quoted), encoding="utf-8")
    outcome = ingest(location=str(tmp_path / name), parameters={"maximum_document_characters": 4000})
    rows = outcome.rows
    assert "".join(outcome.texts) == text
    assert max(map(len, outcome.texts)) <= 4000
    assert len({row["id"] for row in rows}) == len(rows) > len(text) // 4000
    assert [json.loads(row["metadata"])["part"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["provenance"]["row"] for row in rows} == {0}
    assert outcome.metrics["documents_divided"] == 1
    whole = ingest(location=str(tmp_path / name)).rows
    assert ([row["text"] for row in whole], whole[0]["id"]) == ([text], rows[0]["id"])
    assert "part" not in json.loads(whole[0]["metadata"])


def peak_bytes(folder: Path, path: Path, **parameters: Any) -> float:
    """Peak memory of ingest, in a process of its own."""
    folder.mkdir()
    write_params(folder, [{"name": "long", "kind": "path", "location": str(path)}], **parameters)
    # Linux counts what a process held before it became another program, hence a small shell between this one and ingest.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", "components.ingest", *arguments(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    measured: dict[str, float] = json.loads((folder / "ingest.json").read_text("utf-8"))
    return measured["peak_gib"] * 2**30


def test_memory_stays_bounded_by_one_line_of_thirty_megabytes(tmp_path: Path) -> None:
    line = "каждая несчастливая семья несчастлива по-своему; " * 330_000
    size = len(line.encode())
    assert size > 28e6
    (tmp_path / "small.txt").write_text("маленький текст", encoding="utf-8")
    (tmp_path / "long.txt").write_text(line * 2, encoding="utf-8")
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": line}, ensure_ascii=False), encoding="utf-8")
    base = peak_bytes(tmp_path / "base", tmp_path / "small.txt")
    text = peak_bytes(tmp_path / "text", tmp_path / "long.txt", maximum_document_characters=1_000_000)
    record = peak_bytes(tmp_path / "record", tmp_path / "long.jsonl")
    assert text - base < 1.5 * (2 * size), "a text is never in memory as a whole"
    assert record - base < 11 * size  # a line of JSON is


BOMB = 80 << 20


def bomb(path: Path) -> None:
    """80 MiB of one letter, packed a thousandfold and more."""
    data = b"a" * BOMB
    if path.suffix == ".zip":
        method = zipfile.ZIP_BZIP2 if "bz2" in path.name else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            for number in range(2):
                archive.writestr(f"{number}.txt", data[: BOMB // 2])
    elif path.suffix == ".tgz":
        with tarfile.open(path, "w:gz") as packing:
            add(packing, "a.txt", data)
    else:
        path.write_bytes(packed(data, path.suffix[1:]))


def test_members_count_the_documents_that_were_written(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "雪" * 2500}) + "\n" + '{"text": "短"}\n', encoding="utf-8")
    (tmp_path / "b.txt").write_text("снег " * 500, encoding="utf-8")
    outcome = ingest(location=str(tmp_path / "*.*"), members=["*.jsonl", "b.txt"], parameters={"maximum_document_characters": 1000})  # fmt: skip
    (source,) = outcome.sources
    assert [member["documents"] for member in source["members"]] == [4, 3]
    assert source["documents"] == len(outcome.texts) == 7


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.txt.zst", "a.zip", "bz2.zip", "a.tgz"])
def test_a_zip_bomb_is_told_before_it_fills_anything(ingest: Ingest, tmp_path: Path, name: str) -> None:
    bomb(tmp_path / name)
    sentence = ingest(location=str(tmp_path / name)).refused()
    assert f"{name} unpacks to more than 200 times its" in sentence
    assert "ingest.maximum_unpacked_ratio" in sentence


def test_a_bomb_beside_sound_files_is_recorded_where_damage_is_skipped(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    bomb(folder / "a.tgz")
    (folder / "b.txt").write_text(RUSSIAN, encoding="utf-8")
    outcome = ingest(location=str(folder), **SKIP)
    assert outcome.texts[-1] == RUSSIAN
    assert sum(map(len, outcome.texts[:-1])) <= 65 << 20
    assert any("200 times" in member.get("damaged", "") for member in outcome.sources[0]["members"])


def test_whoever_trusts_an_archive_may_raise_the_ratio_and_small_ones_need_none(ingest: Ingest, tmp_path: Path) -> None:
    bomb(tmp_path / "a.txt.gz")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"a" * 1_000_000))
    assert ingest(location=str(tmp_path / "b.txt.gz")).texts == ["a" * 1_000_000]
    outcome = ingest(location=str(tmp_path / "a.txt.gz"), parameters={"maximum_unpacked_ratio": 2000})
    assert outcome.metrics["characters"] == BOMB


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("only root may mount a small file system here; the limit of file sizes is tested instead")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def large_source(folder: Path) -> dict[str, Any]:
    (folder / "large.txt").write_text(noisy(60_000), encoding="utf-8")
    return {"name": "large", "kind": "path", "location": str(folder / "large.txt"), "separator": "\n"}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    write_params(small_disk, [large_source(tmp_path)])
    sentence = finish(small_disk).refused()
    assert "the disk is full" in sentence
    assert sorted(path.name for path in small_disk.iterdir()) == ["params.yaml"]


def test_a_file_that_may_not_grow_is_one_sentence_and_leaves_the_last_good_output(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "good.txt").write_text(RUSSIAN, encoding="utf-8")
    write_params(folder, [{"name": "good", "kind": "path", "location": str(tmp_path / "good.txt")}])
    assert finish(folder).status == 0
    before = (folder / "raw" / "documents.parquet").read_bytes()
    write_params(folder, [large_source(tmp_path)])
    command = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", sys.executable, "-m", "components.ingest"]
    process = subprocess.run([*command, *arguments(folder)], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert process.returncode == 2, process.stderr
    assert "the limit of file sizes is reached" in process.stderr
    assert "Traceback" not in process.stderr
    assert (folder / "raw" / "documents.parquet").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["ingest.json", "params.yaml", "raw"]
