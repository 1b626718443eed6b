"""Backup and restore against a real PostgreSQL and an S3 server: everything comes back, and nothing is lost on the way."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from components.launch.processes import free_port
from tests.infra.reading import INFRA, tool
from tests.infra.servers import postgres

KEYS = ("plain.txt", "mlflow/1/artifacts/诗 & ё.txt", "a//b", "folder/", "./dots/../x", "-dash", "long/" + "x" * 300)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """PostgreSQL with the accounts and databases of create-databases.sh, and a store; gives the scripts' environment."""
    import sys

    port = free_port()
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    store.start()
    try:
        with postgres("the administrator's") as admin:
            environment = {
                **os.environ,
                **admin,
                "PREFECT_DB_PASSWORD": 'it\'s $a "secret"',
                "MLFLOW_DB_PASSWORD": "another",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "inkwell-admin",
                "AWS_SECRET_ACCESS_KEY": "key",
                "AWS_DEFAULT_REGION": "us-east-1",
                "PYTHON": sys.executable,
            }
            yield environment
    finally:
        store.stop()


def run(environment: dict[str, str], script: str, *arguments: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        ["bash", str(INFRA / script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def query(environment: dict[str, str], database: str, text: str, **variables: str) -> str:
    command = [
        "psql",
        "--no-psqlrc",
        "--quiet",
        "-At",
        "--set=ON_ERROR_STOP=1",
        f"--dbname={database}",
        f"--command={text}",
    ]
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def client(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], aws_access_key_id="a", aws_secret_access_key="b",
        region_name="us-east-1",
    )  # fmt: skip


def contents(environment: dict[str, str], bucket: str) -> dict[str, tuple[bytes, str, str]]:
    store = client(environment)
    found = {}
    for entry in store.list_objects_v2(Bucket=bucket).get("Contents", []):
        answer = store.get_object(Bucket=bucket, Key=entry["Key"])
        found[entry["Key"]] = (answer["Body"].read(), answer["ContentType"], json.dumps(answer["Metadata"]))
    return found


@pytest.fixture(scope="module")
def filled(servers: dict[str, str]) -> dict[str, str]:
    """The servers, with something in every database and bucket."""
    tool("psql")
    run(servers, "postgres/create-databases.sh")
    run(servers, "postgres/create-databases.sh")  # again does no harm
    owner = {"PGUSER": "prefect", "PGPASSWORD": servers["PREFECT_DB_PASSWORD"]}
    # Prefect's schema needs this extension, and its owner is no administrator.
    query(servers, "prefect", "CREATE EXTENSION pg_trgm", **owner)
    query(servers, "prefect", "CREATE TABLE run (id serial PRIMARY KEY, name text)", **owner)
    query(servers, "prefect", "INSERT INTO run (name) VALUES ('春江'), (E'line\\nCREATE SCHEMA public;\\n')", **owner)
    query(servers, "prefect", "CREATE INDEX ON run USING gin (name gin_trgm_ops)", **owner)
    for database in ("mlflow", "mlflow_auth"):
        mlflow = {"PGUSER": "mlflow", "PGPASSWORD": "another"}
        query(servers, database, f"CREATE TABLE {database}_runs AS SELECT generate_series(1, 1000) AS id", **mlflow)
    store = client(servers)
    for bucket in ("inkwell-mlflow", "inkwell-dvc"):
        store.create_bucket(Bucket=bucket)
    for number, key in enumerate(KEYS):
        store.put_object(
            Bucket="inkwell-mlflow",
            Key=key,
            Body=os.urandom(10**number),
            ContentType="text/x-poem",
            Metadata={"n": str(number)},
        )
    return servers


@pytest.fixture
def saved(filled: dict[str, str], tmp_path: Path) -> Path:
    run(filled, "backup.sh", tmp_path / "backups")
    (folder,) = (tmp_path / "backups").iterdir()
    return folder


def test_databases_let_only_their_owners_in(filled: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="permission denied"):
        query(filled, "prefect", "SELECT 1", PGUSER="mlflow", PGPASSWORD="another")
    with pytest.raises(AssertionError, match="password authentication failed"):
        query(filled, "mlflow", "SELECT 1", PGUSER="mlflow", PGPASSWORD="guessed")


def test_a_backup_is_whole_dated_and_private(saved: Path) -> None:
    assert len(saved.name) == len("2026-01-31T020000Z")
    assert saved.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in saved.iterdir()) == [
        "SHA256SUMS",
        "bucket-inkwell-dvc.tar",
        "bucket-inkwell-mlflow.tar",
        "database-mlflow.dump",
        "database-mlflow_auth.dump",
        "database-prefect.dump",
    ]
    with tarfile.open(saved / "bucket-inkwell-mlflow.tar") as archive:
        assert len(archive.getmembers()) == len(KEYS)


def test_a_backup_that_fails_leaves_nothing(filled: dict[str, str], tmp_path: Path) -> None:
    said = run({**filled, "INKWELL_DATABASES": "prefect missing"}, "backup.sh", tmp_path, status=1)
    assert "missing" in said
    assert list(tmp_path.iterdir()) == []
    said = run(
        {**filled, "INKWELL_DATABASES": "", "INKWELL_BUCKETS": "no-such-bucket"}, "backup.sh", tmp_path, status=2
    )
    assert "NoSuchBucket" in said
    assert list(tmp_path.iterdir()) == []


def test_restore_refuses_what_would_overwrite(filled: dict[str, str], saved: Path) -> None:
    before = contents(filled, "inkwell-mlflow")
    said = run(filled, "restore.sh", saved, status=2)
    assert "not empty" in said
    assert query(filled, "prefect", "SELECT count(*) FROM run") == "2"
    assert contents(filled, "inkwell-mlflow") == before


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "unlisted", "no sums"])
def test_restore_refuses_a_damaged_backup(filled: dict[str, str], saved: Path, damage: str) -> None:
    dump = saved / "database-mlflow.dump"
    if damage == "changed":
        content = bytearray(dump.read_bytes())
        content[len(content) // 2] ^= 1
        dump.write_bytes(content)
    elif damage == "missing":
        dump.unlink()
    elif damage == "added":
        (saved / "bucket-planted.tar").write_bytes(b"")
    elif damage == "unlisted":
        sums = (saved / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
        (saved / "SHA256SUMS").write_text("".join(sums[1:]), encoding="utf-8")
    else:
        (saved / "SHA256SUMS").unlink()
    before = contents(filled, "inkwell-mlflow")
    run(filled, "restore.sh", "--replace", saved, status=2)
    assert query(filled, "mlflow", "SELECT count(*) FROM mlflow_runs") == "1000"
    assert contents(filled, "inkwell-mlflow") == before


def test_restore_refuses_while_a_server_is_connected(filled: dict[str, str], saved: Path) -> None:
    command = ["psql", "--no-psqlrc", "--dbname=prefect", "--command=SELECT pg_sleep(60)"]
    with subprocess.Popen(command, env=filled, stdout=subprocess.DEVNULL):
        try:
            deadline = time.monotonic() + 30
            others = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'prefect' AND pid <> pg_backend_pid()"
            while query(filled, "prefect", others) != "1":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert "stop the servers" in run(filled, "restore.sh", "--replace", saved, status=2)
        finally:
            # killing psql alone would leave its query asleep in the server
            query(
                filled,
                "prefect",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'",
            )


def test_everything_comes_back(filled: dict[str, str], saved: Path) -> None:
    before = contents(filled, "inkwell-mlflow")
    assert set(before) == set(KEYS)
    rows = query(filled, "prefect", "SELECT * FROM run ORDER BY id")
    # What a wrong upgrade or a careless hand would leave behind.
    query(filled, "prefect", "DROP TABLE run; CREATE TABLE newer (id int)")
    query(filled, "mlflow", "DELETE FROM mlflow_runs")
    store = client(filled)
    store.put_object(Bucket="inkwell-mlflow", Key="plain.txt", Body=b"overwritten")
    store.delete_object(Bucket="inkwell-mlflow", Key="-dash")
    store.put_object(Bucket="inkwell-mlflow", Key="newer", Body=b"newer")
    run(filled, "restore.sh", "--replace", saved)
    assert contents(filled, "inkwell-mlflow") == before
    assert query(filled, "prefect", "SELECT * FROM run ORDER BY id") == rows
    assert query(filled, "mlflow", "SELECT count(*) FROM mlflow_runs") == "1000"
    assert query(filled, "mlflow_auth", "SELECT count(*) FROM mlflow_auth_runs") == "1000"
    tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    assert query(filled, "prefect", tables) == "run"
    # The servers' accounts own what they owned: the next migration works.
    owner = {"PGUSER": "prefect", "PGPASSWORD": filled["PREFECT_DB_PASSWORD"]}
    query(filled, "prefect", "ALTER TABLE run ADD COLUMN later int; ALTER TABLE run DROP COLUMN later", **owner)
    query(filled, "prefect", "INSERT INTO run (name) VALUES ('next'); DELETE FROM run WHERE name = 'next'", **owner)
    query(filled, "prefect", "CREATE TABLE migrated (id int); DROP TABLE migrated", **owner)


def test_an_empty_server_takes_a_backup(filled: dict[str, str], saved: Path) -> None:
    with postgres("new") as admin:
        new = {**filled, **admin, "INKWELL_BUCKETS": ""}
        run(new, "postgres/create-databases.sh")
        for bucket in saved.glob("bucket-*"):
            bucket.unlink()
        sums = (saved / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
        (saved / "SHA256SUMS").write_text("".join(line for line in sums if ".dump" in line), encoding="utf-8")
        run(new, "restore.sh", saved)
        assert query(new, "prefect", "SELECT count(*) FROM run") == "2"
        # and a second time it is not empty any more
        assert "not empty" in run(new, "restore.sh", saved, status=2)


def test_a_restore_that_fails_leaves_the_old_database(filled: dict[str, str], saved: Path) -> None:
    # A dump that is whole but cannot be restored: it speaks of an account that is not there.
    query(filled, "postgres", "CREATE ROLE passing")
    query(filled, "mlflow", "CREATE TABLE foreign_one (id int); ALTER TABLE foreign_one OWNER TO passing")
    target = saved.parent / "second"
    run({**filled, "INKWELL_BUCKETS": "inkwell-mlflow", "INKWELL_DATABASES": "mlflow"}, "backup.sh", target)
    query(filled, "mlflow", "DROP TABLE foreign_one; INSERT INTO mlflow_runs VALUES (1001)")
    query(filled, "postgres", "DROP ROLE passing")
    # the artifact of the run that only the old database knows
    client(filled).put_object(Bucket="inkwell-mlflow", Key="mlflow/1001/model", Body=b"newer")
    (folder,) = target.iterdir()
    run(filled, "restore.sh", "--replace", folder, status=3)
    assert query(filled, "mlflow", "SELECT count(*) FROM mlflow_runs") == "1001"
    assert set(contents(filled, "inkwell-mlflow")) == {*KEYS, "mlflow/1001/model"}
    query(filled, "mlflow", "DELETE FROM mlflow_runs WHERE id = 1001")
    client(filled).delete_object(Bucket="inkwell-mlflow", Key="mlflow/1001/model")


def test_buckets_refuses_an_archive_of_something_else(filled: dict[str, str]) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as written:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        written.addfile(entry)
    command = [filled["PYTHON"], str(INFRA / "buckets.py"), "upload", "inkwell-dvc"]
    done = subprocess.run(command, env=filled, input=archive.getvalue(), capture_output=True, check=False)
    assert done.returncode == 2
    assert b"not written by this program" in done.stderr
    assert contents(filled, "inkwell-dvc") == {}
