"""The chaos in miniature: real faults, a tiny graph, and what it counts as lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.chaos import grounds as chaos
from benchmarks.chaos.disk import SmallDisk, allocated, release
from benchmarks.chaos.disturbances import DISTURBANCES
from benchmarks.chaos.faults import FAULTS, Moment, damage_cache, kill_isolated, kill_stage, pick
from benchmarks.chaos.recorded import faults_of_records, track
from benchmarks.chaos.series import forget
from benchmarks.chaos.services import listens, well
from benchmarks.chaos.soundness import MARK, end_all_in, half_written, hashes, orphans
from benchmarks.chaos.trials import Trial, run_trial, trials
from benchmarks.operations import main
from benchmarks.parts import Parts
from components.errors import InkwellError
from flows.orchestration.graph import Stage
from flows.processes import environment
from tests.infra.reading import tool
from tests.loopback import listening
from tests.processes import alive_in
from tests.tiny_corpus import poems


def test_the_trials_follow_from_the_seed_and_meet_every_fault() -> None:
    planned = trials(50, 1, FAULTS, 10)
    assert planned == trials(50, 1, FAULTS, 10)
    assert [trial.number for trial in planned if trial.smoke] == [9, 19, 29, 39, 49]
    assert {trial.fault for trial in planned} == set(FAULTS) == set(DISTURBANCES)
    assert planned[:3] == trials(3, 1, FAULTS, 10)
    assert planned[0].seed != trials(1, 2, FAULTS, 10)[0].seed


def test_a_moment_lies_within_its_stage_and_at_its_beginning_when_it_was_missed() -> None:
    stages = [Stage(name, "", f"python -m components.{name}", (), ()) for name in ("ingest", "tag", "clean")]
    seconds = {"ingest": 2.0, "tag": 10.0}
    found = [pick(random.Random(number), stages, seconds) for number in range(300)]
    assert {moment.stage for moment in found} == {"ingest", "tag", "clean"}
    assert all(moment.delay <= 0.9 * seconds.get(moment.stage, 3.0) for moment in found)
    assert 50 < sum(moment.delay == 0 for moment in found) < 150
    assert {pick(random.Random(number), stages, seconds, at_once=True).delay for number in range(20)} == {0.0}
    assert found[7] == pick(random.Random(7), stages, seconds)


def test_half_written_outputs_and_processes_left_behind_are_seen(tmp_path: Path) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "documents.parquet").write_bytes(b"whole")
    assert half_written(tmp_path) == []
    assert set(hashes(tmp_path)) == {"data/raw"}
    (tmp_path / "data" / f".clean.{os.getpid()}.x1").mkdir()
    assert half_written(tmp_path) == [f"data/.clean.{os.getpid()}.x1"]
    assert orphans(tmp_path, patience=0) == []
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], cwd=tmp_path, env={**os.environ, MARK: "1"}
    )
    try:
        assert len(orphans(tmp_path, patience=0)) == 1
        end_all_in(tmp_path)
        sleeper.wait(10)
        assert orphans(tmp_path, patience=0) == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_stage_that_has_ended_or_never_came_was_not_killed(tmp_path: Path) -> None:
    script = "import time; time.sleep(60)"
    moment = Moment("sleeps", f"python -c {script!r}", 0.0)
    assert not kill_stage(tmp_path, moment, lambda: False).struck
    sleeper = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    try:
        found = kill_stage(tmp_path, moment, lambda: True)
        assert found.struck, found.words
        assert sleeper.wait(10) == -9
    finally:
        sleeper.kill()
        sleeper.wait()
    short = "import time; time.sleep(0.5)"
    sleeper = subprocess.Popen([sys.executable, "-c", short], cwd=tmp_path)
    found = kill_stage(tmp_path, Moment("ends", f"python -c {short!r}", 3.0), lambda: sleeper.poll() is None)
    assert not found.struck, found.words
    assert sleeper.wait(10) == 0


def test_the_worker_of_a_stage_is_killed_and_no_other(tmp_path: Path) -> None:
    package = tmp_path / "flows" / "placement"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "worker.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    command = [sys.executable, "-m", "flows.placement.worker", "--stage"]
    first, second = (subprocess.Popen([*command, stage], cwd=tmp_path) for stage in ("ingest", "tag"))
    try:
        assert not kill_isolated(tmp_path, "clean")
        assert not kill_isolated(tmp_path / "flows", "tag")  # it works elsewhere
        assert kill_isolated(tmp_path, "tag")
        assert second.wait(10) == -9
        assert first.poll() is None
    finally:
        for worker in (first, second):
            worker.kill()
            worker.wait()


def test_a_server_of_this_machine_is_not_asked_by_way_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with listening(Health) as address:
        assert well(address)
        assert not well(f"{address}/elsewhere")
    assert not well(address)


def test_a_server_of_the_trials_ends_with_the_benchmark_and_can_be_killed_and_started_again(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from benchmarks.chaos.services import object_store\n"
        "service, address = object_store(Path(sys.argv[1]))\n"
        "service.start()\n"
        "service.kill()\n"
        "service.start()\n"
        "print(address.rpartition(':')[2], flush=True)\n"
        "time.sleep(120)\n"
    )
    benchmark = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert benchmark.stdout is not None
        port = int(benchmark.stdout.readline())
        assert listens(port)
    finally:
        benchmark.kill()
        benchmark.wait()
        assert benchmark.stdout is not None
        benchmark.stdout.close()
    deadline = time.monotonic() + 20
    while listens(port):
        assert time.monotonic() < deadline, "the server has outlived the benchmark"
        time.sleep(0.2)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The trials run `ingest` on sixty poems; the overrides by which their workspaces are made."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(poem, ensure_ascii=False) + "\n" for poem in poems(60)), encoding="utf-8")
    source = f"{{name: tiny, kind: path, location: {corpus}, format: jsonl, text_field: paragraphs}}"
    overrides = ("corpus=tang", "size=smoke", f"ingest.sources=[{source}]", "tracking.enabled=false")
    monkeypatch.setattr(chaos, "TINY", overrides)
    monkeypatch.setattr(chaos, "TINY_TARGETS", ("ingest",))
    return overrides


def test_a_reference_of_other_code_is_made_again(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chaos.Grounds(tmp_path / "chaos") as grounds:
        first = grounds.undisturbed(smoke=False)
        assert grounds.undisturbed(smoke=False) == first
        assert grounds.seconds(smoke=False)["ingest"] > 0
        total, largest = grounds.outputs(smoke=False)
        assert 0 < largest <= total
        monkeypatch.setattr(chaos, "TINY", (*tiny, "ingest.limit=5"))
        assert grounds.undisturbed(smoke=False) != first


def test_what_is_damaged_belongs_to_the_output_and_shows_by_its_bytes_only(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    with chaos.Grounds(tmp_path / "chaos") as grounds:
        grounds.undisturbed(smoke=False)
        workspace = grounds.reference(smoke=False)
    outs = yaml.safe_load((workspace / "dvc.lock").read_text())["stages"]["ingest"]["outs"]
    value = {out["path"]: out["md5"] for out in outs}["data/raw"]
    cache = workspace / ".dvc" / "cache" / "files" / "md5"
    listed = json.loads((cache / value[:2] / value[2:]).read_text())
    before = {path: (path.read_bytes(), path.stat()) for path in cache.glob("*/*")}
    words = damage_cache(workspace, "data/raw", random.Random(1))
    changed = {path for path in before if path.read_bytes() != before[path][0]}
    assert len(changed) == 1
    [path] = changed
    assert f"{path.parent.name}{path.name}" in {value, *(entry["md5"] for entry in listed)}
    assert path.name[:6] in words
    was, now = before[path][1], path.stat()
    assert (now.st_size, now.st_mode, now.st_mtime_ns) == (was.st_size, was.st_mode, was.st_mtime_ns)


def test_a_small_disk_is_full_and_has_room_again_and_its_files_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "file").write_bytes(b"x" * 5000)
    assert allocated(folder) == 8192
    try:
        disk = SmallDisk(folder, 64 * 1024)
    except InkwellError as error:
        assert (folder / "data" / "file").read_bytes() == b"x" * 5000
        pytest.skip(str(error))  # only root may mount
    try:
        with pytest.raises(OSError, match="No space left"):
            (folder / "large").write_bytes(b"y" * 200_000)
        disk.free_room()
        (folder / "large").write_bytes(b"y" * 200_000)
        disk.give_back()
        assert not folder.is_mount()
        assert (folder / "data" / "file").read_bytes() == b"x" * 5000
        assert (folder / "large").read_bytes() == b"y" * 200_000
        disk.give_back()
    finally:
        release(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def _chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    """The figures of `--only chaos`, which has to end with 0, and what was printed."""
    status = main(["--only", "chaos", "--smoke-every", "0", "--workspace", str(tmp_path / "operations"), *arguments])
    said = capsys.readouterr().out
    assert status == 0, said
    return json.loads(said.splitlines()[-1]), said


@pytest.mark.timeout(1200)
def test_runs_that_are_disturbed_come_out_as_if_nothing_had_happened(
    tiny: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--runs", "3", "--faults", "stage,disk,cache")
    found, said = _chaos(tmp_path, capsys, *arguments)
    assert (found["chaos_runs"], found["chaos_lost"], found["chaos_missed"], found["bars_missed"]) == (3, 0, 0, 0)
    # Each broke what it is named for.
    assert "ingest killed after" in said
    assert "room for" in said or "No file may grow" in said
    assert "of the cache damaged, of data/raw" in said
    # Finished runs are kept, so a second call reads them.
    assert _chaos(tmp_path, capsys, *arguments)[0] == found


@pytest.mark.timeout(1800)
def test_a_killed_worker_and_a_killed_tracking_server_lose_nothing(
    tiny: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = _chaos(tmp_path, capsys, "--runs", "2", "--faults", "worker,mlflow")
    assert (found["chaos_runs"], found["chaos_lost"], found["chaos_missed"]) == (2, 0, 0)
    assert "worker killed" in said
    assert "mlflow-server killed" in said


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that the user postgres can enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="inkwell-chaos-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.timeout(1800)
def test_servers_that_die_and_come_back_and_a_second_pipeline_lose_nothing(
    tiny: tuple[str, ...], reachable: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("initdb")
    # Back while the flow still asks for them.
    monkeypatch.setattr("benchmarks.chaos.disturbances._AWAY", {"server": 5.0, "database": 5.0})
    found, said = _chaos(reachable, capsys, "--runs", "4", "--faults", "server,database,s3,two")
    assert (found["chaos_runs"], found["chaos_lost"], found["chaos_missed"]) == (4, 0, 0)
    for words in ("prefect-server killed", "postgres killed", "object-store killed", "a second pipeline ended with"):
        assert words in said


@pytest.mark.timeout(900)
def test_a_pipeline_that_fails_although_nothing_was_broken_is_lost_and_not_drawn_again(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    with chaos.Grounds(tmp_path / "chaos") as grounds:
        expected = grounds.undisturbed(smoke=False)
        (tmp_path / "corpus.jsonl").unlink()
        outcome = run_trial(grounds, Trial(0, "cache", smoke=False, seed="1:0"), expected)
    assert (outcome["struck"], outcome["missed"]) == (False, [])
    [why] = outcome["lost"]
    assert why.startswith("nothing was broken, and the disturbed run ended with 1: ")
    assert (tmp_path / "chaos" / "run-000" / "dvc.yaml").exists()  # kept for a look


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "patience"), [(signal.SIGTERM, 20.0), (signal.SIGKILL, 40.0)])
def test_a_trial_that_is_ended_leaves_nobody_at_work(
    tiny: tuple[str, ...], tmp_path: Path, number: int, patience: float
) -> None:
    # All stages up to pretrain are ahead: what was left alone would go on for much longer than is waited for.
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.chaos import grounds as chaos\n"
        "from benchmarks.chaos.trials import Trial, run_trial\n"
        "from flows.processes import terminating\n"
        "chaos.TINY = tuple(sys.argv[2:])\n"
        "with terminating(), chaos.Grounds(Path(sys.argv[1])) as grounds:\n"
        "    run_trial(grounds, Trial(0, 'stage', False, '1:0'), {})\n"
    )
    folder = tmp_path / "chaos"
    benchmark = subprocess.Popen([sys.executable, "-c", script, str(folder), *tiny], start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not any("components.ingest" in command for command in alive_in(folder / "run-000")):
            assert benchmark.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        benchmark.send_signal(number)
        assert benchmark.wait(60) != 0
    finally:
        benchmark.kill()
        benchmark.wait()
    assert orphans(folder, patience=patience) == []


def test_finished_runs_are_forgotten_by_name_or_when_they_are_lost(tmp_path: Path) -> None:
    def parts() -> Parts:
        return Parts(tmp_path, {"seed": 1}, "state")

    for name, lost in (("run-000", []), ("run-001", ["data/raw is missing"]), ("run-002", []), ("reference-tiny", [])):
        parts().done(name, partial(dict, lost=lost))
    with pytest.raises(InkwellError, match="no such finished run"):
        forget(parts(), ["run-000", "run-007"])
    assert parts().names("*") == ["reference-tiny", "run-000", "run-001", "run-002"]
    known = parts()
    forget(known, ["lost", "run-002"])
    assert known.names("*") == ["reference-tiny", "run-000"]
    assert known.done("run-001", lambda: {"lost": []}) == {"lost": []}
    forget(known, ["lost"])
    assert known.names("run-*") == ["run-000", "run-001"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run PostgreSQL as somebody else")
def test_a_folder_that_postgres_cannot_enter_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool("initdb")
    tmp_path.chmod(0o700)
    arguments = ("--only", "noop,chaos", "--faults", "stage,database", "--workspace", str(tmp_path / "operations"))
    assert main(arguments) == 2
    assert "the user postgres cannot enter" in capsys.readouterr().err
    assert not (tmp_path / "operations" / "parts").exists()


def test_tracking_is_switched_on_and_no_other_parameter_changes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    before = (root / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(before.replace("  enabled: true", "  enabled: false"), encoding="utf-8")
    track(tmp_path, "ours", "http://127.0.0.1:5000")
    found = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    assert found.pop("tracking") == {"enabled": True, "uri": "http://127.0.0.1:5000", "experiment": "ours"}
    wanted = yaml.safe_load(before.replace("  enabled: true", "  enabled: false"))
    assert found == {name: value for name, value in wanted.items() if name != "tracking"}


def test_records_that_wait_or_are_there_twice_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.tracking.delivery import mlflow_client

    (tmp_path / ".inkwell").mkdir()
    client = mlflow_client(f"sqlite:///{(tmp_path / '.inkwell' / 'mlflow.db').as_posix()}")
    experiment = client.create_experiment("ours")

    def told(record: str, stage: str, status: str) -> None:
        tags = {"inkwell.kind": "step", "inkwell.record": record, "stage": stage}
        run = client.create_run(experiment, tags=tags)
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status)

    env = {**environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    told("1", "ingest", "KILLED")
    told("2", "ingest", "FINISHED")
    assert faults_of_records(tmp_path, env, "ours", ["ingest"]) == []
    told("3", "ingest", "FINISHED")
    assert faults_of_records(tmp_path, env, "ours", ["ingest"]) == ["MLflow holds 2 finished runs of ingest"]
    assert faults_of_records(tmp_path, env, "ours", ["ingest"], perhaps_twice=["ingest"]) == []
    told("3", "tag", "RUNNING")
    wrong = faults_of_records(tmp_path, env, "ours", ["tag"])
    assert wrong[0] == "MLflow holds the record 3 2 times"
    assert wrong[1:] == ["MLflow: tag never ended", "MLflow holds 0 finished runs of tag"]
    assert faults_of_records(tmp_path, env, "another", []) == ["MLflow knows no experiment another"]
    # Where what kept the records may be what broke, nothing but what is missing is excused.
    assert faults_of_records(tmp_path, env, "another", ["clean"], perhaps_none=True) == []
    assert faults_of_records(tmp_path, env, "ours", ["clean"], perhaps_none=True) == wrong[:2]

    from components.tracking.spool import Record, milliseconds

    spool = tmp_path / ".inkwell" / "spool"
    spool.mkdir()
    record = Record.create(
        spool,
        {"kind": "pipeline", "pipeline": "a", "at": milliseconds(), "uri": "http://127.0.0.1:9", "experiment": "ours"},
    )
    record.append({"kind": "finish", "at": milliseconds(), "status": "FINISHED", "values": {}})
    monkeypatch.setattr("benchmarks.chaos.recorded._PATIENCE", 0.0)
    assert "1 left" in faults_of_records(tmp_path, env, "ours", [])[0]
