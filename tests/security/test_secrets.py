"""Planted secrets: one small pipeline through Prefect and MLflow, then every file that it left is searched for them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import parse
from components.errors import InkwellError
from tests.ingest.servers import serving

ROOT = Path(__file__).parents[2]
# Each a word that occurs nowhere else, of signs that no quoting changes.
ENVIRONMENT = {
    name: f"planted-{name.lower().replace('_', '-')}-5b21"
    for name in (
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "PREFECT_API_AUTH_STRING",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "PGPASSWORD",
        "INKWELL_TEST_HOOK",
        "INKWELL_TEST_MAIL",
    )
}
LOGIN = "planted-netrc-login-5b21"
SIGNATURE = "planted-signature-5b21"
STAGES = {
    "ingest": {
        "desc": "Sources to documents",
        "cmd": "python -m components.ingest",
        "params": ["seed", "ingest"],
        "outs": ["data/raw"],
        "metrics": [{"metrics/ingest.json": {"cache": False}}],
    },
    "fails": {
        "desc": "Says something and fails, so that its words are told",
        "cmd": "python -c \"import sys; sys.exit('a stage that fails')\"",
        "deps": ["data/raw"],
    },
}


def encoded(secret: str) -> list[bytes]:
    """A secret as it is, and as HTTP's basic login would carry it."""
    return [secret.encode(), *(base64.b64encode(form.encode()) for form in (secret, f"me:{secret}"))]


def contents(path: Path) -> bytes:
    """What a file says; a Parquet file's values, since its bytes are packed."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        return f"{table.schema.metadata} {table.to_pylist()}".encode()
    if path.suffix in (".gz", ".tgz"):
        import gzip

        return gzip.decompress(path.read_bytes())
    return path.read_bytes()


def holding(folder: Path, secret: str) -> list[str]:
    """Files below `folder` that hold a secret."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            said = contents(path)
            if any(form in said for form in encoded(secret)):
                found.append(path.relative_to(folder).as_posix())
    return found


@dataclass(frozen=True)
class Run:
    """What a run left: the workspace, Prefect's folder, and what was printed."""

    place: Path
    workspace: Path
    said: str
    logins: list[str | None]


def run(command: list[str], folder: Path, environment: dict[str, str], seconds: float = 240) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One stage that ends well and one that fails, run by the flow with a Prefect server of its own and MLflow in a file."""
    place = tmp_path_factory.mktemp("secrets")
    workspace, home = place / "workspace", place / "home"
    workspace.mkdir()
    home.mkdir()
    (home / "netrc").write_text(f"machine 127.0.0.1 login me password {LOGIN}\n", encoding="utf-8")
    (home / "netrc").chmod(0o600)
    poems = "\n".join(json.dumps({"text": f"a poem of line {number}"}) for number in range(40)).encode()
    foreign = ("PREFECT_", "MLFLOW_", "INKWELL_", "AWS_", "PG", "HF_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        **ENVIRONMENT,
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "DVC_SITE_CACHE_DIR": str(place / "site"),
        "INKWELL_CACHE": str(place / "downloads"),
        "PREFECT_HOME": str(place / "prefect"),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "AWS_ACCESS_KEY_ID": "somebody",
        "MLFLOW_TRACKING_USERNAME": "me",
    }
    with serving({"/poems.jsonl": poems}) as server:
        parameters = {
            "seed": 1,
            "ingest": {
                "sources": [
                    {"name": "far", "kind": "url", "location": f"{server.address}/poems.jsonl?signature={SIGNATURE}"}
                ]
            },
            "notifications": {
                "events": ["failed", "promoted"],
                "webhook": "env:INKWELL_TEST_HOOK",
                "smtp": "env:INKWELL_TEST_MAIL",
                "mail_to": ["reviewer@localhost"],
                "timeout_seconds": 1,
            },
        }
        (workspace / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
        (workspace / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False), encoding="utf-8")
        run(["-m", "dvc", "init", "--no-scm", "-q"], workspace, environment)
        status, said = run(["-m", "flows.pipeline", "--workspace", str(workspace)], workspace, environment)
        assert status == 1, said  # the second stage fails
        assert (workspace / "data/raw/documents.parquet").exists(), said
        left, more = run(["-m", "components.tracking"], workspace, environment)
        assert left == 0, more
        # And once with a server that is away: the record waits in the spool, with the reason beside it.
        away = [
            *("-m", "components.ingest", "--set", "tracking.uri=http://127.0.0.1:9", "--output", "data/again"),
            *("--metrics", "metrics/again.json"),
        ]
        status, waited = run(away, workspace, {**environment, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
        assert status == 0, waited
        yield Run(place, workspace, said + more + waited, list(server.logins))
    shutil.rmtree(place, ignore_errors=True)


def test_the_run_really_used_and_recorded_what_it_was_given(finished: Run) -> None:
    login = "Basic " + base64.b64encode(f"me:{LOGIN}".encode()).decode()
    assert login in finished.logins, "the login was not used, and so nothing is proved"
    assert any(b"ingest.sources" in file.read_bytes() for file in (finished.workspace / ".inkwell").glob("mlflow.db*"))
    assert list((finished.workspace / ".inkwell/spool").glob("*/record.jsonl")), "nothing waits in the spool"
    assert list((finished.place / "prefect").rglob("*.db")), "Prefect's database is somewhere else"
    assert "a stage that fails" in finished.said


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_no_secret_of_the_environment_is_kept_or_printed(finished: Run, name: str) -> None:
    assert holding(finished.place, ENVIRONMENT[name]) == []
    assert ENVIRONMENT[name] not in finished.said


def test_no_login_of_netrc_is_kept_or_printed(finished: Run) -> None:
    assert holding(finished.place, LOGIN) == ["home/netrc"]
    assert not any(form.decode() in finished.said for form in encoded(LOGIN))


def test_a_signed_address_stays_in_the_parameters_and_in_dvc_s_own_files(finished: Run) -> None:
    """DVC hashes the parameters, so it keeps them; nothing that is shown or sent to MLflow or Prefect holds the signature."""
    found = holding(finished.place, SIGNATURE)
    own = ("workspace/params.yaml", "workspace/dvc.lock")
    assert [path for path in found if path not in own and not path.startswith("workspace/.dvc/")] == []
    assert SIGNATURE not in finished.said


PLANTED = "planted-in-a-parameter-5b21"
FOREIGN: dict[str, dict[str, Any]] = {
    "a source's address": {
        "ingest": {"sources": [{"name": "a", "kind": "url", "location": f"http://me:{PLANTED}@h/a"}]}
    },
    "a model's address": {"pretrain": {"initial": f"http://me:{PLANTED}@h/model.gguf"}},
    "a tracking server": {"tracking": {"uri": f"http://me:{PLANTED}@h:5000"}},
    "a tracking database": {"tracking": {"uri": f"postgresql+psycopg2://me:{PLANTED}@h/mlflow"}},
    "a webhook": {"notifications": {"webhook": f"http://h/{PLANTED}"}},
    "Slack": {"notifications": {"slack": f"http://h/services/{PLANTED}"}},
    "a mail server": {"notifications": {"smtp": f"smtp://me:{PLANTED}@h:25"}},
}


@pytest.mark.parametrize("place", FOREIGN)
def test_a_secret_among_the_parameters_is_refused_and_not_told(place: str) -> None:
    source = {"name": "mine", "kind": "path", "location": "texts"}
    with pytest.raises(InkwellError) as refused:
        parse({"ingest": {"sources": [source]}, **FOREIGN[place]})
    assert PLANTED not in str(refused.value)


def test_a_remote_with_a_password_is_refused_and_not_told() -> None:
    from flows.placement.handover import is_address

    with pytest.raises(InkwellError) as refused:
        is_address(f"s3://me:{PLANTED}@bucket/store")
    assert PLANTED not in str(refused.value)
    assert is_address("s3://bucket/store")


def test_images_and_archives_of_the_code_hold_no_secret_file() -> None:
    """What git knows is what a build or a clone can take along."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this copy of the code lies in no git repository")
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    wrong = [
        str(name)
        for name in names
        if name.name in (".env", ".netrc", "pip.conf", "credentials", "config.local", "id_rsa")
        or name.suffix in (".pem", ".key", ".p12", ".pfx")
    ]
    assert wrong == ["infra/docker/pip.conf"]
    settings = (ROOT / "infra/docker/pip.conf").read_text(encoding="utf-8").splitlines()
    assert [line for line in settings if line and not line.startswith("#")] == [], "it is the empty one"
