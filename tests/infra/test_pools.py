"""The work pools' templates: Prefect's own checks, and what a run started from them would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.infra.reading import INFRA, check, package, services, tool

POOLS = sorted((INFRA / "pools").glob("*.json"))


def template(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INFRA / "pools" / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def rendered(kind: str, **values: Any) -> dict[str, Any]:
    """What a worker would start, with these job variables over the template's defaults."""
    from prefect.utilities.templating import apply_values

    pool = template(kind)
    defaults = {name: entry["default"] for name, entry in pool["variables"]["properties"].items() if "default" in entry}
    return dict(apply_values(pool["job_configuration"], {**defaults, **values}, remove_notset=True))


def test_kinds() -> None:
    assert [path.stem for path in POOLS] == ["docker", "kubernetes", "process"]


def test_templates_are_what_is_derived_from_prefects() -> None:
    check(tool("python"), INFRA / "pools" / "derive.py", "--check")


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.stem)
def test_prefect_accepts_the_template(path: Path) -> None:
    from prefect.server.schemas.actions import WorkPoolCreate
    from prefect.utilities.schema_tools import is_valid_schema, validate

    pool = template(path.stem)
    made = WorkPoolCreate(name="inkwell", type=path.stem, base_job_template=pool)
    assert made.base_job_template == pool
    is_valid_schema(pool["variables"])
    defaults = {name: e["default"] for name, e in pool["variables"]["properties"].items() if "default" in e}
    validate(defaults, pool["variables"], raise_on_error=True, preprocess=False)


def test_prefect_refuses_a_template_with_an_unknown_variable() -> None:
    from prefect.server.schemas.actions import WorkPoolCreate

    pool = template("process")
    pool["job_configuration"]["working_dir"] = "{{ elsewhere }}"
    with pytest.raises(ValueError, match="elsewhere"):
        WorkPoolCreate(name="inkwell", type="process", base_job_template=pool)


def test_process_worker_takes_it() -> None:
    from prefect.workers.process import ProcessJobConfiguration

    job = ProcessJobConfiguration(**rendered("process"))
    assert job.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_container_images_are_those_of_compose() -> None:
    for kind in ("docker", "kubernetes"):
        assert template(kind)["variables"]["properties"]["image"]["default"] == services()["worker"]["image"]


def test_docker_runs_have_no_more_rights_than_a_container() -> None:
    job = rendered("docker", privileged=True)
    assert job["privileged"] is False
    assert job["networks"] == ["inkwell_front"]
    assert job["mem_limit"] == job["memswap_limit"] == "12g"
    assert job["auto_remove"] is True


def test_secrets_stay_references() -> None:
    for path in POOLS:
        environment = template(path.stem)["variables"]["properties"]["env"]["default"]
        for name, value in environment.items():
            if "SECRET" in name or "PASSWORD" in name or "AUTH" in name:
                assert value.startswith("{{ prefect.blocks.secret."), name


def test_kubernetes_job_is_a_valid_one_without_rights() -> None:
    validate = package("kubernetes_validate")
    job = rendered("kubernetes", name="smoke", labels={"a": "b"}, command=["prefect", "flow-run", "execute"])
    manifest = job["job_manifest"]
    # The worker turns the map of variables into a list.
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    validate.validate(manifest, "1.29", strict=True)
    pod = manifest["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert container["envFrom"] == [{"secretRef": {"name": "inkwell-job"}}]
