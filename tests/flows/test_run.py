"""`python -m flows.run` over a real DVC graph."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.orchestration.graph import last_seconds, read_stages
from flows.processes import environment
from flows.run import Clock, headline, spoken, written_by_the_model

ROOT = Path(__file__).parents[2]


def _run(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.run", "--workspace", str(workspace), *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_each_stage_has_a_headline_and_the_end_says_what_there_is(workspace: Path) -> None:
    done = _run(workspace)
    assert done.returncode == 0, done.stderr
    assert "[1/4] first: The beginning" in done.stdout
    assert "first says hello" in done.stdout
    assert "[4/4] last: The end" in done.stdout
    assert "Done in" in done.stdout
    again = _run(workspace)
    assert again.returncode == 0
    assert "unchanged: first, left, right, last" in again.stdout


def test_a_failure_keeps_the_exit_status_of_dvc(workspace: Path) -> None:
    (workspace / "left.py").write_text("raise SystemExit(3)\n")
    done = _run(workspace, "left")
    assert done.returncode == 255
    assert "[2/2] left" in done.stdout
    assert "The pipeline stopped" in done.stdout


def test_an_interrupted_run_ends_its_processes_and_goes_on_later(workspace: Path) -> None:
    (workspace / "left.py").write_text("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)\n")
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.run"], cwd=workspace, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (workspace / "pid").exists() or not (workspace / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stage = int((workspace / "pid").read_text())
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 130
    assert run.stderr is not None
    assert b"goes on from here" in run.stderr.read()
    run.stderr.close()
    with pytest.raises(ProcessLookupError):
        os.kill(stage, 0)
    (workspace / "left.py").write_text("open('b.txt', 'w').write('b')\n")
    assert _run(workspace).returncode == 0
    assert (workspace / "d.txt").exists()


def test_the_time_left_is_known_only_for_the_same_parameters(workspace: Path) -> None:
    (workspace / "metrics").mkdir()
    for name, seconds in {"first": 60, "left": 600, "right": 30, "last": 120}.items():
        (workspace / "metrics" / f"{name}.json").write_text(json.dumps({"seconds": seconds}))
    stages = {name: {"cmd": "x"} for name in ("first", "right", "last")}
    locked = {"schema": "2.0", "stages": {**stages, "left": {"cmd": "x", "params": {"params.yaml": {"left": 1}}}}}
    (workspace / "dvc.lock").write_text(json.dumps(locked))
    listed = read_stages(workspace)
    clock = Clock(listed, last_seconds(workspace))
    assert headline(listed[0], clock) == "[1/4] first: The beginning (about 14 min left in all)"
    clock.seconds["first"] = 120  # half as fast as then
    assert clock.left() == pytest.approx(2 * 750)
    (workspace / "params.yaml").write_text("left: 2\n")
    assert Clock(listed, last_seconds(workspace)).left() is None


def test_durations_are_spoken() -> None:
    assert [spoken(seconds) for seconds in (0.2, 40, 840, 12000)] == ["1 s", "40 s", "14 min", "3 h 20 min"]


def test_three_lines_of_the_aligned_model_are_shown_and_a_broken_file_harms_nothing(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "generations.parquet"
    assert written_by_the_model(path) == []
    path.write_bytes(b"no parquet")
    assert written_by_the_model(path) == []
    pq.write_table(
        pa.table({"model": ["base", "aligned", "aligned"], "text": ["x\ny\nz", "one", "one\n\ntwo\nthree\nfour"]}), path
    )
    assert written_by_the_model(path) == ["one", "two", "three"]
