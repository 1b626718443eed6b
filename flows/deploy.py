"""Bring deployments, work pool, limits and automations to a Prefect server; again changes only what differs.

    python -m flows.deploy                       the pool `inkwell`, whose worker runs on this machine
    python -m flows.deploy --pool kubernetes     the pool whose base job template is infra/pools/kubernetes.json

Then start a worker: `prefect worker start --pool inkwell`. PREFECT_API_URL says where the server is.
Exit status: 0 done, 2 something to mend.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

    from components.configuration import Notifications

ROOT = Path(__file__).resolve().parents[1]
POOL = "inkwell"
_FLOWS = ("inkwell-pipeline", "inkwell-retrain", "inkwell-promote")
_TRAINING = "inkwell-training"  # one stage that fills the machine at a time, over all runs
_SILENCE = timedelta(seconds=120)  # four heartbeats


def deploy(workspace: Path, pool: str = POOL) -> list[str]:
    """Create or refresh everything; what was done, in sentences.

    Raises InkwellError when no server answers, the pool's template lacks, or Prefect refuses.
    """
    from flows.pipeline import set_environment

    set_environment()
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if not address:
        raise InkwellError(
            "PREFECT_API_URL names no server: start one (`prefect server start --host 127.0.0.1`) and export PREFECT_API_URL=http://127.0.0.1:4200/api."
        )
    notifications = _notifications(workspace)
    with get_client(sync_client=True) as client:
        try:
            unwell = client.api_healthcheck()
        except Exception as error:  # what the transport raises is not one family
            unwell = error
        if unwell is not None:
            raise InkwellError(f"no Prefect server answers at {_public(address)}: start it, or mend PREFECT_API_URL.")
        said = [_pool(client, pool, workspace), _limits(client, workspace)]
        _deployments(workspace, pool)
        said.append("deployments: pipeline, retrain (schedule paused), promote, notify")
        said += _automations(client, notifications)
    return said


def _notifications(workspace: Path) -> Notifications:
    from components.configuration import load

    return load(workspace / "params.yaml").notifications


def _public(address: str) -> str:
    from flows.promotion.registry import _public as without_login

    return without_login(address)


def _pool(client: SyncPrefectClient, name: str, workspace: Path) -> str:
    """A pool of processes, or of what infra/pools/<name>.json describes; an existing one keeps what was set by hand."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        found = client.read_work_pool(name)
        return f"pool {name}: there already ({found.type})"
    except ObjectNotFound:
        pass
    kind, template = "process", None
    if name != POOL:
        path = workspace / "infra" / "pools" / f"{name}.json"
        if not path.exists():
            path = ROOT / "infra" / "pools" / f"{name}.json"
        if not path.exists():
            raise InkwellError(
                f"there is no pool {name!r} and no infra/pools/{name}.json to make it from: take {POOL}, or write its base job template."
            )
        try:
            template = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InkwellError(
                f"{path} is no JSON ({error}): `prefect work-pool get-default-base-job-template` shows one."
            ) from error
        kind = next((one for one in ("kubernetes", "docker", "process") if one in name), "docker")
    else:
        from prefect.workers.process import ProcessWorker

        template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
    except ObjectAlreadyExists:  # another deploy was faster
        return f"pool {name}: there already ({kind})"
    return f"pool {name}: made ({kind})"


def _limits(client: SyncPrefectClient, workspace: Path) -> str:
    """A global limit of one for training and for each `meta.concurrency` of dvc.yaml; a limit that was changed by hand stays."""
    import yaml
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    described = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    keys = {str(stage.get("meta", {}).get("concurrency")) for stage in described.values()} - {"None"}
    made = []
    for name in sorted({_TRAINING, *keys}):
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            made.append(name)
    return f"limits: {', '.join(sorted({_TRAINING, *keys}))}" + (f" (made: {', '.join(made)})" if made else "")


def _deployments(workspace: Path, pool: str) -> None:
    from flows.processes import environment

    source = ROOT / "prefect.yaml"
    home = workspace.resolve()
    variables = {"INKWELL_HOME": os.environ.get("INKWELL_HOME") or str(home), "INKWELL_POOL": pool}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(source)]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment(), **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = [line.strip(" │╭╮╰╯─") for line in (done.stderr or done.stdout).splitlines()]
        raise InkwellError(f"`prefect deploy` refused: {' '.join(line for line in last if line)[-300:]}.")


def automations(notifications: Notifications, notify: Any, channels: Sequence[Any]) -> list[AutomationCore]:
    """What happens for runs that die silently, run late or fail. notify: the deployment's id; channels: further actions."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState, RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    ours = {"prefect.resource.role": "flow", "prefect.resource.name": list(_FLOWS)}
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    heartbeat = "prefect.flow-run.heartbeat"

    def tell(what: str) -> list[Any]:
        text = "{{ flow.name }}, run {{ flow_run.name }}: " + what
        by_worker = bool(notifications.slack or notifications.webhook or notifications.smtp)
        called = RunDeployment(
            source="selected",
            deployment_id=notify,
            parameters={"text": {"__prefect_kind": "jinja", "template": text}, "event": "failed"},
        )
        return [*([called] if by_worker else []), *channels]

    def reactive(name: str, description: str, states: set[str], what: str) -> AutomationCore:
        from prefect.events.actions import DoNothing

        trigger = EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in states},
            match=runs,
            match_related=ours,
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        )
        return AutomationCore(
            name=name, description=description, tags=["inkwell"], trigger=trigger, actions=tell(what) or [DoNothing()]
        )

    silent = AutomationCore(
        name="inkwell-silent",
        description="A run whose heartbeat stopped has crashed: its machine or process is gone",
        tags=["inkwell"],
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *ended},
            match=runs,
            match_related=ours,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process or machine is gone")],
    )
    return [
        silent,
        reactive("inkwell-failing", "A run failed or crashed", {"Failed", "Crashed"}, "{{ flow_run.state.name }}. {{ flow_run.state.message }}"),
        reactive("inkwell-late", "A run has not begun in time: is a worker there?", {"Late"}, "it has not begun in time; is a worker there?"),
    ]  # fmt: skip


def _automations(client: SyncPrefectClient, notifications: Notifications) -> list[str]:
    notify = client.read_deployment_by_name("inkwell-notify/notify").id
    said = []
    for wanted in automations(notifications, notify, []):
        known = client.read_automations_by_name(wanted.name)
        if not known:
            client.create_automation(wanted)
            said.append(f"automation {wanted.name}: made")
            continue
        # switched off by hand stays off
        wanted.enabled = known[0].enabled
        client.update_automation(known[0].id, wanted)
        for surplus in known[1:]:
            client.delete_automation(surplus.id)
        said.append(f"automation {wanted.name}: as it should be")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument("--pool", default=POOL, help="work pool, made where there is none (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        for line in deploy(arguments.workspace, arguments.pool):
            print(line)
    except InkwellError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 2
    print(f"Now start a worker: prefect worker start --pool {arguments.pool}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
