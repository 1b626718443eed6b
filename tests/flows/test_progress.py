"""Progress of a stage, from the lines of the real bar to a real Prefect artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.services import mlflow_server
from components.progress import Bar
from flows.orchestration.progress import StageProgress, seen, where_to_look


def test_the_lines_of_a_bar_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("pretrain: stage two", 200)
    bar._measured_from = (bar.started - 10, 0.0)
    bar.done, bar.note = 68, "loss 3.210, 2,000 tokens/s"
    bar._draw(bar.started)
    bar.done = 200
    bar._draw(bar.started)
    first, last = (seen(line) for line in capsys.readouterr().err.splitlines())
    assert first is not None
    assert (first.label, first.percent, first.left) == ("pretrain: stage two", 34, "0:19")
    assert first.note == "loss 3.210, 2,000 tokens/s"
    assert last is not None
    assert (last.percent, last.left) == (100, "")


@pytest.mark.parametrize(
    "line",
    ["", "  2,905 of 3,000 documents kept", "Updating lock file 'dvc.lock'", "  reading: 12 in 0:10", "share: 120%"],
)
def test_other_lines_are_left_alone(line: str) -> None:
    assert seen(line) is None


def test_a_stage_shows_percent_time_and_loss_in_prefect(prefect_server: None) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow
    def training() -> None:
        progress = StageProgress("tiny_train")
        progress.line("  train:  25%, 1:30 left, loss 4.000")
        progress._told = 0.0
        progress.line("  train:  50%, 1:00 left, loss 3.000")
        progress.line("  train:  51%, 0:59 left, loss 2.990")  # too soon for another request
        told.append(progress)

    told: list[StageProgress] = []
    training()
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == "progress-tiny-train"]
        assert [artifact.type for artifact in found] == ["progress"]
        assert found[0].data == 50
        assert found[0].description == "train, 1:00 left, loss 3.000"
    told[0].end("tiny_train: ran", stands=True)
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == "progress-tiny-train"]
        assert found[0].data == 100
        assert found[0].description == "tiny_train: ran, loss 2.990"


def test_the_end_links_the_run_in_mlflow_and_the_report(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "index.html").write_text("<p>")
    (tmp_path / "artifacts").mkdir()
    parameters = "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {uri: %s, experiment: ours}\n"
    service, address = mlflow_server(
        tmp_path / "server", f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "artifacts").as_uri()
    )
    service.start()
    try:
        client = MlflowClient(address)
        (tmp_path / "params.yaml").write_text(parameters % address)
        assert list(where_to_look(tmp_path, "abc")) == ["Report card"]  # no such experiment yet
        experiment = client.create_experiment("ours")
        for pipeline in ("another", "abc"):
            for kind in ("pipeline", "step"):
                tags = {"inkwell.kind": kind, "inkwell.pipeline": pipeline}
                run = client.create_run(experiment, tags=tags, run_name=f"{kind} {pipeline}")
                if (pipeline, kind) == ("abc", "pipeline"):
                    wanted = run.info.run_id
        found = where_to_look(tmp_path, "abc")
        assert found["MLflow run"] == f"{address}/#/experiments/{experiment}/runs/{wanted}"
        assert found["Report card"].endswith("reports/index.html")
        assert "MLflow run" not in where_to_look(tmp_path, "nobody")
    finally:
        service.stop()
    assert list(where_to_look(tmp_path, "abc")) == ["Report card"]  # the server is away
