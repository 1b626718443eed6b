"""The Prefect flow over a real DVC graph."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.errors import InkwellError
from flows.orchestration.graph import read_changes, read_stages
from flows.pipeline import main, plan
from flows.placement.workspace import Workspace
from flows.processes import environment
from tests.processes import ROOT, alive_in


def _states(workspace: Path, **options: object) -> dict[str, str]:
    from flows.orchestration.running import run_pipeline

    return {outcome.stage: outcome.state for outcome in run_pipeline(workspace, **options)}  # type: ignore[arg-type]


def test_stages_come_in_an_order_in_which_they_can_run(workspace: Path) -> None:
    stages = read_stages(workspace)
    assert [stage.name for stage in stages] == ["first", "left", "right", "last"]
    assert stages[3].upstream == ("left", "right")
    assert stages[0].timeout_minutes == 5
    assert [stage.name for stage in read_stages(workspace, ["left"])] == ["first", "left"]


def test_everything_runs_once_and_then_nothing(workspace: Path, prefect_server: None) -> None:
    assert set(_states(workspace).values()) == {"ran"}
    assert (workspace / "d.txt").read_text() == "in!inin"
    assert set(_states(workspace).values()) == {"unchanged"}
    (workspace / "params.yaml").write_text("left: 2\n")
    # b.txt comes out as it was, so DVC leaves `last` alone.
    assert _states(workspace) == {"first": "unchanged", "left": "ran", "right": "unchanged", "last": "unchanged"}


def test_a_failure_skips_what_needs_it_and_nothing_else(workspace: Path, prefect_server: None) -> None:
    (workspace / "left.py").write_text("import sys; sys.exit('left: no such poem.')\n")
    from flows.orchestration.running import run_pipeline

    outcomes = {outcome.stage: outcome for outcome in run_pipeline(workspace)}
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "first": "ran",
        "left": "failed",
        "right": "ran",
        "last": "skipped",
    }
    assert "status" in outcomes["left"].note
    (workspace / "left.py").write_text("open('b.txt', 'w').write('mended')\n")
    assert _states(workspace) == {"first": "unchanged", "left": "ran", "right": "unchanged", "last": "ran"}


def test_a_stage_that_fails_is_told_in_its_own_sentence(workspace: Path, prefect_server: None) -> None:
    from prefect.settings import PREFECT_API_URL

    (workspace / "left.py").write_text("import sys; sys.exit('left: no such poem.')\n")
    env = {**environment(), "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.pipeline"]
    done = subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^left +failed .+ left ended with status \d+: left: no such poem\.$", done.stdout, re.MULTILINE)
    assert "StageError" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_defect_keeps_its_traceback() -> None:
    from flows.orchestration.running import StageError
    from flows.orchestration.sentences import told_in_sentences

    told_in_sentences(StageError)
    told_in_sentences(StageError)
    logger = logging.getLogger("prefect.task_runs")
    for error, kept in ((StageError("no such poem"), False), (KeyError("poem"), True)):
        record = logger.makeRecord(
            logger.name, logging.ERROR, __file__, 1, "failed: %r", (error,), (type(error), error, None)
        )
        assert logger.filter(record)
        assert bool(record.exc_info) == kept
        assert repr(error) in record.getMessage()


def test_the_run_shows_logs_and_artifacts(workspace: Path, prefect_server: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    _states(workspace)
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts() if artifact.flow_run_id == run.id}
        assert set(artifacts) == {"stages", "report-card"}
        assert '"outcome": "ran"' in str(artifacts["stages"].data)
        deadline = time.monotonic() + 20  # logs are sent in batches
        while not any("first says hello" in log.message for log in client.read_logs(limit=200)):
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_stage_that_takes_too_long_is_ended(workspace: Path, prefect_server: None) -> None:
    text = (workspace / "dvc.yaml").read_text().replace("timeout_minutes: 5", "timeout_minutes: 0.1")
    (workspace / "dvc.yaml").write_text(text.replace("print('first says hello')", "import time; time.sleep(300)"))
    states = _states(workspace)
    assert states == {"first": "failed", "left": "skipped", "right": "skipped", "last": "skipped"}
    assert not alive_in(workspace)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_flow_leaves_no_process_behind(workspace: Path, prefect_server: None, number: signal.Signals) -> None:
    from prefect.settings import PREFECT_API_URL

    (workspace / "left.py").write_text("import time; time.sleep(300)\n")
    env = {**environment(), "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(ROOT)}
    flow = subprocess.Popen([sys.executable, "-m", "flows.pipeline"], cwd=workspace, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not any("left.py" in " ".join(command) for command in alive_in(workspace)):
            assert time.monotonic() < deadline
            assert flow.poll() is None
            time.sleep(0.2)
        flow.send_signal(number)
        assert flow.wait(40) == (130 if number == signal.SIGTERM else -number)
        deadline = time.monotonic() + 15
        while alive_in(workspace) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not alive_in(workspace)
    finally:
        if flow.poll() is None:
            os.killpg(flow.pid, signal.SIGKILL)
            flow.wait()


def test_without_a_server_one_is_started_that_dies_with_the_flow_and_gives_its_slots_back(
    workspace: Path, tmp_path: Path
) -> None:
    text = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(
        text.replace("deps: [a.txt, left.py]", "deps: [a.txt, left.py]\n    meta: {concurrency: one-at-a-time}")
    )
    (workspace / "left.py").write_text("import time; time.sleep(300)\n")
    env = {**environment(), "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    env = {
        name: value for name, value in env.items() if not name.startswith(("PREFECT_API_", "PREFECT_SERVER_DATABASE"))
    }
    # The shortest lease that Prefect allows; the command is the user's otherwise.
    shorter = "import sys; from flows.orchestration import running; running._LEASE_SECONDS = 60.0; from flows.pipeline import main; sys.exit(main())"
    command = [sys.executable, "-c", f"from flows.pipeline import set_environment; set_environment(); {shorter}"]
    flow = subprocess.Popen(command, cwd=workspace, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while not any("left.py" in " ".join(line) for line in alive_in(workspace)):
            assert time.monotonic() < deadline
            assert flow.poll() is None
            time.sleep(0.2)
        assert any("flows.server" in line for line in alive_in(workspace))
    finally:
        flow.kill()
        flow.wait()
    deadline = time.monotonic() + 15
    while alive_in(workspace) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive_in(workspace)
    (workspace / "left.py").write_text("open('b.txt', 'w').write('b')\n")
    done = subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "waiting for a slot of one-at-a-time" in done.stderr
    assert (workspace / "d.txt").exists()
    assert not alive_in(workspace)


def test_a_server_that_is_named_and_does_not_answer_is_told_in_one_sentence(workspace: Path) -> None:
    env = {**environment(), "PREFECT_API_URL": "http://127.0.0.1:9/api", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.pipeline"]
    done = subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "Prefect's server at http://127.0.0.1:9/api does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workspace / "a.txt").exists()


def test_stages_without_changes_are_known_beforehand_unless_another_dvc_works(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dvc.repo import Repo

    placement = Workspace(workspace)
    stages = read_stages(workspace)
    assert placement.settled(stages) == set()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=workspace, env=environment(), check=True)
    assert placement.settled(stages) == {"first", "left", "right", "last"}
    (workspace / "params.yaml").write_text("left: 2\n")
    assert placement.settled(stages) == {"first", "right"}  # what comes after a change may change
    (workspace / "c.txt").unlink()
    assert placement.settled(stages) == {"first"}
    assert placement.settled(read_stages(workspace, downstream=["last"])) == set()
    with Repo(str(workspace)) as other, other.lock:
        assert placement.settled(stages) == set()
        with pytest.raises(InkwellError, match="another `dvc` is at work"):
            read_changes(workspace)
        assert main(["--plan", "--workspace", str(workspace)]) == 2
    assert "another `dvc` is at work" in capsys.readouterr().err


def test_a_plan_imports_no_more_than_dvc(workspace: Path) -> None:
    script = (
        "import sys; from flows.pipeline import main; main(['--plan']);"
        "print(*(name for name in ('prefect', 'mlflow', 'torch', 'pandas', 'pyarrow', 'pydantic') if name in sys.modules))"
    )
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=workspace, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""


def test_the_plan_names_what_would_run_and_runs_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "--workspace", str(workspace)]) == 0
    assert capsys.readouterr().out.count("run: ") == 4
    assert not (workspace / "a.txt").exists()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=workspace, env=environment(), check=True)
    assert not any(why for _, why in plan(workspace, [], False))
    (workspace / "params.yaml").write_text("left: 2\n")
    planned = dict(plan(workspace, [], False))
    assert planned["left"] == "left modified"
    assert planned["last"] == "after left"
    assert not planned["first"]
    assert not planned["right"]
    assert dict(plan(workspace, ["left"], True)) == {"first": "forced", "left": "forced"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--single-item"], "walks the graph"),
        (["--dry"], "--plan"),
        (["--keep-going"], "decides itself"),
        (["--colour"], "unknown argument"),
        (["--targets", "nowhere"], "known are first, left, right, last"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_end_in_one_sentence(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*arguments, "--workspace", str(workspace)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workspace", str(tmp_path)]) == 2
    assert "flows.workspace" in capsys.readouterr().err


def test_downstream_names_a_stage_and_what_needs_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [stage.name for stage in read_stages(workspace, downstream=["left"])] == ["left", "last"]
    assert [stage.name for stage in read_stages(workspace, ["right"], ["first"])] == ["first", "right"]
    assert main(["--plan", "--downstream", "left", "--workspace", str(workspace)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["left", "last"]
    assert main(["--plan", "--targets", "right", "--downstream", "left", "--workspace", str(workspace)]) == 2
    assert "nothing of right comes after left" in capsys.readouterr().err


def test_hints_of_a_stage_are_read_and_checked(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (workspace / "dvc.yaml").read_text()
    hints = "{timeout_minutes: 5, retries: 2, concurrency: training, pool: gpu, owner: us}"
    (workspace / "dvc.yaml").write_text(text.replace("{timeout_minutes: 5}", hints))
    first = read_stages(workspace)[0]
    assert (first.retries, first.timeout_minutes, first.concurrency, first.pool) == (2, 5, "training", "gpu")
    (workspace / "dvc.yaml").write_text(text.replace("{timeout_minutes: 5}", "{retries: often}"))
    assert main(["--plan", "--workspace", str(workspace)]) == 2
    assert "meta.retries of stage first is 'often' and has to be a whole number" in capsys.readouterr().err


def test_stages_with_one_concurrency_key_do_not_run_at_the_same_time(workspace: Path, prefect_server: None) -> None:
    log = "import time; log = open('log', 'a'); log.write('+'); log.flush(); time.sleep(1); log.write('-')"
    text = (workspace / "dvc.yaml").read_text()
    text = text.replace("deps: [a.txt, left.py]", "deps: [a.txt, left.py]\n    meta: {concurrency: one-at-a-time}")
    text = text.replace("    outs: [c.txt]", "    outs: [c.txt]\n    meta: {concurrency: one-at-a-time}")
    text = text.replace("""python -c "open('c.txt\'""", """python right.py; python -c "open('c.txt\'""")
    (workspace / "dvc.yaml").write_text(text)
    (workspace / "left.py").write_text(f"{log}\nopen('b.txt', 'w').write('b')\n")
    (workspace / "right.py").write_text(log)
    assert set(_states(workspace).values()) == {"ran"}
    assert (workspace / "log").read_text() == "+-+-"
