"""The shell scripts: shellcheck, and what they do where that needs no server."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.reading import INFRA, check, dotenv, example, files, package, tool

SCRIPTS = files("*.sh", "*.sbatch")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(INFRA)))
def test_shellcheck(path: Path) -> None:
    check(tool("shellcheck"), "--exclude=SC1091", path)  # which is: what is sourced is not there yet
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^set -euo? ?(pipefail)?$", text, re.MULTILINE)
    assert path.stat().st_mode & stat.S_IXUSR


def test_configure_fills_every_secret_and_never_twice(tmp_path: Path) -> None:
    target = tmp_path / ".env"
    check("bash", INFRA / "configure.sh", target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    found = dotenv(target.read_text(encoding="utf-8"))
    open_ones = [name for name, value in example().items() if not value and not name.startswith("TORCH_")]
    secrets = [found[name] for name in open_ones]
    assert len(open_ones) == len(set(secrets)) == 9
    assert all(len(secret) >= 24 and re.fullmatch(r"(inkwell:)?[0-9a-f]+", secret) for secret in secrets)
    assert {name: found[name] for name in found if name not in open_ones} == {
        name: value for name, value in example().items() if name not in open_ones
    }
    before = target.read_bytes()
    again = subprocess.run(["bash", INFRA / "configure.sh", target], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "left alone" in again.stderr
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize("path", ["infra/.env", "infra/worker.env", "backups/2026-01-31T020000Z/database-prefect.dump"])
def test_what_holds_secrets_is_ignored_by_git(path: str) -> None:
    done = subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=INFRA.parent, check=False)
    assert done.returncode == 0


def test_store_gets_three_accounts_each_with_its_own_bucket(tmp_path: Path) -> None:
    keys = {f"S3_{name}_SECRET_KEY": f"planted-{name}" for name in ("ADMIN", "MLFLOW", "WORKER")}
    identities, weed = tmp_path / "identities.json", tmp_path / "weed"
    # In place of SeaweedFS: what it would be started with.
    weed.write_text('#!/bin/sh\nprintf "%s\\n" "$@"; env\n', encoding="utf-8")
    weed.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "IDENTITIES": str(identities), "WEED": str(weed)}
    shown = check("env", "-i", *(f"{k}={v}" for k, v in {**environment, **keys}.items()), "sh", INFRA / "s3/start.sh")
    assert stat.S_IMODE(identities.stat().st_mode) == 0o600
    assert "planted" not in shown
    found = {entry["name"]: entry for entry in json.loads(identities.read_text(encoding="utf-8"))["identities"]}
    assert {name: entry["credentials"][0]["secretKey"] for name, entry in found.items()} == {
        "admin": "planted-ADMIN",
        "mlflow": "planted-MLFLOW",
        "worker": "planted-WORKER",
    }
    assert {action.partition(":")[2] for action in found["mlflow"]["actions"]} == {"inkwell-mlflow"}
    assert {action.partition(":")[2] for action in found["worker"]["actions"]} == {"inkwell-dvc"}
    # Only the gateway that asks for signatures listens outside of the container.
    arguments = shown.splitlines()
    assert "-ip.bind=127.0.0.1" in arguments
    assert [argument for argument in arguments if "0.0.0.0" in argument] == ["-s3.ip.bind=0.0.0.0"]
    assert "-master.telemetry=false" in arguments
    missing = subprocess.run(
        ["sh", INFRA / "s3/start.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert missing.returncode != 0
    assert "S3_ADMIN_SECRET_KEY" in missing.stderr


def test_secrets_of_kubernetes_are_random_and_whole() -> None:
    validate = package("kubernetes_validate")
    first, second = (list(yaml.safe_load_all(check("bash", INFRA / "kubernetes/secrets.sh"))) for _ in range(2))
    for secret in first:
        validate.validate(secret, "1.29", strict=True)
        assert secret["metadata"]["namespace"] == "inkwell"
    by_name = {secret["metadata"]["name"]: secret["stringData"] for secret in first}
    others = {secret["metadata"]["name"]: secret["stringData"] for secret in second}
    assert not {value for data in by_name.values() for value in data.values() if len(value) > 20} & {
        value for data in others.values() for value in data.values()
    }
    identities = json.loads(by_name["store-identities"]["seaweedfs_s3_config"])["identities"]
    keys = {entry["name"]: entry["credentials"][0]["secretKey"] for entry in identities}
    assert keys["admin"] == by_name["store-admin"]["AWS_SECRET_ACCESS_KEY"]
    assert keys["mlflow"] == by_name["store-mlflow"]["AWS_SECRET_ACCESS_KEY"]
    assert keys["worker"] == by_name["inkwell-job"]["AWS_SECRET_ACCESS_KEY"]
    assert by_name["prefect-database"]["password"] in by_name["prefect-database"]["connection-string"]
