"""The Job of one isolated stage, as JSON on standard output; submit.sh beside this file creates it (docs/placement.md).

    python infra/kubernetes/stage.py --name inkwell-stage-1 --gpus 1 --memory 32Gi -- python -m flows.placement.worker ...

It is the Job of the work pool (infra/pools/kubernetes.json) with another command: not root, nothing writable but its volumes, secrets by
reference. Exit status 2: something to mend, told in one sentence.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POOL = Path(__file__).parents[1] / "pools" / "kubernetes.json"
WORK = "/work"  # where the volume is mounted; the rest of the file system is read-only
# Handed on from here. Secrets are not among them: the Job takes them from the cluster's own (`inkwell-job`).
HANDED_ON = ("INKWELL_PIPELINE", "INKWELL_TRACKING")


def job(options: argparse.Namespace, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The manifest. ValueError for what cannot work in a pod."""
    _check(command)
    template = json.loads(POOL.read_text(encoding="utf-8"))
    known = template["variables"]["properties"]
    values = {name: entry["default"] for name, entry in known.items() if "default" in entry}
    own = {
        name: value for name, value in values["env"].items() if name not in ("INKWELL_PARAMETERS", "INKWELL_DVC_REMOTE")
    }
    own |= {"DVC_SITE_CACHE_DIR": f"{WORK}/cache/dvc"}
    own |= {name: environment[name] for name in HANDED_ON if name in environment}
    own |= dict(pair.split("=", 1) for pair in options.env)
    values |= {
        "name": options.name,
        "namespace": options.namespace,
        "image": options.image or values["image"],
        "labels": {"app.kubernetes.io/name": "inkwell-job"},
        "env": [{"name": name, "value": value} for name, value in own.items()],
        "command": list(command),
        "gpus": options.gpus,
        "work_claim": options.claim,
    }
    for resource, asked in (("cpu", options.cpu), ("memory", options.memory)):
        if asked:
            values |= {f"{resource}_request": asked, f"{resource}_limit": asked}
    made: dict[str, Any] = _filled(template["job_configuration"]["job_manifest"], values)
    del made["metadata"]["generateName"]
    made["metadata"]["name"] = options.name
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    container["name"] = "stage"
    container["command"] = container.pop("args")  # in the place of the image's entrypoint, which makes a workspace
    if options.claim == "none":
        for volume in pod["volumes"]:
            if volume["name"] == "work":
                del volume["persistentVolumeClaim"]
                volume["emptyDir"] = {}
    return made


def _check(command: Sequence[str]) -> None:
    given = dict(itertools.pairwise(command))
    repository, scratch = given.get("--repository", ""), given.get("--scratch", "")
    if repository and Path(repository).is_dir():
        raise ValueError(
            f"pods cannot clone from {repository}, a folder of this machine: give --repository an address."
        )
    if scratch and not any(Path(scratch).is_relative_to(place) for place in (WORK, "/tmp")):
        raise ValueError(f"pods write below {WORK} only, not in {scratch}: give --scratch {WORK}/scratch.")


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(entry, values) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, values) for entry in value]
    if isinstance(value, str) and value.startswith("{{ ") and value.endswith(" }}"):
        return values[value[3:-3]]
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="submit.sh",
        description=(__doc__ or "").split("\n")[0],
        usage="%(prog)s [options] -- COMMAND [ARGUMENTS]",
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True, help="of the Job")
    parser.add_argument("--namespace", default="inkwell", help="where it runs (default: %(default)s)")
    parser.add_argument("--image", help="the worker's image (default: that of the work pool)")
    parser.add_argument("--cpu", help="cores, as Kubernetes writes them (default: those of the work pool)")
    parser.add_argument("--memory", help="memory, as Kubernetes writes it (default: that of the work pool)")
    parser.add_argument("--gpus", type=int, default=0, help="NVIDIA GPUs (default: %(default)s)")
    parser.add_argument(
        "--claim", default="inkwell-work", help="volume claim for /work, none: nothing outlives the pod"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="may be given again; no secrets"
    )
    arguments = list(sys.argv[1:] if argv is None else argv)
    border = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:border]), arguments[border + 1 :]
    try:
        if not command:
            raise ValueError("write submit.sh [OPTIONS] -- COMMAND [ARGUMENTS].")
        if any("=" not in pair for pair in options.env):
            raise ValueError("write --env NAME=VALUE.")
        print(json.dumps(job(options, command, os.environ)))
    except ValueError as error:
        print(f"submit.sh: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
