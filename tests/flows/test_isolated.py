"""Stages in clones of their own that meet at an S3 remote: real git, DVC and Prefect, and moto's server for S3."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.errors import InkwellError
from components.tracking.spool import Record, waiting
from flows.orchestration.graph import Stage, read_stages
from flows.pipeline import main
from flows.placement import clones
from flows.placement.described import placed
from flows.placement.handover import Handover, Store, is_address, take_over
from flows.placement.isolated import Isolated
from flows.placement.snapshot import commit_of, git
from flows.processes import environment
from tests.flows.conftest import LEFT

ROOT = Path(__file__).parents[2]


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
    snapshot = commit_of(repository, {"dvc.lock"}, True, {"new.py"})
    assert snapshot != head
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")  # a try that ended in the middle
    assert snapshot == commit_of(repository, {"dvc.lock"}, True, {"new.py"})
    assert git(repository, "show", f"{snapshot}:params.yaml") == "left: 2\n"
    assert git(repository, "show", f"{snapshot}:new.py") == "new\n"
    assert git(repository, "status", "--porcelain") == before
    assert git(repository, "branch", "--contains", snapshot) == ""


def test_a_snapshot_takes_what_stages_read_and_nothing_else_that_lies_about(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = yaml.safe_load((repository / "dvc.yaml").read_text())
    described["stages"]["right"]["deps"].append("code")
    (repository / "dvc.yaml").write_text(yaml.safe_dump(described))
    (repository / "code").mkdir()
    (repository / "code" / "new.py").write_text("new\n")
    (repository / "staged.py").write_text("staged\n")
    git(repository, "add", "staged.py")
    (repository / "backups").mkdir()
    (repository / "backups" / "accounts.dump").write_text("planted")
    (repository / ".env").write_text("PASSWORD=planted\n")
    # What a stage makes is no source, although another one reads it.
    (repository / ".gitignore").write_text("/*.txt\n!/in.txt\n.inkwell/\n")
    (repository / "page.html").write_text("<p>made</p>")
    placement = Isolated(repository, str(tmp_path / "store"), allow_dirty=True)
    placement.begin(read_stages(repository))
    stored = git(repository, "ls-tree", "-r", "--name-only", placement.commit).split()
    assert {"code/new.py", "staged.py", "dvc.yaml", "left.py", "in.txt"} <= set(stored)
    assert not {"backups/accounts.dump", ".env", "page.html", "dvc.lock"} & set(stored)
    said = capsys.readouterr().err
    assert "stay here: .env, backups/accounts.dump." in said
    git(repository, "checkout", "-q", "--", "dvc.yaml", ".gitignore")
    git(repository, "rm", "-q", "--cached", "staged.py")
    placement.check(read_stages(repository))
    assert (
        placement.commit == git(repository, "rev-parse", "HEAD").strip()
    )  # nothing that a stage reads differs from it


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
        (
            ["--placement", "isolated", "--remote", "/store", "--launch", "no-such-launcher --fast"],
            "no program 'no-such-launcher'",
        ),
        (
            ["--placement", "isolated", "--remote", "/store", "--launch", "gpu=infra/nowhere.sh --"],
            "no program 'infra/nowhere.sh'",
        ),
        (["--placement", "isolated", "--remote", "/store", "--launch", "sh 'x"], "is no command line"),
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


def test_clones_in_use_and_those_with_something_to_tell_are_kept(tmp_path: Path) -> None:
    place, stages = tmp_path / "commit", ("done", "busy", "telling")
    for stage in stages:
        with clones.held(place, stage) as clone:
            assert clone is not None
            clone.mkdir()
    (place / ".done.made-by-halves").mkdir()
    record = Record.create(_made(clones.spool_of(place / "telling")), {"kind": "step"})
    with clones.held(place, "busy"), clones.held(place, "busy") as second:
        assert second is None
        clones.remove(place, stages)
    assert sorted(path.name for path in place.iterdir()) == [".busy.lock", ".telling.lock", "busy", "telling"]
    record.remove()
    clones.remove(place, ["done"])
    assert (place / "busy").exists()
    clones.remove(place, stages)
    assert not place.exists()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_results_that_cannot_be_fetched_are_told_in_one_sentence(repository: Path, tmp_path: Path) -> None:
    from flows.placement.worker import main as worker

    remote = tmp_path / "store"
    placement = Isolated(repository, str(remote), scratch=tmp_path / "workers")
    (first,) = read_stages(repository, ["first"])
    placement.begin([first])
    assert worker(placement.command(first, force=False)[3:]) == 0
    shutil.rmtree(remote / "files")  # the handover is there, what it names is not
    with pytest.raises(InkwellError, match=r"did not come to .*run again"):
        placement.finish([first])
    shutil.rmtree(remote)
    with pytest.raises(InkwellError, match="does not hold what first made"):
        placement.finish([first])
    assert (tmp_path / "workers" / placement.commit / "first").exists()


def test_another_commit_finds_what_its_stages_share_with_the_first_one(
    repository: Path, store: str, prefect_server: None
) -> None:
    from flows.orchestration.running import run_pipeline

    described = yaml.safe_load((repository / "dvc.yaml").read_text())
    described["stages"]["right"]["cmd"] = "python right.py"
    described["stages"]["right"]["metrics"] = [{"m.json": {"cache": False}}]
    (repository / "dvc.yaml").write_text(yaml.safe_dump(described))
    (repository / "right.py").write_text(
        "open('c.txt', 'w').write(open('a.txt').read() * 2)\nopen('m.json', 'w').write('{\"letters\": 4}')\n"
    )
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "A metric")
    placement = {"kind": "isolated", "remote": store}
    assert {outcome.state for outcome in run_pipeline(repository, placement=placement)} == {"ran"}
    assert (repository / "m.json").exists()
    (repository / "README.md").write_text("Words.\n")
    git(repository, "add", "README.md")
    git(repository, "commit", "-qm", "Words")
    outcomes = {outcome.stage: outcome.state for outcome in run_pipeline(repository, placement=placement)}
    # DVC keeps no runs of a stage with a page of its own.
    assert outcomes == {"first": "restored", "left": "ran", "right": "restored", "last": "restored"}


TELLING = """
import sys
from pathlib import Path
from components.configuration import load
from components.step import Step
from components.tracking import Recorder

name, source, target = sys.argv[1:4]
step = Step(name, "Copies", "nowhere:run", {"text": source}, {"copy": target})
recorder = Recorder.start(step, load(Path("params.yaml")), {"text": Path(source)})
recorder.metrics({"loss": 2.0}, 1)
if len(sys.argv) > 4:
    sys.exit("no such poem.")
Path(target).write_text(Path(source).read_text() + "!")
recorder.finish("FINISHED", {"letters": 3.0}, {"copy": Path(target)})
"""


def _told(repository: Path, more: str = "", breaks: str = "") -> None:
    """Stages `first` and `left` tell MLflow of themselves; with `breaks` the second one ends in the middle. All is committed."""
    described = yaml.safe_load((repository / "dvc.yaml").read_text())
    stages = described["stages"]
    for name, source, target, end in (("first", "in.txt", "a.txt", ""), ("left", "a.txt", "b.txt", breaks)):
        stages[name] = {
            "cmd": f"python told.py {name} {source} {target} {end}".strip(),
            "deps": ["told.py", source],
            "outs": [target],
        }
    stages["last"]["deps"] = ["b.txt", "c.txt"]
    (repository / "dvc.yaml").write_text(yaml.safe_dump(described))
    (repository / "told.py").write_text(TELLING)
    (repository / "params.yaml").write_text(
        f"ingest: {{sources: [{{name: tiny, kind: path, location: in.txt}}]}}\n{more}"
    )
    git(repository, "add", "dvc.yaml", "told.py", "params.yaml")
    git(repository, "commit", "-qm", "Stages that tell")


def test_what_isolated_stages_tell_of_themselves_comes_home(
    repository: Path, store: str, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    from flows.orchestration.running import run_pipeline

    monkeypatch.setenv("INKWELL_TRACKING", "on")
    monkeypatch.delenv("INKWELL_PIPELINE", raising=False)
    scratch = tmp_path / "workers"
    placement = {"kind": "isolated", "remote": store, "scratch": str(scratch)}
    _told(repository, breaks="breaks")
    outcomes = {outcome.stage: outcome.state for outcome in run_pipeline(repository, placement=placement)}
    assert outcomes == {"first": "ran", "left": "failed", "right": "ran", "last": "skipped"}

    uri = f"sqlite:///{repository.resolve() / '.inkwell' / 'mlflow.db'}"
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("inkwell")
    assert experiment.artifact_location == (repository.resolve() / ".inkwell" / "mlartifacts").as_uri()

    def runs() -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]):
            found.setdefault(run.data.tags.get("stage", "pipeline"), []).append(run)
        return found

    told = runs()
    assert {name: [run.info.status for run in found] for name, found in told.items()} == {
        "pipeline": ["FAILED"],
        "first": ["FINISHED"],
        "left": ["KILLED"],
    }
    first = told["first"][0]
    assert first.data.tags["mlflow.parentRunId"] == told["pipeline"][0].info.run_id
    assert first.data.metrics["letters"] == 3.0
    assert [point.value for point in client.get_metric_history(first.info.run_id, "loss")] == [2.0]
    assert not list(waiting(repository / ".inkwell" / "spool"))
    assert sorted(path.name for path in scratch.glob("*/*")) == [".left.lock", "left"]  # it may go on from a checkpoint
    assert not list(scratch.rglob("mlflow.db"))

    _told(repository)
    outcomes = {outcome.stage: outcome.state for outcome in run_pipeline(repository, placement=placement)}
    assert outcomes == {"first": "restored", "left": "ran", "right": "restored", "last": "ran"}
    told = runs()
    assert [run.info.status for run in told["pipeline"]] == ["FAILED", "FINISHED"]
    assert told["pipeline"][1].data.tags["unchanged.first"] == first.info.run_id
    assert [run.info.status for run in told["left"]] == ["KILLED", "FINISHED"]
    assert len(told["first"]) == 1
    assert Store(repository, store).names(f"records/{git(repository, 'rev-parse', 'HEAD').strip()}") == []


def test_a_record_that_no_server_took_is_carried_home_and_told_once(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    from components.tracking.delivery import deliver_waiting
    from flows.placement.records import send, take

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    away = "http://127.0.0.1:9"
    _told(repository, more=f"tracking: {{uri: '{away}'}}\n")
    spool = _made(tmp_path / "clone" / "spool")
    header = {
        "kind": "step", "stage": "first", "summary": "Copies", "pipeline": None, "at": 1_700_000_000_000, "uri": away,
        "experiment": "inkwell", "artifacts": None, "process": "1 0.0", "tags": {}, "parameters": {}, "pipeline_parameters": {},
    }  # fmt: skip
    record = Record.create(spool, header)
    record.append({"kind": "metrics", "at": 1_700_000_000_001, "step": 1, "values": {"loss": 2.0}})
    name = record.folder.name
    shutil.copytree(record.folder, tmp_path / "copy")
    store = Store(repository, str(tmp_path / "store"))
    for _ in range(2):  # the second time as if the worker had died before the record left its spool
        send(store, "c0ffee", spool)
        assert not list(waiting(spool))
        assert store.names("records/c0ffee") == [f"{name}.tar.gz"]
        take(store, "c0ffee", repository)
        assert store.names("records/c0ffee") == []
        shutil.copytree(tmp_path / "copy", spool / name)
    home = repository / ".inkwell" / "spool"
    (kept,) = waiting(home)
    entries = kept.entries()[0]
    assert entries[0]["uri"] == away
    assert entries[-1] == {"kind": "finish", "at": entries[-1]["at"], "status": "KILLED", "values": {}}
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert deliver_waiting(home, to={"uri": uri, "artifacts": (tmp_path / "artifacts").as_uri()}) == (1, 0)
    client = MlflowClient(uri, registry_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("inkwell").experiment_id])
    assert run.info.status == "KILLED"
