"""Stages in clones of their own that meet at an S3 remote: real git, DVC and Prefect, and moto's server for S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from components.errors import InkwellError
from flows.pipeline import main
from flows.placement.described import placed
from flows.placement.handover import Handover, is_address, take_over
from flows.placement.snapshot import commit_of, git
from flows.processes import environment
from tests.flows.conftest import LEFT

ROOT = Path(__file__).parents[2]
REMOTE = "s3://store/cache"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of a moto server with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ).create_bucket(Bucket="store")
    yield endpoint
    server.stop()


@pytest.fixture
def store(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The remote's address, with its credentials in the environment."""
    for name, value in {
        "ENDPOINT_URL": s3,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return REMOTE


@pytest.fixture
def repository(workspace: Path) -> Path:
    """The tiny pipeline in git, its last stage with a page that DVC does not keep, `left` with one retry."""
    text = (workspace / "dvc.yaml").read_text()
    described = yaml.safe_load(text)
    described["stages"]["left"]["outs"] = ["b.txt", {"page.html": {"cache": False}}]
    described["stages"]["left"]["meta"] = {"retries": 1}
    described["stages"]["first"]["meta"] = {"timeout_minutes": 30}
    described["stages"]["last"]["deps"].append("page.html")
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(described))
    (workspace / "left.py").write_text(LEFT + "open('page.html', 'w').write('<p>')\n")
    (workspace / ".gitignore").write_text("/*.txt\n!/in.txt\n/page.html\n.inkwell/\n")
    (workspace / ".dvcignore").write_text(".inkwell\n")
    # The fixture makes it without git; DVC takes to git as soon as its configuration does not say otherwise.
    (workspace / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n")
    (workspace / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    for command in (
        ["init", "-q"],
        ["config", "user.name", "tester"],
        ["config", "user.email", "tester@localhost"],
        ["add", "-A"],
        ["commit", "-qm", "A pipeline"],
    ):
        git(workspace, *command)
    return workspace


def _hashes(folder: Path) -> dict[str, str]:
    locked = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in locked.values() for out in stage["outs"]}


def _processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder.resolve()) and process.pid != os.getpid()
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_killed_worker_is_tried_again_and_the_outcome_is_that_of_one_workspace(
    repository: Path, store: str, prefect_server: None, tmp_path: Path
) -> None:
    from flows.orchestration.running import run_pipeline

    slow = repository / "left.py"
    marker = tmp_path / "killed"
    # The first try waits to be killed; the second one finds the mark.
    slow.write_text(
        f"import os, time\nif not os.path.exists({str(marker)!r}):\n    time.sleep(300)\n" + slow.read_text()
    )
    git(repository, "commit", "-qam", "Slow at first")
    scratch = tmp_path / "workers"

    def kill_the_worker() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            for process in _processes_in(repository):
                command = process.cmdline()
                works = any("left.py" in " ".join(other.cmdline()) for other in _processes_in(scratch))
                if works and "flows.placement.worker" in command and "left" in command:
                    marker.touch()
                    os.killpg(os.getpgid(process.pid), signal.SIGKILL)
                    return
            time.sleep(0.2)

    killer = threading.Thread(target=kill_the_worker)
    killer.start()
    placement = {"kind": "isolated", "remote": store, "scratch": str(scratch)}
    outcomes = {outcome.stage: outcome.state for outcome in run_pipeline(repository, placement=placement)}
    killer.join()
    assert marker.exists(), "no worker was killed"
    assert set(outcomes.values()) == {"ran"}
    assert (repository / "d.txt").read_text() == "in!inin"
    assert (repository / "page.html").read_text() == "<p>"
    assert not _processes_in(scratch)
    assert not list(scratch.glob("*/*"))

    alone = tmp_path / "alone"
    git(tmp_path, "clone", "-q", str(repository), str(alone))
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=alone, env=environment(), check=True)
    assert _hashes(repository) == _hashes(alone)


def test_a_worker_killed_with_its_whole_group_leaves_nobody_and_the_next_one_finishes(
    repository: Path, store: str, tmp_path: Path
) -> None:
    from flows.placement.handover import Store
    from flows.placement.worker import main as worker

    marker = tmp_path / "again"
    slow = f"import os, time\nif not os.path.exists({str(marker)!r}):\n    time.sleep(300)\n"
    (repository / "first.py").write_text(slow + "open('a.txt', 'w').write(open('in.txt').read())\n")
    described = yaml.safe_load((repository / "dvc.yaml").read_text())
    described["stages"]["first"] = {"cmd": "python first.py", "deps": ["in.txt", "first.py"], "outs": ["a.txt"]}
    (repository / "dvc.yaml").write_text(yaml.safe_dump(described))
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Slow at first")
    commit = git(repository, "rev-parse", "HEAD").strip()
    scratch = tmp_path / "workers"
    arguments = ["--commit", commit, "--stage", "first", "--remote", store]
    arguments += ["--repository", str(repository), "--scratch", str(scratch)]
    command = [sys.executable, "-m", "flows.placement.worker", *arguments]
    killed = subprocess.Popen(command, cwd=repository, env=environment(), start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not any("first.py" in " ".join(process.cmdline()) for process in _processes_in(scratch)):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not Store(repository, store).get(commit, ["first"])
    marker.touch()
    assert worker(arguments) == 0
    assert not _processes_in(scratch)
    handed = Store(repository, store).get(commit, ["first"])["first"]
    assert [out["path"] for out in handed.entry["outs"]] == ["a.txt"]
    assert (scratch / commit / "first" / "a.txt").read_text() == "in"


def test_another_clone_finds_what_the_first_one_made(repository: Path, store: str, tmp_path: Path) -> None:
    from flows.placement.worker import main as worker

    commit = git(repository, "rev-parse", "HEAD").strip()
    common = ["--commit", commit, "--remote", store, "--repository", str(repository)]
    assert worker([*common, "--stage", "first", "--scratch", str(tmp_path / "one")]) == 0
    assert worker([*common, "--stage", "right", "--scratch", str(tmp_path / "two")]) == 0
    assert (tmp_path / "two" / commit / "right" / "c.txt").read_text() == "inin"


def test_a_snapshot_is_a_commit_that_nobody_sees_and_that_is_the_same_again(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    assert commit_of(repository, {"dvc.lock"}, allow_dirty=False) == head
    (repository / "dvc.lock").write_text("schema: '2.0'\n")
    assert commit_of(repository, {"dvc.lock"}, allow_dirty=False) == head
    (repository / "params.yaml").write_text("left: 2\n")
    (repository / "new.py").write_text("new\n")
    with pytest.raises(InkwellError, match=r"params\.yaml.*--allow-dirty"):
        commit_of(repository, {"dvc.lock"}, allow_dirty=False)
    before = git(repository, "status", "--porcelain")
    snapshot = commit_of(repository, {"dvc.lock"}, allow_dirty=True)
    assert snapshot != head
    assert snapshot == commit_of(repository, {"dvc.lock"}, allow_dirty=True)
    assert git(repository, "show", f"{snapshot}:params.yaml") == "left: 2\n"
    assert git(repository, "show", f"{snapshot}:new.py") == "new\n"
    assert git(repository, "status", "--porcelain") == before
    assert git(repository, "branch", "--contains", snapshot) == ""


def test_a_handover_survives_its_journey_and_replaces_what_is_stale(tmp_path: Path) -> None:
    entry = {"cmd": "x", "outs": [{"path": "data", "md5": "1.dir"}, {"path": "page.html", "md5": "2"}]}
    handover = Handover("stage", entry, {"page.html": b"\xff<p>"})
    assert Handover.from_json(handover.to_json()) == handover
    (tmp_path / "data").mkdir()
    take_over(tmp_path, [handover])
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "page.html").read_bytes() == b"\xff<p>"
    (tmp_path / "data").mkdir()
    take_over(tmp_path, [handover])
    assert (tmp_path / "data").exists()
    assert yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]["stage"] == entry


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--placement", "isolated"], "needs --remote"),
        (["--remote", "store"], "--remote is for --placement isolated"),
        (["--placement", "isolated", "--remote", "nowhere"], "is no DVC remote"),
        (["--placement", "isolated", "--remote", "s3://user:word@host/store"], "environment only"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(
    repository: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*arguments, "--workspace", str(repository)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_folder_without_git_is_refused(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--placement", "isolated", "--remote", str(tmp_path / "store"), "--workspace", str(workspace)]
    assert main(arguments) == 2
    assert "has no git commit" in capsys.readouterr().err


def test_a_worker_is_started_by_the_launcher_of_its_pool(repository: Path) -> None:
    from flows.orchestration.graph import Stage

    placement = placed(
        repository,
        {"kind": "isolated", "remote": "/store", "launchers": {"gpu": "sbatch --wait {command}", "": "srun"}},
    )
    plain = placement.command(Stage("a", "", "", (), ()), force=False)
    assert plain[:4] == ["srun", "python", "-m", "flows.placement.worker"]
    on_gpu = placement.command(Stage("b", "", "", (), (), pool="gpu"), force=True)
    assert on_gpu[:2] == ["sbatch", "--wait"]
    assert on_gpu[2].startswith("python -m flows.placement.worker")
    assert on_gpu[2].endswith("--force")
    with pytest.raises(InkwellError, match="tpu"):
        placement.check([Stage("c", "", "", (), (), pool="tpu")])
    assert is_address("s3://bucket/store")
    assert not is_address("store")


def test_two_workers_do_not_share_a_clone(
    repository: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    from flows.placement.worker import main as worker

    commit = git(repository, "rev-parse", "HEAD").strip()
    (tmp_path / commit).mkdir()
    with (tmp_path / commit / ".first.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        arguments = ["--commit", commit, "--stage", "first", "--remote", store, "--repository", str(repository)]
        assert worker([*arguments, "--scratch", str(tmp_path)]) == 2
    assert "another worker runs first" in capsys.readouterr().err
