"""Manifests against Kubernetes' schemas; names that files have to agree on."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.infra.reading import INFRA, check, package, services

FOLDER = INFRA / "kubernetes"
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith(".values.yaml"))
VALUES = sorted(FOLDER.glob("*.values.yaml"))


def documents(*paths: Any) -> list[dict[str, Any]]:
    return [entry for path in paths for entry in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def values(name: str) -> dict[str, Any]:
    (found,) = documents(FOLDER / f"{name}.values.yaml")
    return found


@pytest.mark.parametrize(
    "entry",
    [entry for entry in documents(*MANIFESTS) if not entry["apiVersion"].startswith("postgresql.cnpg.io")],
    ids=lambda entry: f"{entry['kind']}-{entry['metadata']['name']}",
)
@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_schema_of_kubernetes(entry: dict[str, Any], version: str) -> None:
    validate = package("kubernetes_validate")
    validate.validate(entry, version, strict=True)


def test_everything_is_in_the_namespace() -> None:
    (namespace,) = [entry for entry in documents(*MANIFESTS) if entry["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for entry in documents(*MANIFESTS):
        if entry is not namespace and entry["kind"] != "Namespace":
            assert entry["metadata"]["namespace"] == namespace["metadata"]["name"], entry["metadata"]["name"]


def test_nothing_may_come_in_unless_it_is_said() -> None:
    policies = {e["metadata"]["name"]: e["spec"] for e in documents(FOLDER / "network-policies.yaml")}
    assert policies.pop("nobody") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name, policy in policies.items():
        for rule in policy["ingress"]:
            assert rule["from"], name
            assert rule["ports"], name
    # The store's other ports do not ask who is there.
    (rule,) = policies["store"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8333]


def test_the_pages_are_opened_through_a_gate_that_reaches_them() -> None:
    found = {entry["kind"]: entry for entry in documents(FOLDER / "gate.yaml")}
    template = found["Deployment"]["spec"]["template"]
    label = template["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == found["Service"]["spec"]["selector"] == label
    (container,) = template["spec"]["containers"]
    assert container["image"] == services()["gate"]["image"]
    (volume,) = template["spec"]["volumes"]
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    policies = {e["metadata"]["name"]: e["spec"] for e in documents(FOLDER / "network-policies.yaml")}
    for name in ("prefect-server", "mlflow"):
        let_in = [one["podSelector"]["matchLabels"] for rule in policies[name]["ingress"] for one in rule["from"]]
        assert label in let_in, name
    # Whoever reads how the pages are opened is not sent past it.
    texts = [path.read_text(encoding="utf-8") for path in (*VALUES, *MANIFESTS, INFRA.parent / "docs/infra.md")]
    forwarded = {
        word for text in texts for word in re.findall(r"port-forward (?:-n inkwell )?service/(\w[\w-]*)", text)
    }
    assert forwarded == {"gate"}


def secret_names(value: Any) -> set[str]:
    """What values files and manifests say of secrets."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in ("existingSecret", "existingConfigSecret") and isinstance(entry, str):
                found.add(entry)
            elif (key in (
                "existingSecret", "existingDatabaseSecret", "existingAdminSecret", "secretKeyRef", "secretRef",
                "passwordSecret",
            ) and isinstance(entry, dict)) or (key == "secret" and isinstance(entry, dict) and "name" in entry):  # fmt: skip
                found.add(entry["name"])
            found |= secret_names(entry)
    elif isinstance(value, list):
        for entry in value:
            found |= secret_names(entry)
    return found


def test_every_secret_that_is_asked_for_is_made() -> None:
    import json

    made = {e["metadata"]["name"] for e in yaml.safe_load_all(check("bash", FOLDER / "secrets.sh"))}
    asked = secret_names(documents(*VALUES, *MANIFESTS))
    asked |= secret_names(json.loads((INFRA / "pools/kubernetes.json").read_text(encoding="utf-8")))
    assert asked == made


def test_images_are_pinned_and_those_of_compose() -> None:
    servers = services()["mlflow"]["image"]
    image = values("mlflow")["image"]
    assert f"{image['repository']}:{image['tag']}" == servers
    assert values("mlflow")["initImages"]["mlflowDbMigration"] == image
    image = values("prefect-server")["global"]["prefect"]["image"]
    assert f"{image['repository']}:{image['prefectTag']}" == servers
    (job,) = documents(FOLDER / "buckets.yaml")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == servers


def test_worker_has_prefects_version_of_the_lock() -> None:
    lock = (INFRA.parent / "requirements.lock").read_text(encoding="utf-8")
    version = next(line.removeprefix("prefect==") for line in lock.splitlines() if line.startswith("prefect=="))
    assert values("prefect-worker")["worker"]["image"]["prefectTag"] == f"{version}-python3.11-kubernetes"


def test_no_password_in_values() -> None:
    def passwords(value: Any) -> list[Any]:
        if isinstance(value, dict):
            own = [v for k, v in value.items() if k.lower() in ("password", "authstring", "adminpassword", "secretkey")]
            return own + [found for entry in value.values() for found in passwords(entry)]
        return [found for entry in value for found in passwords(entry)] if isinstance(value, list) else []

    assert passwords(documents(*VALUES, *MANIFESTS)) == []


def test_bundled_databases_are_off() -> None:
    assert values("prefect-server")["postgresql"]["enabled"] is False
    assert values("prefect-server")["redis"]["enabled"] is False
    assert values("prefect-server")["externalDatabase"]["connectionStringSecretKey"] == "connection-string"
