"""http and s3 over real sockets: resumed after a break, a kill or a change of the file; nothing is fetched twice."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.fetching.locations import public, without_secrets
from tests.ingest.conftest import Ingest, write_params
from tests.ingest.processes import begin, finish, kill_when
from tests.ingest.servers import FileServer, serving

LINES = [
    json.dumps({"text": f"line {index} " + "".join(random.Random(index).choices("abcdefghij ", k=190))})
    for index in range(12_000)
]
DATA = "\n".join(LINES).encode()
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/data/a.jsonl": DATA}) as running:
        yield running


def source(server: FileServer, path: str = "/data/a.jsonl", **keys: Any) -> dict[str, Any]:
    return {"name": "far", "kind": "url", "location": server.address + path, **keys}


def parts(cache: Path) -> int:
    """Bytes of the unfinished downloads in the cache."""
    return sum(path.stat().st_size for path in (cache / "partial").glob("*.part"))


def test_a_download_is_cached_by_its_hash_and_never_asked_for_again(
    server: FileServer, ingest: Ingest, cache: Path
) -> None:
    outcome = ingest([source(server, sha256=SHA256)])
    assert len(outcome.rows) == len(LINES)
    assert outcome.rows[0]["provenance"] == {
        "source": "far",
        "origin": f"sha256:{SHA256}",
        "member": "a.jsonl",
        "row": 0,
    }
    assert (cache / "archives" / SHA256 / "a.jsonl").read_bytes() == DATA
    assert parts(cache) == 0
    server.status = 500
    assert len(ingest([source(server, sha256=SHA256)]).rows) == len(LINES)
    assert len(server.requests) == 1


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: FileServer, ingest: Ingest, cache: Path) -> None:
    assert ingest([source(server, sha256=SHA256)]).status == 0
    (cache / "archives" / SHA256 / "a.jsonl").write_bytes(b"rot")
    assert len(ingest([source(server, sha256=SHA256)]).rows) == len(LINES)
    assert len(server.requests) == 2


@pytest.mark.parametrize("pinned", [True, False])
def test_kill_in_mid_download_then_the_same_command_goes_on(
    server: FileServer, tmp_path: Path, cache: Path, pinned: bool
) -> None:
    server.pause = 0.05
    write_params(tmp_path, [source(server, **({"sha256": SHA256} if pinned else {}))])
    kill_when(begin(tmp_path), lambda: parts(cache) > 500_000)
    assert not (tmp_path / "raw").exists()
    come = parts(cache)
    server.pause = 0
    outcome = finish(tmp_path)
    assert len(outcome.rows) == len(LINES)
    assert outcome.sources[0]["sha256"] == SHA256
    path, asked, status = server.requests[-1]
    assert (path, asked, status) == ("/data/a.jsonl", f"bytes={come}-", 206)


def test_kill_in_mid_reading_then_the_same_command_finishes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(DATA)
    write_params(tmp_path, [{"name": "near", "kind": "path", "location": str(tmp_path / "a.jsonl")}])
    # Reading has begun when the temporary output folder holds the growing file.
    kill_when(begin(tmp_path), lambda: any(path.stat().st_size for path in tmp_path.glob(".raw*/documents.parquet")))
    assert not (tmp_path / "raw").exists()
    assert len(finish(tmp_path).rows) == len(LINES)


def test_a_connection_that_breaks_again_and_again_is_taken_up_where_it_broke(
    server: FileServer, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.fetching.download.time.sleep", lambda _: None)
    server.break_after = 700_000
    assert len(ingest([source(server, sha256=SHA256)]).rows) == len(LINES)
    first, *later = [status for _, _, status in server.requests]
    assert first == 200
    assert later == [206] * len(later)
    assert len(later) >= len(DATA) // 700_000
    assert server.sent < 1.5 * len(DATA)  # what was in flight when the connection broke comes twice


def begun(cache: Path, identity: str, data: bytes, validator: str | None) -> None:
    """What a killed download leaves."""
    folder = cache / "partial"
    folder.mkdir(parents=True)
    (folder / f"{identity}.part").write_bytes(data)
    (folder / f"{identity}.json").write_text(json.dumps({"validator": validator, "size": len(DATA)}), encoding="utf-8")


def test_a_server_that_ignores_range_is_read_from_the_start(server: FileServer, ingest: Ingest, cache: Path) -> None:
    server.ranges = False
    begun(cache, SHA256, DATA[:500_000], server.etag("/data/a.jsonl"))
    assert len(ingest([source(server, sha256=SHA256)]).rows) == len(LINES)
    assert server.requests == [("/data/a.jsonl", "bytes=500000-", 200)]


def test_a_file_that_changed_since_is_not_joined_to_its_old_beginning(
    server: FileServer, ingest: Ingest, cache: Path
) -> None:
    begun(cache, SHA256, b"old" * 1000, '"old"')
    assert len(ingest([source(server, sha256=SHA256)]).rows) == len(LINES)
    assert [status for _, _, status in server.requests] == [200]


def test_a_wrong_join_is_found_by_the_hash_and_begun_anew(server: FileServer, ingest: Ingest, cache: Path) -> None:
    server.validators = False
    begun(cache, SHA256, b"old" * 1000, None)
    outcome = ingest([source(server, sha256=SHA256)])
    assert len(outcome.rows) == len(LINES)
    assert "starting over" in outcome.said
    assert [status for _, _, status in server.requests] == [206, 200]


def test_a_partial_file_that_was_already_whole_is_recognised(server: FileServer, ingest: Ingest, cache: Path) -> None:
    begun(cache, SHA256, DATA, server.etag("/data/a.jsonl"))
    assert len(ingest([source(server, sha256=SHA256)]).rows) == len(LINES)
    assert [status for _, _, status in server.requests] == [416]


def test_without_a_hash_the_server_is_asked_whether_the_copy_is_still_good(server: FileServer, ingest: Ingest) -> None:
    first = ingest([source(server)])
    assert SHA256 in first.said
    assert len(ingest([source(server)]).rows) == len(LINES)
    assert [status for _, _, status in server.requests] == [200, 304]
    server.files["/data/a.jsonl"] = b'{"text": "new"}'
    assert ingest([source(server)]).texts == ["new"]


def test_a_wrong_hash_is_refused_and_not_kept(server: FileServer, ingest: Ingest, cache: Path) -> None:
    sentence = ingest([source(server, sha256="0" * 64)]).refused()
    assert SHA256 in sentence
    assert "expects 0000" in sentence
    assert parts(cache) == 0
    assert not (cache / "archives").exists()


def test_refusals_of_a_server_are_told_at_once(server: FileServer, ingest: Ingest) -> None:
    assert "no such file (404)" in ingest([source(server, "/data/none.txt")]).refused()
    server.status = 403
    assert "403" in ingest([source(server)]).refused()
    assert len(server.requests) == 2


def test_no_network_is_one_sentence(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.fetching.download.time.sleep", lambda _: None)
    sentence = ingest(
        [{"name": "far", "kind": "url", "location": "http://127.0.0.1:9/a.txt?signature=secret"}]
    ).refused()
    assert "http://127.0.0.1:9/a.txt cannot be fetched" in sentence
    assert "secret" not in sentence


def test_what_a_server_says_does_not_give_the_signature_away(
    server: FileServer, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.fetching.download._TRIES", 1)
    server.status = 500
    sentence = ingest([source(server, "/data/a.txt?signature=secret")]).refused()
    assert "500" in sentence
    assert "secret" not in sentence


def test_a_login_in_an_address_is_refused_and_not_told(ingest: Ingest) -> None:
    sentence = ingest([{"name": "far", "kind": "url", "location": "http://me:secret@127.0.0.1:9/a.txt"}]).refused()
    assert ".netrc" in sentence
    assert "secret" not in sentence


def test_a_login_in_netrc_is_used(
    server: FileServer, ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n", encoding="utf-8")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(ingest([source(server)]).texts) == len(LINES)
    assert server.logins == [f"Basic {base64.b64encode(b'me:secret').decode()}"]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://me:pw@example.org/a.txt?X-Signature=b#c", "https://example.org/a.txt"),
        ("s3://bucket/2024/part-?.txt", "s3://bucket/2024/part-?.txt"),
        ("http://[broken/a?b", "http://[broken/a"),
    ],
)
def test_what_strangers_may_be_told_of_an_address(address: str, told: str) -> None:
    assert public(address) == told
    assert without_secrets(f"failed for url='{address}'.") == f"failed for url='{told}'."


def test_an_address_that_is_none_is_told(ingest: Ingest) -> None:
    assert "no valid address" in ingest([{"name": "far", "kind": "url", "location": "http://[broken/a"}]).refused()


def test_a_silent_server_does_not_hold_us_forever(
    server: FileServer, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.fetching.download._SILENCE_SECONDS", 0.3)
    monkeypatch.setattr("components.fetching.download._TRIES", 2)
    server.delay = 1.0
    started = time.monotonic()
    assert "cannot be fetched" in ingest([source(server)]).refused()
    assert time.monotonic() - started < 30


def test_what_an_address_does_not_tell_its_content_does(server: FileServer, ingest: Ingest) -> None:
    import bz2
    import gzip
    import lzma

    for pack in (bz2.compress, lzma.compress, gzip.compress):
        server.files["/get"] = pack(b"packed prose")
        outcome = ingest([source(server, "/get?token=secret")])
        assert outcome.texts == ["packed prose"]
    assert outcome.sources[0]["location"] == f"{server.address}/get"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The endpoint of a moto server with a bucket of three objects, spoken to by the real S3 protocol."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket="texts")
    client.put_object(Bucket="texts", Key="big/a.jsonl", Body=DATA * 4 + b"\n")
    for index in (1, 2, 10):
        client.put_object(Bucket="texts", Key=f"small/part-{index}.txt", Body=f"part {index}".encode())
    yield endpoint
    server.stop()


@pytest.fixture
def s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENDPOINT_URL": bucket,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.usefixtures("s3")
def test_s3_folders_and_patterns_are_read_in_natural_order(ingest: Ingest) -> None:
    for location in ("s3://texts/small/", "s3://texts/small/part-*.txt"):
        outcome = ingest([{"name": "s3", "kind": "url", "location": location}])
        assert outcome.texts == ["part 1", "part 2", "part 10"]
        assert outcome.rows[2]["provenance"]["member"] == "part-10.txt"


@pytest.mark.usefixtures("s3")
def test_s3_goes_on_from_the_byte_where_it_was_killed(
    ingest: Ingest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    from components.fetching.download import _store

    whole = DATA * 4 + b"\n"
    sha256 = hashlib.sha256(whole).hexdigest()
    folder = cache / "partial"
    folder.mkdir(parents=True)
    (folder / f"{sha256}.part").write_bytes(whole[:9_000_001])
    about = _store().info("s3://texts/big/a.jsonl")
    (folder / f"{sha256}.json").write_text(
        json.dumps({"validator": about["ETag"], "size": len(whole)}), encoding="utf-8"
    )
    asked: list[tuple[int, int]] = []
    real = s3fs.S3FileSystem.cat_file

    def spy(self: Any, path: str, start: int, end: int) -> Any:
        asked.append((start, end))
        return real(self, path, start=start, end=end)

    monkeypatch.setattr(s3fs.S3FileSystem, "cat_file", spy)
    # Four copies without a line end between them: two records stand on one line at each seam.
    sentence = ingest([{"name": "s3", "kind": "url", "location": "s3://texts/big/a.jsonl", "sha256": sha256}]).refused()
    assert f"broken JSON at line {len(LINES)} " in sentence
    assert asked == [(9_000_001, len(whole))]
    assert hashlib.sha256((cache / "archives" / sha256 / "a.jsonl").read_bytes()).hexdigest() == sha256


@pytest.mark.usefixtures("s3")
def test_s3_mistakes_are_one_sentence(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.fetching.download.time.sleep", lambda _: None)
    assert "no such object" in ingest([{"name": "s3", "kind": "url", "location": "s3://texts/none.txt"}]).refused()
    assert "matches no object" in ingest([{"name": "s3", "kind": "url", "location": "s3://texts/none/*"}]).refused()
    assert "is a folder" in ingest([{"name": "s3", "kind": "url", "location": "s3://texts/small"}]).refused()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("components.fetching.download._TRIES", 1)
    assert "cannot be fetched" in ingest([{"name": "s3", "kind": "url", "location": "s3://texts/a.txt"}]).refused()
