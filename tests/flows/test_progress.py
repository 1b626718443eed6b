"""Progress of a stage, from the lines of the real bar to a real Prefect artifact."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from components.progress import Bar
from flows.orchestration.progress import StageProgress, seen, where_to_look
from tests.loopback import listening


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
    class Tracking(BaseHTTPRequestHandler):
        def _answer(self, found: object) -> None:
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer({"experiment": {"experiment_id": "7"}})

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            assert "tags.`inkwell.pipeline` = 'abc'" in asked
            self._answer({"runs": [{"info": {"run_id": "r1"}}]})

    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "index.html").write_text("<p>")
    parameters = "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {uri: %s}\n"
    with listening(Tracking) as address:
        (tmp_path / "params.yaml").write_text(parameters % address)
        found = where_to_look(tmp_path, "abc")
        assert found["MLflow run"] == f"{address}/#/experiments/7/runs/r1"
        assert found["Report card"].endswith("reports/index.html")
    assert list(where_to_look(tmp_path, "abc")) == ["Report card"]  # the server is away
