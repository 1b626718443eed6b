"""Bring deployments, work pool, limits and automations to a Prefect server; again changes only what differs.

    python -m flows.deploy                               the pool `inkwell`, of processes where its worker runs
    python -m flows.deploy --pool inkwell-kubernetes     a pool of jobs, made from infra/pools/kubernetes.json
    python -m flows.deploy --pool night --type docker    a pool of any name
    python -m flows.deploy --pool inkwell-gpu --suffix gpu    deployments beside the others: pipeline-gpu, ...

Then start a worker: `prefect worker start --pool inkwell`. PREFECT_API_URL says where the server is.
Exit status: 0 done, 2 something to mend.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ROOT = Path(__file__).resolve().parents[1]
POOL = "inkwell"
# Where the workspace lies in a container of ours: INKWELL_WORKSPACE of infra/docker/Dockerfile.
CONTAINER_HOME = "/work/inkwell"
_PATIENCE = 300.0  # seconds for `prefect deploy`, which takes ten
# In a pool's template: a variable of a run that a Secret block on the server holds
_SECRET = re.compile(r"^\{\{ *prefect\.blocks\.secret\.([a-z0-9-]+) *\}\}$")


def deploy(workspace: Path, pool: str = POOL, kind: str | None = None, suffix: str = "") -> list[str]:
    """Create or refresh everything; what was done, in sentences. `kind`: "process", "docker" or "kubernetes".

    With a `suffix` the deployments are others beside those without it: one server, several pools. Raises InkwellError when no server
    answers, a pool's template lacks, or Prefect refuses.
    """
    from flows.pipeline import set_environment

    set_environment()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from components.configuration import load
    from components.fetching.locations import public
    from flows.automations import automations, deployed, keep_addresses, keep_automations

    address = PREFECT_API_URL.value()
    if not address:
        raise InkwellError(
            "PREFECT_API_URL names no server: start one (`python -m flows.server`) and export PREFECT_API_URL=http://127.0.0.1:4200/api."
        )
    notifications = load(workspace / "params.yaml").notifications
    limits = concurrency_keys(workspace)
    with get_client(sync_client=True) as client:
        try:
            unwell = client.api_healthcheck()
        except Exception as error:  # what the transport raises is not one family
            unwell = error
        if unwell is not None:
            raise InkwellError(f"no Prefect server answers at {public(address)}: start it, or mend PREFECT_API_URL.")
        try:
            found = _pool(client, pool, kind, workspace)
            said = [f"pool {pool}: {found['told']}", *_secrets(client, pool), _limits(client, limits)]
            ending = f"-{suffix}" if suffix else ""
            _deployments(_home(workspace, found["kind"]), pool, ending)
            said.append(
                f"deployments: pipeline{ending}, retrain{ending} (its schedule is paused until you resume it), promote{ending}"
            )
            blocks, unkept = keep_addresses(client, notifications)
            heard = blocks if "failed" in notifications.events else {}
            said += [*unkept, *keep_automations(client, automations(deployed(client), heard))]
            said.append(
                f"the server tells of late, failed and crashed runs by: {', '.join(heard) or 'nothing (notifications in params.yaml)'}"
            )
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            login = " (PREFECT_API_AUTH_STRING holds its user:password)" if status in (401, 403) else ""
            raise InkwellError(f"the Prefect server at {public(address)} answered {status}{login}.") from error
    return said


def pool_types(workspace: Path) -> dict[str, Path]:
    """The base job template of each type of pool that infra/pools describes; a workspace's own go first."""
    folders = (ROOT / "infra" / "pools", workspace / "infra" / "pools")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}


def type_of(pool: str, types: Sequence[str]) -> str:
    """The type that a pool's name ends with ("inkwell-kubernetes"); processes for any other name."""
    last = pool.rpartition("-")[2]
    return last if last in types else "process"


def _pool(client: SyncPrefectClient, name: str, kind: str | None, workspace: Path) -> dict[str, str]:
    """{"kind", "told"} of the pool, made from its type's template where there is none; an existing one keeps what was set by hand."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    types = pool_types(workspace)
    if kind and kind not in types:
        raise InkwellError(f"there is no infra/pools/{kind}.json: known types are {', '.join(types)}.")
    try:
        there = client.read_work_pool(name).type
    except ObjectNotFound:
        wanted = kind or type_of(name, list(types))
        path = types.get(wanted)
        if path is None:
            raise InkwellError(f"there is no infra/pools/{wanted}.json to make the pool {name!r} from.") from None
        try:
            template: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InkwellError(
                f"{path} is no base job template ({error}): `python infra/pools/derive.py` writes it."
            ) from error
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type=wanted, base_job_template=template))
            return {"kind": wanted, "told": f"made ({wanted})"}
        except ObjectAlreadyExists:  # another deploy was faster
            there = client.read_work_pool(name).type
    if kind and there != kind:
        raise InkwellError(f"the pool {name!r} is there already, of type {there}: name another pool.")
    return {"kind": str(there), "told": f"there already ({there})"}


def _secrets(client: SyncPrefectClient, pool: str) -> list[str]:
    """What became of the Secret blocks that runs of the pool need, in sentences; each is filled from the variable it stands for."""
    from prefect.blocks.system import Secret
    from prefect.exceptions import ObjectNotFound

    said = []
    for variable, block in blocks_of(client.read_work_pool(pool).base_job_template).items():
        value = os.environ.get(variable)
        if value:
            Secret(value=value).save(block, overwrite=True)
            said.append(f"block {block}: holds {variable}")
            continue
        try:
            client.read_block_document_by_name(block, "secret", include_secrets=False)
            said.append(f"block {block}: there already")
        except ObjectNotFound:
            said.append(
                f"block {block}: is not there, and no run of this pool starts without it: set {variable} and deploy again"
            )
    return said


def blocks_of(template: Mapping[str, Any]) -> dict[str, str]:
    """{variable: Secret block that holds it} of a base job template's environment."""
    properties = template.get("variables", {}).get("properties", {})
    environment = properties.get("env", {}).get("default") or {}
    found = {name: _SECRET.match(str(value)) for name, value in environment.items()}
    return {name: match[1] for name, match in found.items() if match}


def _home(workspace: Path, kind: str) -> str:
    """The folder in which runs work: this workspace for processes, the image's for containers; INKWELL_HOME goes first."""
    return os.environ.get("INKWELL_HOME") or (str(workspace.resolve()) if kind == "process" else CONTAINER_HOME)


def concurrency_keys(workspace: Path) -> list[str]:
    """The limits that stages share: each `meta.concurrency` of dvc.yaml, which is also the limit's name in Prefect."""
    from flows.orchestration.graph import read_stages

    return sorted({stage.concurrency for stage in read_stages(workspace) if stage.concurrency})


def _limits(client: SyncPrefectClient, names: Sequence[str]) -> str:
    """A global limit of one for each of `names`; one that was changed by hand stays."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    made = []
    for name in names:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            made.append(name)
    return f"limits: {', '.join(names) or 'none'}" + (f" (made: {', '.join(made)})" if made else "")


def _deployments(home: str, pool: str, ending: str) -> None:
    from flows.processes import Command, environment

    variables = {"INKWELL_HOME": home, "INKWELL_POOL": pool, "INKWELL_ENDING": ending}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    command += ["--prefect-file", str(ROOT / "prefect.yaml")]
    with Command(command, ROOT, {**environment(), **variables}, together=True) as prefect:
        prefect.end_after(_PATIENCE)
        lines = [line.strip(" │╭╮╰╯─") for line in prefect.lines()]
        status = prefect.wait()
    if prefect.timed_out:
        raise InkwellError(f"`prefect deploy` had not ended after {_PATIENCE:.0f} seconds: is the server well?")
    if status:
        raise InkwellError(f"`prefect deploy` refused: {' '.join(line for line in lines if line)[-300:]}.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument("--pool", default=POOL, help="work pool, made where there is none (default: %(default)s)")
    parser.add_argument(
        "--type",
        dest="kind",
        help="process, docker, kubernetes: what a new pool runs (default: the last word of its name, else process)",
    )
    parser.add_argument(
        "--suffix",
        default="",
        help="deployments of their own beside the others, for another pool: `gpu` makes pipeline-gpu, retrain-gpu, promote-gpu",
    )
    arguments = parser.parse_args(argv)
    try:
        from flows.processes import terminating

        if not re.fullmatch(r"[a-z0-9-]*", arguments.suffix):
            raise InkwellError(f"--suffix {arguments.suffix!r}: write it in small letters, digits and hyphens.")
        with terminating():
            for line in deploy(arguments.workspace, arguments.pool, arguments.kind, arguments.suffix):
                print(line)
    except InkwellError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deploy: interrupted; the same command does the rest.", file=sys.stderr)
        return 130
    print(f"Now start a worker: prefect worker start --pool {arguments.pool}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
