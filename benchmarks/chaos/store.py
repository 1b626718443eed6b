"""What isolated stages need: an object store to meet at, and a repository that has their commit."""

from __future__ import annotations

from pathlib import Path

from benchmarks.chaos.services import Service


def open_store(store: Service, endpoint: str) -> None:
    """Start the store at `endpoint` with its one bucket, which is empty."""
    import boto3
    from botocore.config import Config

    store.start()
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(proxies={}),  # it is on this machine
    ).create_bucket(Bucket="store")


def credentials(endpoint: str) -> dict[str, str]:
    """The environment by which the store is found."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def into_git(workspace: Path) -> None:
    """Isolated stages run at a commit: the workspace becomes a repository of one."""
    from configobj import ConfigObj

    from flows.placement.snapshot import git

    config = ConfigObj(str(workspace / ".dvc" / "config"), encoding="utf-8")
    config["core"].pop("no_scm", None)
    config.write()
    (workspace / ".gitignore").write_text("/data/\n/models/\n/reports/\n/.inkwell/\n__pycache__/\n", encoding="utf-8")
    (workspace / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    git(workspace, "init", "-q")
    git(workspace, "add", "-A")
    git(workspace, "-c", "user.name=chaos", "-c", "user.email=chaos@localhost", "commit", "-qm", "A pipeline")
