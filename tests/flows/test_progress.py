"""Progress of a stage, from the lines of the real bar to a real Prefect artifact."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.chaos.services import Service, mlflow_server
from benchmarks.chaos.services import prefect_server as prefect_server_of_chaos
from components.progress import Bar
from components.step import content_hash
from flows.orchestration.links import REPORT, RUN, Links, page_of, where_to_look
from flows.orchestration.progress import StageProgress, seen

PASSWORD = "planted-b81d40c6e2"


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
        assert progress.sent(60)
        progress._told = 0.0
        progress.line("  train:  50%, 1:00 left, loss 3.000")
        progress.line("  train:  51%, 0:59 left, loss 2.990")  # too soon for another request
        assert progress.sent(60)
        told.append(progress)

    told: list[StageProgress] = []
    training()
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == "progress-tiny-train"]
        assert [artifact.type for artifact in found] == ["progress"]
        assert found[0].data == 50
        assert found[0].description == "train, 1:00 left, loss 3.000"
    told[0].end("tiny_train: ran", stands=True)
    assert told[0].sent(60)
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == "progress-tiny-train"]
        assert found[0].data == 100
        assert found[0].description == "tiny_train: ran, loss 2.990"


@pytest.mark.timeout(600)
def test_a_server_that_is_away_holds_no_stage_up_and_hears_the_latest_when_it_is_back(tmp_path: Path) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    service, address = prefect_server_of_chaos(tmp_path / "server")

    @flow
    def training() -> tuple[float, float]:
        progress = StageProgress("away")
        progress.line("  train:  10%, 1:30 left, loss 4.000")
        assert progress.sent(60)
        service.kill()
        began = time.monotonic()
        for percent in range(30):
            progress._told = 0.0  # each line would be told by itself
            progress.line(f"  train:  {percent}%, 1:00 left, loss 3.000")
        lines = time.monotonic() - began
        progress.end("away: ran", stands=True)
        ended = time.monotonic() - began - lines
        service.start()
        progress.line("  train: 100% in 2:00, loss 2.000")
        assert progress.sent(180)  # Prefect's client is in the middle of its minute
        return lines, ended

    service.start()
    try:
        with temporary_settings({PREFECT_API_URL: address}):
            lines, ended = training()
            with get_client(sync_client=True) as client:
                [found] = [artifact for artifact in client.read_artifacts() if artifact.key == "progress-away"]
    finally:
        service.stop()
    assert lines < 5
    assert ended < 10
    assert (found.data, found.description) == (100, "train, loss 2.000")


@dataclass(frozen=True)
class Tracked:
    """A team's MLflow server, which asks for a login, with a pipeline `abc` whose report step kept its page."""

    service: Service
    address: str
    workspace: Path
    experiment: str
    pipeline: str  # ids of runs
    report: str


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("tracked")
    workspace = folder / "workspace"
    (workspace / "reports").mkdir(parents=True)
    page = workspace / "reports" / "index.html"
    page.write_text("<p>")
    service, address = mlflow_server(
        folder / "server", f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
    )
    service.command += ["--app-name", "basic-auth"]
    service.env |= {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key"}
    parameters = "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {uri: %s, experiment: ours}\n"
    (workspace / "params.yaml").write_text(parameters % address)
    service.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            assert "it answered 401 (MLFLOW_TRACKING_USERNAME" in where_to_look(workspace, "abc").lacking
            log_in(patch)
            assert where_to_look(workspace, "abc").lacking.endswith("it answered 404.")  # no such experiment yet
            client = MlflowClient(address)
            experiment = client.create_experiment("ours")
            runs = {}
            for pipeline in ("another", "abc"):
                for kind in ("pipeline", "step"):
                    tags = {"inkwell.kind": kind, "inkwell.pipeline": pipeline}
                    run = client.create_run(experiment, tags=tags, run_name=f"{kind} {pipeline}")
                    runs[pipeline, kind] = run.info.run_id
            report = runs["abc", "step"]
            client.set_tag(report, "inkwell.output.reports/index.html", content_hash(page)[:32])
            client.log_artifact(report, str(page))
        yield Tracked(service, address, workspace, experiment, runs["abc", "pipeline"], report)
    finally:
        service.stop()


def log_in(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def test_progress_carries_links_to_mlflow(
    tracked: Tracked, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    log_in(monkeypatch)
    links = Links(tracked.workspace, "abc")
    assert links.known() == {}  # nobody waits
    deadline = time.monotonic() + 90
    while RUN not in links.known():
        assert time.monotonic() < deadline
        time.sleep(0.1)

    @flow
    def training() -> None:
        progress = StageProgress("linked", links)
        progress.line("  train:  25%, 1:30 left, loss 4.000")
        assert progress.sent(60)

    training()
    with get_client(sync_client=True) as client:
        [found] = [artifact for artifact in client.read_artifacts() if artifact.key == "progress-linked"]
    runs = f"{tracked.address}/#/experiments/{tracked.experiment}/runs"
    assert found.description == (
        f"train, 1:30 left, loss 4.000 · [MLflow run]({runs}/{tracked.pipeline}) · "
        f"[the last report card]({runs}/{tracked.report}/artifacts/index.html)"
    )


def test_the_end_links_the_run_and_the_report_in_mlflow(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log_in(monkeypatch)
    runs = f"/#/experiments/{tracked.experiment}/runs"
    found = where_to_look(tracked.workspace, "abc")
    assert found.lacking == ""
    assert found.pages == {
        RUN: f"{tracked.address}{runs}/{tracked.pipeline}",
        REPORT: f"{tracked.address}{runs}/{tracked.report}/artifacts/index.html",
    }
    shown = page_of(tracked.workspace, tracked.pipeline, "promotion.html")
    assert shown == f"{found.pages[RUN]}/artifacts/promotion.html"
    unknown = where_to_look(tracked.workspace, "nobody")
    assert (list(unknown.pages), unknown.lacking) == ([REPORT], "MLflow's server does not know this run yet.")

    monkeypatch.setenv("INKWELL_MLFLOW_PAGE", "http://127.0.0.1:5999/")  # where a browser finds it
    assert where_to_look(tracked.workspace, "abc").pages[RUN] == f"http://127.0.0.1:5999{runs}/{tracked.pipeline}"

    # a report of other bytes was kept by no run
    shutil.copytree(tracked.workspace, tmp_path / "other")
    (tmp_path / "other" / "reports" / "index.html").write_text("<p>other")
    assert list(where_to_look(tmp_path / "other", "abc").pages) == [RUN]

    (tmp_path / "other" / "params.yaml").write_text("ingest: {sources: [{name: a, kind: path, location: a}]}\n")
    local = where_to_look(tmp_path / "other", "abc")
    assert local.pages == {}
    assert "`tracking.uri` names no server" in local.lacking


def test_a_server_that_is_away_is_told_without_its_login(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last of all: it stops the server."""
    log_in(monkeypatch)
    tracked.service.stop()
    found = where_to_look(tracked.workspace, "abc")
    assert found.pages == {}
    assert found.lacking == "MLflow's server did not name the run: ConnectError."
    assert page_of(tracked.workspace, tracked.pipeline) is None
