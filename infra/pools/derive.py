"""Prefect's own base job templates with Inkwell's image, environment and limits, written beside this file.

    python infra/pools/derive.py            write process.json, docker.json and kubernetes.json
    python infra/pools/derive.py --check    status 1 when one of them is not what would be written

After an upgrade of Prefect, run it and look at the difference. A pool takes a template when it is made:

    prefect work-pool create inkwell-k8s --type kubernetes --base-job-template infra/pools/kubernetes.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
IMAGE = "inkwell-worker:0.1.0"
USER = 10001  # as in the Dockerfiles

# What each run of a flow gets, wherever it runs; a deployment's job variables go over it.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PYTHONUNBUFFERED": "1",
}
# In a container of its own a run starts with an empty workspace, composed of these parameters and filled from DVC's remote.
CONTAINER_ENVIRONMENT = {
    **ENVIRONMENT,
    "AWS_DEFAULT_REGION": "us-east-1",
    "INKWELL_DVC_REMOTE": "s3://inkwell-dvc",
    "INKWELL_PARAMETERS": "corpus=tang size=laptop",
}

# Where a browser finds MLflow: the port that Compose binds, or that `kubectl port-forward` leads to.
MLFLOW_PAGE = "http://127.0.0.1:5000"


def upstream(kind: str) -> dict[str, Any]:
    """The template that Prefect ships for a type of worker, from its package; no server is asked."""
    import prefect

    found = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    for workers in json.loads(found.read_text(encoding="utf-8")).values():
        if kind in workers:
            template: dict[str, Any] = workers[kind]["default_base_job_configuration"]
            return template
    raise LookupError(f"Prefect {prefect.__version__} ships no template for {kind!r}")


def process() -> dict[str, Any]:
    """Runs are children of the worker, in its folder and with its limits."""
    template = upstream("process")
    template["variables"]["properties"]["env"]["default"] = ENVIRONMENT
    return template


def docker() -> dict[str, Any]:
    """A container a run, beside infra/compose.yaml: its network, and the gate as the only way to the servers."""
    template = upstream("docker")
    variables = template["variables"]["properties"]
    variables["image"]["default"] = IMAGE
    variables["image_pull_policy"]["default"] = "IfNotPresent"  # it is built on this machine
    variables["auto_remove"]["default"] = True
    variables["networks"]["default"] = ["inkwell_front"]
    variables["volumes"]["default"] = ["inkwell_runs:/work"]
    variables["mem_limit"]["default"] = "12g"
    variables["memswap_limit"]["default"] = "12g"  # no swap beyond it: training that swaps does not end
    variables["env"]["default"] = {
        **CONTAINER_ENVIRONMENT,
        # a worker on the host would hand on its own address, which is the loopback's
        "PREFECT_API_URL": "http://gate:4200/api",
        "AWS_ENDPOINT_URL": "http://gate:8333",
        "AWS_ACCESS_KEY_ID": "inkwell-worker",
        # Prefect puts in what these blocks hold when the run starts; the template itself knows no secret.
        "AWS_SECRET_ACCESS_KEY": "{{ prefect.blocks.secret.inkwell-s3-worker }}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "{{ prefect.blocks.secret.inkwell-mlflow }}",
        "INKWELL_MLFLOW_PAGE": MLFLOW_PAGE,
        "INKWELL_PARAMETERS": f"{CONTAINER_ENVIRONMENT['INKWELL_PARAMETERS']} tracking.uri=http://gate:5000",
    }
    # No deployment may ask for more rights than a container has.
    del variables["privileged"]
    template["job_configuration"]["privileged"] = False
    return template


def kubernetes() -> dict[str, Any]:
    """A job a run: not root, nothing writable but its volumes, secrets by reference."""
    template = upstream("kubernetes")
    variables = template["variables"]["properties"]
    variables["image"]["default"] = IMAGE
    variables["namespace"]["default"] = "inkwell"
    variables["service_account_name"]["default"] = "inkwell-job"
    variables["finished_job_ttl"]["default"] = 86400
    variables["pod_watch_timeout_seconds"]["default"] = 600  # a node pool may have to grow first
    variables["cpu_request"]["default"] = "2"
    variables["cpu_limit"]["default"] = "4"
    variables["memory_request"]["default"] = "4Gi"
    variables["memory_limit"]["default"] = "12Gi"
    variables["env"]["default"] = {
        **CONTAINER_ENVIRONMENT,
        "AWS_ENDPOINT_URL": "http://seaweedfs-all-in-one:8333",
        "INKWELL_MLFLOW_PAGE": MLFLOW_PAGE,
        "INKWELL_PARAMETERS": f"{CONTAINER_ENVIRONMENT['INKWELL_PARAMETERS']} tracking.uri=http://mlflow",
    }
    variables["gpus"] = {
        "title": "GPUs",
        "description": "NVIDIA GPUs of the job; with more than none, name the CUDA image.",
        "default": 0,
        "type": "integer",
    }
    variables["work_claim"] = {
        "title": "Work volume",
        "description": "The persistent volume claim for the workspace: a run that is started again goes on from its checkpoint.",
        "default": "inkwell-work",
        "type": "string",
    }
    job = template["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    # Prefect's template has these two in the pod, where Kubernetes does not know them.
    job["parallelism"], job["completions"] = pod.pop("parallelism"), pod.pop("completions")
    job["template"]["metadata"] = {"labels": {"app.kubernetes.io/name": "inkwell-job"}}
    pod["automountServiceAccountToken"] = False
    pod["terminationGracePeriodSeconds"] = 120  # a checkpoint is written first
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod["volumes"] = [
        {"name": "work", "persistentVolumeClaim": {"claimName": "{{ work_claim }}"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ]
    container = pod["containers"][0]
    container["envFrom"] = [{"secretRef": {"name": "inkwell-job"}}]
    container["resources"]["limits"]["nvidia.com/gpu"] = "{{ gpus }}"
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container["volumeMounts"] = [
        {"name": "work", "mountPath": "/work"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    return template


def _without_hosts(value: Any) -> Any:
    # Examples in the upstream descriptions name registries; these files are about our image only.
    if isinstance(value, dict):
        return {
            key: _without_hosts(entry)
            for key, entry in value.items()
            if not (key == "example" and isinstance(entry, str))
        }
    return [_without_hosts(entry) for entry in value] if isinstance(value, list) else value


def main() -> int:
    """Write the templates, or compare them."""
    status = 0
    for make in (process, docker, kubernetes):
        path = FOLDER / f"{make.__name__}.json"
        text = json.dumps(_without_hosts(make()), indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not what `python infra/pools/derive.py` would write.", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
