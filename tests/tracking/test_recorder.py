"""Steps' records in a real MLflow: SQLite, a real server, and none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Configuration, parse
from components.step import Step
from components.tracking import Recorder
from components.tracking.delivery import Delivery, deliver_waiting
from components.tracking.spool import Record, waiting

ROOT = Path(__file__).parents[2]
STEP = Step(
    "pretrain", "Trains", "nowhere:run", {"tokens": "tokens.txt"}, {"model": "models/base"}, sections_read=["sampling"]
)
SPOOL = Path(".inkwell/spool")

SCRIPT = """
import sys, time
from pathlib import Path
from tests.tracking.test_recorder import STEP, configuration
from components.tracking import Recorder
recorder = Recorder.start(STEP, configuration(), {"tokens": Path("tokens.txt")})
recorder.metrics({"loss": 2.0}, 1)
print("told", flush=True)
time.sleep(120)
"""


def configuration(**tracking: object) -> Configuration:
    return parse({"ingest": {"sources": [{"name": "mine", "kind": "path", "location": "texts"}]}, "tracking": tracking})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace to stand in, and no pipeline around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INKWELL_PIPELINE", raising=False)
    monkeypatch.delenv("INKWELL_TRACKING", raising=False)
    Path("tokens.txt").write_text("one two three")
    return tmp_path


def _model(path: Path, weights: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text('{"hidden_size": 256, "model_type": "qwen3"}')
    (path / "model.safetensors").write_text(weights)
    return path


def _client(uri: str | None = None) -> tuple[Any, str]:
    from mlflow.tracking import MlflowClient

    where = uri or f"sqlite:///{Path('.inkwell/mlflow.db').absolute()}"
    client = MlflowClient(where, registry_uri=where)
    experiment = client.get_experiment_by_name("inkwell")
    return client, experiment.experiment_id if experiment else ""


def _runs(uri: str | None = None) -> list[Any]:
    client, experiment = _client(uri)
    return list(client.search_runs([experiment])) if experiment else []


def _run_step(status: str = "FINISHED", points: int = 3, **tracking: object) -> None:
    recorder = Recorder.start(STEP, configuration(**tracking), {"tokens": Path("tokens.txt")})
    for step in range(points):
        recorder.metrics({"loss": 3.0 - step, "odd(name)": step}, step)
    recorder.finish(status, {"val_bits_per_char": 1.5}, {})


def test_a_step_is_a_child_of_its_pipeline_with_all_it_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_PIPELINE", "a" * 32)
    base = _model(Path("models/base"), "weights")
    recorder = Recorder.start(STEP, configuration(), {"tokens": Path("tokens.txt")})
    recorder.metrics({"loss": 3.0, "odd(name)": float("nan")}, at=1)
    recorder.metrics({"loss": 2.0}, at=2)
    Path("picture.txt").write_text("a picture")
    recorder.artifact(Path("picture.txt"))
    recorder.finish("FINISHED", {"val_bits_per_char": 1.5}, {"model": base})
    sft = Step("sft", "Tunes", "nowhere:run", {"base": "models/base"}, {"model": "models/sft"})
    second = Recorder.start(sft, configuration(), {"base": base})
    second.finish("FINISHED", {}, {"model": _model(Path("models/sft"), "other weights")})

    client, experiment = _client()
    runs = {run.info.run_name.split()[0]: run for run in client.search_runs([experiment])}
    assert set(runs) == {"pipeline", "pretrain", "sft"}
    run = runs["pretrain"]
    assert run.info.status == runs["pipeline"].info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == runs["pipeline"].info.run_id
    assert run.data.tags["stage"] == "pretrain"
    assert run.data.params["pretrain.layers"] == str(configuration().pretrain.layers)
    assert run.data.params["sampling.top_k"] == str(configuration().sampling.top_k)
    assert "align.beta" not in run.data.params
    assert runs["pipeline"].data.params["align.beta"] == str(configuration().align.beta)
    assert runs["pipeline"].data.metrics["pretrain.val_bits_per_char"] == 1.5
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 3.0),
        (2, 2.0),
    ]
    assert "odd_name_" in run.data.metrics
    assert {(entry.dataset.name, entry.tags[0].value) for entry in run.inputs.dataset_inputs} >= {
        ("tokens.txt", "input")
    }
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["picture.txt"]
    models = {model.name: model for model in client.search_logged_models([experiment])}
    assert models["base"].params["hidden_size"] == "256"
    assert models["base"].source_run_id == run.info.run_id
    assert models["sft"].tags["inkwell.parent_models"] == models["base"].model_id
    assert [model.model_id for model in client.get_run(runs["sft"].info.run_id).inputs.model_inputs] == [
        models["base"].model_id
    ]
    assert not list(waiting(SPOOL))


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_outage_delays_little_and_a_later_step_delivers_once(capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{_closed_port()}"
    began = time.monotonic()
    _run_step(uri=uri)
    assert time.monotonic() - began < 15
    assert "waits in .inkwell/spool" in capsys.readouterr().err
    assert len(list(waiting(SPOOL))) == 1
    _run_step()
    _run_step()
    assert not list(waiting(SPOOL))
    runs = _runs()
    assert len(runs) == 3
    assert all(run.data.metrics["val_bits_per_char"] == 1.5 for run in runs)


def test_a_delivery_cut_short_at_any_point_is_finished_without_doubles() -> None:
    _run_step(uri=f"http://127.0.0.1:{_closed_port()}")
    record = next(waiting(SPOOL))
    here = {"uri": f"sqlite:///{Path('mlflow.db').absolute()}", "artifacts": Path("artifacts").absolute().as_uri()}
    for _ in range(3):  # each time as if the process had died before the record left the spool
        assert Delivery(record, {**record.entries()[0][0], **here}).advance()
    assert deliver_waiting(SPOOL, to=here) == (1, 0)
    client, _ = _client(here["uri"])
    (run,) = _runs(here["uri"])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2]
    assert len(run.inputs.dataset_inputs) == 1


def test_a_surplus_run_of_a_lost_answer_is_removed() -> None:
    _run_step(uri=f"http://127.0.0.1:{_closed_port()}")
    record = next(waiting(SPOOL))
    here = {"uri": f"sqlite:///{Path('mlflow.db').absolute()}", "artifacts": Path("artifacts").absolute().as_uri()}
    header = {**record.entries()[0][0], **here}
    Delivery(record, header).advance()
    client, experiment = _client(here["uri"])
    client.create_run(experiment, tags={"inkwell.record": header["id"]})
    assert len(_runs(here["uri"])) == 2
    Delivery(record, header).advance()
    (run,) = _runs(here["uri"])
    assert run.info.status == "FINISHED"


@pytest.fixture
def server(folder: Path) -> tuple[int, list[str]]:
    """A free port and the command of an MLflow server on it."""
    port = _closed_port()
    (folder / "server").mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server' / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "server" / "artifacts")]
    return port, command


def test_what_a_server_missed_is_delivered_when_it_is_back(server: tuple[int, list[str]], folder: Path) -> None:
    from components.tracking.delivery import _prepare_database

    port, command = server
    uri = f"http://127.0.0.1:{port}"
    _run_step(uri=uri)
    _prepare_database(folder / "server" / "mlflow.db")
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONPATH": str(ROOT)}
    with (folder / "server.log").open("wb") as log:
        started = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 90
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.3)
            deliver = [sys.executable, "-m", "components.tracking"]
            done = subprocess.run(deliver, env=env, capture_output=True, text=True, timeout=90)
            assert done.stdout == "1 records delivered, 0 left.\n"
            (run,) = _runs(uri)
            assert run.data.metrics["val_bits_per_char"] == 1.5
            assert subprocess.run(deliver, env=env, capture_output=True, text=True, timeout=90).stdout.startswith(
                "0 records"
            )
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def test_a_step_that_is_killed_is_told_as_killed_and_its_curve_is_kept() -> None:
    step = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert step.stdout is not None
    assert step.stdout.readline() == b"told\n"
    step.kill()
    step.wait()
    step.stdout.close()
    deadline = time.monotonic() + 60
    while list(waiting(SPOOL)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (run,) = _runs()
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 2.0}


def test_the_machines_load_curves_and_samples_stand_with_the_run() -> None:
    """The delivery itself beside a step that is this process, looking at the machine as often as a test can wait for."""
    written = {"curve": Path("c.csv"), "samples": Path("s.jsonl"), "docs": Path("docs")}
    outputs = {name: str(path) for name, path in written.items()}
    step = Step("pretrain", "Trains", "nowhere:run", {"tokens": "tokens.txt"}, outputs)
    Path("docs").mkdir()
    for name in ("profile.json", "other.json"):
        Path("docs", name).write_text("{}")
    Path("c.csv").write_text("step,loss\n1,2.0\n")
    Path("s.jsonl").write_text('{"step": 1, "texts": ["spring"]}\n')

    class Quick(Recorder):
        """Its load is measured five times a second."""

        def _send(self) -> None:
            assert self.record is not None
            code = "import os, sys; from pathlib import Path; from components.tracking import delivery; delivery.follow(Path(sys.argv[1]), os.getppid(), 0.5, 0.2)"
            self._courier = subprocess.Popen(
                [sys.executable, "-c", code, str(self.record.folder)], env={**os.environ, "PYTHONPATH": str(ROOT)}
            )

    recorder = Quick.start(step, configuration(), {"tokens": Path("tokens.txt")})
    assert recorder.record is not None
    lines = recorder.record.folder / "record.jsonl"
    deadline = time.monotonic() + 60
    while lines.read_text().count("system/cpu_utilization_percentage") < 2:
        recorder.metrics({"loss": 2.0}, 1)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    recorder.finish("FINISHED", {}, written)
    client, _ = _client()
    (run,) = _runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    points = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert [point.step for point in points][:2] == [0, 1]
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["c.csv", "profile.json", "s.jsonl"]


def test_a_broken_record_does_not_hold_back_the_next() -> None:
    _run_step(uri=f"http://127.0.0.1:{_closed_port()}")
    broken = Record.create(SPOOL, {"kind": "step", "stage": "pretrain"})  # it names no experiment
    broken.append({"kind": "finish", "at": 1, "status": "FINISHED", "values": {}})
    older = SPOOL / f"0{broken.folder.name}"
    broken.folder.rename(older)
    here = {"uri": f"sqlite:///{Path('mlflow.db').absolute()}", "artifacts": Path("artifacts").absolute().as_uri()}
    assert deliver_waiting(SPOOL, to=here) == (1, 1)
    assert "KeyError" in (older / "delivery.log").read_text()


def test_half_a_line_is_left_out_and_the_rest_delivered() -> None:
    record = Record.create(SPOOL, {"kind": "step"})
    record.append({"kind": "metrics", "values": {"loss": 1.0}})
    with (record.folder / "record.jsonl").open("a") as handle:
        handle.write('{"kind": "metr')
    assert [entry["kind"] for entry in record.entries()[0]] == ["step", "metrics"]
    record.close_torn_line()
    record.append({"kind": "finish"})
    assert [entry["kind"] for entry in record.entries()[0]] == ["step", "metrics", "finish"]


def test_switched_off_it_writes_nothing() -> None:
    _run_step(enabled=False)
    assert not Path(".inkwell").exists()


def test_a_spool_that_cannot_be_written_does_not_stop_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".inkwell").write_text("a file where a folder should be")
    _run_step()
    assert capsys.readouterr().err.count("the step goes on") == 1


def test_a_step_imports_no_mlflow() -> None:
    code = "import sys; from components.tracking import Recorder; import components.tracking.ancestors; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
