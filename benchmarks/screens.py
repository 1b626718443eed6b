"""What a reviewer opens, in a browser without a network: MLflow, Prefect, the report card, lineage and comparison.

The servers are those that a user starts, with what they refuse (`flows.review`, `flows.server`), over what a finished workspace holds. A page that misses
a file, complains in its console or does not show the words that it is opened for is told by name; the pictures are for the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.browser import Browser, opened
from benchmarks.chaos.services import Service, prefect_server
from benchmarks.commands import seconds_of
from components.configuration import load
from components.errors import InkwellError
from components.launch.processes import free_port
from components.step import STATE
from flows.processes import environment

ROOT = Path(__file__).parents[1]
_SECTIONS = (
    "Corpus",
    "Tokenizer",
    "Training",
    "Evaluation",
    "What they write",
    "Exports",
    "Lineage",
    "Use it",
)  # of the card
# MLflow's way to ask whether its server has accounts: without them it knows no such address, and its page goes on.
_NO_ACCOUNTS = ("/ajax-api/2.0/mlflow/users/current: status 404",)
_ASKED = 60.0  # seconds that a server may take for an answer
_KEPT_CHAMPION = 3  # flows.promote: judged, and the champion stays


@dataclass(frozen=True)
class Screen:
    """One page: the picture's name, where it is, what has to be on it, and what it may lack."""

    name: str
    address: str
    words: tuple[str, ...]
    expected: tuple[str, ...] = ()  # ends of what the page lacks by its nature, which is not counted


def measure(finished: Path, folder: Path, pictures: Path) -> dict[str, float]:
    """Open every page, write its picture into `pictures` and count pages opened and things missing; tells each by name."""
    finished = finished.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    found = {"screens_opened": 0.0, "screens_missing": 0.0}
    with ExitStack() as stack:
        tracked, pair = _of_mlflow(stack, finished, folder)
        screens = [*tracked, *_of_prefect(stack, finished, folder), *_of_pages(finished, folder, pair)]
        browser = stack.enter_context(opened(folder / "browser"))
        for screen in screens:
            missing = photograph(browser, screen, pictures)
            found["screens_opened"] += not missing
            found["screens_missing"] += len(missing)
            print(f"  {screen.name}: {'; '.join(missing) or 'whole'}", flush=True)
    return found


def photograph(browser: Browser, screen: Screen, pictures: Path) -> list[str]:
    """Open one page and keep its picture; what it misses beyond what was expected of it."""
    from components.atomic import atomic_file

    seen = browser.look(screen.address, screen.words)
    if seen.picture:
        with atomic_file(pictures / f"{screen.name}.png") as temporary:
            temporary.write_bytes(seen.picture)
    return [line for line in seen.missing if not line.endswith(screen.expected)]


def _of_mlflow(stack: ExitStack, finished: Path, folder: Path) -> tuple[list[Screen], list[str]]:
    """The list of runs, the curves of the training and the registered model; and two trainings to compare."""
    configuration = load(finished / "params.yaml")
    model = configuration.promotion.registered_model
    source = finished / STATE / "mlflow.db"
    if not source.exists():
        raise InkwellError(
            f"{finished} has no MLflow database ({source.name}): its pipeline has to run with tracking.enabled."
        )
    _run_once(["flows.promote", "--by", "benchmark"], finished, allowed=(0, _KEPT_CHAMPION))
    service, address = _review(finished, folder / "mlflow")
    stack.callback(service.stop)
    service.start()
    api = f"{address}/api/2.0/mlflow"
    named = _asked("GET", f"{api}/experiments/get-by-name", {"experiment_name": configuration.tracking.experiment})
    experiment = named["experiment"]["experiment_id"]
    runs = {}
    for name, chosen in {
        "pipeline": "tags.`inkwell.kind` = 'pipeline'",
        **{stage: f"tags.stage = '{stage}'" for stage in ("pretrain", "sft", "align")},
    }.items():
        asked = {"experiment_ids": [experiment], "filter": chosen, "max_results": 1}
        listed = _asked("POST", f"{api}/runs/search", asked).get("runs", [])
        if not listed:
            raise InkwellError(f"{finished} has no run of {name} in MLflow.")
        runs[name] = listed[0]["info"]
    run = runs["pretrain"]
    here = f"{address}/#/experiments/{experiment}"
    screens = {
        "mlflow-runs": (f"{here}/runs", (configuration.tracking.experiment, runs["pipeline"]["run_name"])),
        "mlflow-run": (f"{here}/runs/{run['run_id']}", (run["run_name"],)),
        "mlflow-curves": (f"{here}/runs/{run['run_id']}/model-metrics", (run["run_name"], "loss")),
        "mlflow-model": (f"{address}/#/models/{model}", (model, "champion")),
    }
    found = [Screen(name, place, words, _NO_ACCOUNTS) for name, (place, words) in screens.items()]
    return found, [runs["sft"]["run_id"], runs["align"]["run_id"]]


def _review(finished: Path, folder: Path) -> tuple[Service, str]:
    """`flows.review` of the workspace, with its log in `folder`; the service and MLflow's address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "flows.review", "--workspace", str(finished), "--port", str(port)]

    def ready() -> bool:
        try:
            return httpx.get(f"{address}/health", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    return Service("mlflow-review", folder, command, {**environment(), "PYTHONPATH": str(ROOT)}, ready), address


def _of_prefect(stack: ExitStack, finished: Path, folder: Path) -> list[Screen]:
    """A run of the pipeline with its graph, and its artifacts; the run is made here, over what is finished."""
    service, address = prefect_server(folder / "prefect-server")
    port = address.removesuffix("/api").rpartition(":")[2]
    service.command = [sys.executable, "-m", "flows.server", "--port", port]
    service.env["PYTHONPATH"] = str(ROOT)
    stack.callback(service.stop)
    service.start()
    _run_once(["flows.pipeline"], finished, env={"PREFECT_API_URL": address})
    runs = _asked("POST", f"{address}/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    run = runs[0]
    # The address that a user opens leads to its new pages; a path below it without /v2 would lead to its old ones.
    entrance = address.removesuffix("api")
    pages = f"{entrance}v2"
    return [
        Screen("prefect", entrance, ("Dashboard", "Flow Runs", " total")),
        Screen("prefect-runs", f"{pages}/runs", (run["name"],)),
        Screen("prefect-run", f"{pages}/runs/flow-run/{run['id']}", (run["name"], "nothing to do")),
        Screen("prefect-artifacts", f"{pages}/runs/flow-run/{run['id']}?tab=Artifacts", (run["name"], "report-card")),
        Screen("prefect-report", f"{pages}/artifacts/key/report-card", ("report-card",)),
    ]


def _of_pages(finished: Path, folder: Path, pair: Sequence[str]) -> list[Screen]:
    """Pages that need no server; `pair`: two runs of MLflow to compare."""
    card = finished / "reports" / "index.html"
    exported = sorted((finished / "models" / "export").glob("*.gguf"))
    if not card.exists() or not exported:
        raise InkwellError(
            f"{finished} is not finished: reports/index.html and a model in models/export have to be there."
        )
    lineage, compare = folder / "lineage.html", folder / "compare.html"
    _run_once(["flows.lineage", str(exported[0]), "--html", str(lineage)], finished)
    _run_once(["flows.compare", *pair, "--output", str(compare)], finished)
    return [
        Screen("report-card", card.as_uri(), _SECTIONS),
        Screen("lineage", lineage.as_uri(), (exported[0].name,)),
        Screen("compare", compare.as_uri(), tuple(identity[:8] for identity in pair)),
    ]


def _run_once(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, allowed: Sequence[int] = (0,)
) -> None:
    seconds_of([sys.executable, "-m", *command], folder, {**environment(), **(env or {})}, allowed)


def _asked(method: str, address: str, told: Mapping[str, Any]) -> Any:
    """The JSON that a server answers; InkwellError where it does not."""
    with httpx.Client(timeout=_ASKED, trust_env=False) as client:
        answer = client.get(address, params=dict(told)) if method == "GET" else client.post(address, json=dict(told))
    if answer.status_code != 200:
        raise InkwellError(f"{address} answers {answer.status_code}: {answer.text[:200]}")
    return answer.json()
