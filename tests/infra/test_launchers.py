"""One stage in a container, as a Kubernetes Job and as a Ray job: the scripts submit.sh, with programs of the test's in place of docker, kubectl and ray.

They keep to what the manuals say of the options that are used here. Neither a container runtime nor a cluster is on this hardware.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.infra.reading import INFRA, ROOT
from tests.infra.test_slurm import alive, until

DOCKER = """#!/bin/bash
set -u
case "$1" in
    run)
        printf '%s\\n' "$@" >"$CLUSTER/asked"
        env >"$CLUSTER/environment"
        while [ "$1" != "$IMAGE" ]; do shift; done
        shift # what stands behind the image goes to the entrypoint
        exec 4<&0
        setsid python "${@//\\/opt\\/inkwell/$PROJECT}" <&4 4<&- &
        echo $! >"$CLUSTER/container"
        wait $!
        ;;
    stop) # to the container's first process alone, and after a while to all
        printf '%s\\n' "$@" >"$CLUSTER/stopped"
        container="$(cat "$CLUSTER/container")"
        kill -TERM "$container"
        for _ in {1..150}; do
            kill -0 "$container" 2>/dev/null || exit 0
            sleep 0.1
        done
        kill -KILL -- "-$container"
        ;;
esac
"""
KUBECTL = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

place = Path(os.environ["CLUSTER"])
assert sys.argv[1:3] == ["--namespace", "inkwell"]
verb, *rest = sys.argv[3:]
code, pod, gone = place / "code", place / "pod", place / "deleted"
if verb == "create":
    manifest = json.load(sys.stdin)
    (place / "manifest.json").write_text(json.dumps(manifest))
    time.sleep(float(os.environ.get("SLOW", "0")))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    script = '"$@" >"$CLUSTER/log" 2>&1; echo $? >"$CLUSTER/code.new"; mv "$CLUSTER/code.new" "$CLUSTER/code"'
    (place / "log").touch()
    started = subprocess.Popen(["bash", "-c", script, "pod", *container["command"]], start_new_session=True)
    pod.write_text(str(started.pid))
    print(f"job.batch/{manifest['metadata']['name']} created")
elif verb == "logs":
    if "--since=3s" not in rest:
        os.execvp("tail", ["tail", "--lines=+1", "--follow", "--sleep-interval=0.2", f"--pid={pod.read_text()}", str(place / "log")])
elif verb == "delete":
    gone.write_text(rest[1])
    os.killpg(int(pod.read_text()), signal.SIGTERM)
elif rest[0] == "pods":
    if gone.exists() or not pod.exists():
        sys.exit("error: array index out of bounds: index 0, length 0")
    if "exitCode" in rest[-1] and code.exists():
        print(code.read_text().strip(), end="")
    elif "startedAt" in rest[-1] and not code.exists():
        print("2026-11-01T00:00:00Z", end="")
elif not gone.exists():
    print(f"{rest[1]}  ", end="")
"""
RAY = """
import os, signal, subprocess, sys
from pathlib import Path

place = Path(os.environ["CLUSTER"])
verb, *rest = sys.argv[2:]
state = place / "state"
if verb == "submit":
    (place / "asked").write_text("\\n".join(rest))
    name = next(option.partition("=")[2] for option in rest if option.startswith("--submission-id="))
    job = subprocess.Popen(rest[rest.index("--") + 1 :], start_new_session=True)
    (place / "job").write_text(str(job.pid))
    failed = job.wait() != 0
    if not (place / "stopped").exists():
        state.write_text("failed" if failed else "succeeded")
        print(f"Job '{name}' {state.read_text()}")
        sys.exit(failed)
elif verb == "stop":
    (place / "stopped").write_text(rest[-1])
    state.write_text("was stopped")
    os.killpg(int((place / "job").read_text()), signal.SIGTERM)
elif verb == "status":
    print(f"Job '{rest[-1]}' {state.read_text()}" if state.exists() else f"Status for job '{rest[-1]}': RUNNING")
"""
PROGRAMS = {
    "docker": DOCKER,
    "kubectl": f"#!{sys.executable} -IS\n{KUBECTL}",
    "ray": f"#!{sys.executable} -IS\n{RAY}",
}
SCRIPTS = {"docker": "docker", "kubernetes": "kubectl", "ray": "ray"}
ENDED = {
    "docker": "stopped",
    "kubernetes": "deleted",
    "ray": "stopped",
}  # what the program was asked when it had to end a job
SECRET = "planted-secret"


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that can submit; $CLUSTER holds what the programs were asked for."""
    programs = tmp_path / "bin"
    for folder in (programs, tmp_path / "tmp"):
        folder.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "CLUSTER": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "PROJECT": str(ROOT),
        "IMAGE": "inkwell-worker:0.1.0",
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
        "INKWELL_VENV": str(tmp_path / "nowhere"),
        "INKWELL_PIPELINE": "f" * 32,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }


def submitted(cluster: Mapping[str, str], where: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(INFRA / where / "submit.sh"), *arguments],
        cwd=cluster["CLUSTER"],
        env=dict(cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def asked(cluster: Mapping[str, str]) -> list[str]:
    return (Path(cluster["CLUSTER"]) / "asked").read_text().splitlines()


def manifest(cluster: Mapping[str, str]) -> Any:
    return json.loads((Path(cluster["CLUSTER"]) / "manifest.json").read_text())


@pytest.mark.parametrize(("where", "status"), [("docker", 7), ("kubernetes", 7), ("ray", 1)])
def test_output_and_status_are_passed_on(cluster: dict[str, str], where: str, status: int) -> None:
    script = "import sys; print('a line of the stage'); print(sys.argv[1]); sys.exit(7)"
    process = submitted(cluster, where, "--", "python", "-c", script, "two words")
    said, complained = process.communicate(timeout=60)
    assert process.returncode == status, complained
    assert said.splitlines()[:2] == ["a line of the stage", "two words"]
    assert SECRET not in said + complained
    assert not (Path(cluster["CLUSTER"]) / ENDED[where]).exists()
    assert not list((Path(cluster["CLUSTER"]) / "tmp").iterdir())


@pytest.mark.parametrize("where", SCRIPTS)
def test_a_stage_that_stands_ends_with_nothing(cluster: dict[str, str], where: str) -> None:
    process = submitted(cluster, where, "--", "python", "-c", "print('well')")
    said, complained = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[0]) == (0, "well"), complained


@pytest.mark.parametrize("where", SCRIPTS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_whoever_ends_the_launcher_ends_the_stage(
    cluster: dict[str, str], where: str, number: signal.Signals, status: int
) -> None:
    process, stage = _begun(cluster, where)
    try:
        os.killpg(process.pid, number)  # the whole group at once, as flows.processes does
        assert process.wait(30) == status
        until(lambda: not alive(stage))
        assert (Path(cluster["CLUSTER"]) / ENDED[where]).exists()
    finally:
        _end(process, stage)


def test_a_container_ends_even_with_a_launcher_that_is_killed(cluster: dict[str, str]) -> None:
    process, stage = _begun(cluster, "docker")
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        until(lambda: not alive(stage))
        assert not (Path(cluster["CLUSTER"]) / "stopped").exists()
    finally:
        _end(process, stage)


def _begun(cluster: Mapping[str, str], where: str) -> tuple[subprocess.Popen[str], int]:
    """A launcher whose stage works, and the stage's process."""
    pid = Path(cluster["CLUSTER"]) / "pid"
    script = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); print('begun', flush=True); time.sleep(300)"
    )
    process = submitted(cluster, where, "--", "python", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process, int(pid.read_text())


def _end(process: subprocess.Popen[str], stage: int) -> None:
    for group in (process.pid, stage):
        if alive(group):
            os.killpg(os.getpgid(group), signal.SIGKILL)
    process.communicate(timeout=20)


def test_a_job_that_is_asked_for_and_not_yet_there_is_deleted_too(cluster: dict[str, str]) -> None:
    process = submitted({**cluster, "SLOW": "1.5"}, "kubernetes", "--", "sleep", "300")
    try:
        until((Path(cluster["CLUSTER"]) / "manifest.json").exists)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 143
        assert (Path(cluster["CLUSTER"]) / "deleted").read_text() == manifest(cluster)["metadata"]["name"]
        pod = int((Path(cluster["CLUSTER"]) / "pod").read_text())
        until(lambda: not alive(pod))
    finally:
        _end(process, process.pid)


@pytest.mark.parametrize(("where", "file"), [("kubernetes", "deleted"), ("ray", "stopped")])
def test_a_job_that_somebody_else_ended_has_failed(cluster: dict[str, str], where: str, file: str) -> None:
    process, stage = _begun(cluster, where)
    try:
        (Path(cluster["CLUSTER"]) / file).write_text("by somebody")
        (Path(cluster["CLUSTER"]) / "state").write_text("was stopped")
        os.killpg(os.getpgid(stage), signal.SIGKILL)
        assert process.wait(30) == 1
        assert (Path(cluster["CLUSTER"]) / file).read_text() == "by somebody"
    finally:
        _end(process, stage)


def test_a_container_gets_folders_settings_and_the_names_of_secrets(cluster: dict[str, str]) -> None:
    repository, scratch = Path(cluster["CLUSTER"]) / "repository", Path(cluster["CLUSTER"]) / "scratch"
    repository.mkdir()
    worker = ["python", "-c", "pass", "--repository", str(repository), "--scratch", str(scratch)]
    options = ["--image=inkwell-worker-cuda:0.1.0", "--gpus=all", "--network=inkwell_front"]
    process = submitted({**cluster, "IMAGE": "inkwell-worker-cuda:0.1.0"}, "docker", *options, "--", *worker)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    given = asked(cluster)
    pairs = set(itertools.pairwise(given))
    assert {
        ("--mount", f"type=bind,source={repository},target={repository},readonly"),
        ("--mount", f"type=bind,source={scratch},target={scratch}"),
        ("--user", f"{os.getuid()}:{os.getgid()}"),
        ("--env", "AWS_SECRET_ACCESS_KEY"),
        ("--env", "MLFLOW_TRACKING_PASSWORD"),
        ("--env", "INKWELL_PIPELINE"),
        ("--entrypoint", "python"),
    } <= pairs
    assert {"--rm", "--interactive", "--gpus=all", "--network=inkwell_front"} <= set(given)
    assert "--network=host" not in given
    assert given[-len(worker) :] == worker
    assert SECRET not in "\n".join(given)
    assert f"AWS_SECRET_ACCESS_KEY={SECRET}" in (Path(cluster["CLUSTER"]) / "environment").read_text()
    assert scratch.is_dir()  # docker would make it for root


def test_a_ray_job_gets_the_project_and_no_secret(cluster: dict[str, str]) -> None:
    venv = Path(cluster["CLUSTER"]) / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    given = {**cluster, "INKWELL_VENV": str(venv)}
    process = submitted(given, "ray", "--entrypoint-num-gpus=1", "--", "python", "-c", "pass")
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    options = asked(cluster)
    assert options[-4:] == ["--", str(venv / "bin" / "python"), "-c", "pass"]
    assert "--entrypoint-num-gpus=1" in options
    (described,) = [json.loads(option.partition("=")[2]) for option in options if "--runtime-env-json=" in option]
    assert described["env_vars"]["PYTHONPATH"] == str(ROOT)
    assert described["env_vars"]["INKWELL_PIPELINE"] == "f" * 32
    assert SECRET not in "\n".join(options)


@pytest.mark.parametrize("version", ["1.29", "1.34"])
@pytest.mark.parametrize("claim", ["inkwell-work", "none"])
def test_a_job_is_one_of_kubernetes_and_of_the_pool(version: str, claim: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    worker = ["python", "-m", "flows.placement.worker", "--repository", "https://host/it.git", "--scratch", "/work/it"]
    options = ["--name", "inkwell-stage-1", "--gpus", "1", "--memory", "32Gi", "--claim", claim, "--env", "A=b=c"]
    done = subprocess.run(
        [sys.executable, str(INFRA / "kubernetes/stage.py"), *options, "--", *worker],
        env={**os.environ, "INKWELL_PIPELINE": "f" * 32, "AWS_SECRET_ACCESS_KEY": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    assert SECRET not in done.stdout
    assert "{{" not in done.stdout
    made = json.loads(done.stdout)
    validate.validate(made, version, strict=True)
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == worker
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": 1}
    assert container["envFrom"] == [{"secretRef": {"name": "inkwell-job"}}]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (environment["A"], environment["INKWELL_PIPELINE"]) == ("b=c", "f" * 32)
    # Below a volume: the rest cannot be written.
    assert environment["DVC_SITE_CACHE_DIR"].startswith("/work/")
    (work,) = [volume for volume in pod["volumes"] if volume["name"] == "work"]
    assert ("persistentVolumeClaim" in work) == (claim != "none")


@pytest.mark.parametrize(
    ("where", "arguments", "words"),
    [
        *((where, [], "-- COMMAND") for where in SCRIPTS),
        *((where, ["python", "-V"], "-- COMMAND") for where in ("docker", "ray")),
        ("docker", ["--detach", "--", "true"], "--detach is set here"),
        ("docker", ["--name=x", "--", "true"], "--name=x is set here"),
        ("docker", ["--", "true", "--repository", "."], "as whole paths"),
        ("kubernetes", ["--name", "x", "--", "true"], "--name is set here"),
        ("kubernetes", ["--env", "A", "--", "true"], "--env NAME=VALUE"),
        ("kubernetes", ["--", "true", "--repository", "."], "cannot clone from ., a folder of this machine"),
        ("kubernetes", ["--", "true", "--scratch", "/home/me"], "--scratch /work/scratch"),
        ("ray", ["--no-wait", "--", "true"], "--no-wait is set here"),
        ("ray", ["--runtime-env-json={}", "--", "true"], "is set here"),
    ],
)
def test_mistakes_end_in_one_sentence(cluster: dict[str, str], where: str, arguments: list[str], words: str) -> None:
    process = submitted(cluster, where, *arguments)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 2
    assert words in complained
    assert complained.count("\n") == 1
    assert said == ""
    assert not (Path(cluster["CLUSTER"]) / "asked").exists()
    assert not (Path(cluster["CLUSTER"]) / "manifest.json").exists()


def test_a_ray_cluster_has_to_be_named(cluster: dict[str, str]) -> None:
    alone = {name: value for name, value in cluster.items() if not name.startswith("RAY_")}
    process = submitted(alone, "ray", "--", "true")
    _, complained = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "name the cluster" in complained


@pytest.mark.parametrize(("where", "program"), SCRIPTS.items())
def test_without_its_program_it_says_so(cluster: dict[str, str], where: str, program: str) -> None:
    (Path(cluster["CLUSTER"]) / "bin" / program).unlink()
    few = Path(cluster["CLUSTER"]) / "few"
    few.mkdir()
    for needed in ("bash", "dirname", "python3", "od", "tr"):
        found = subprocess.run(["bash", "-c", f"command -v {needed}"], capture_output=True, text=True, check=True)
        (few / needed).symlink_to(found.stdout.strip())
    process = submitted({**cluster, "PATH": f"{cluster['CLUSTER']}/bin:{few}"}, where, "--", "true")
    _, complained = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"{program} was not found" in complained


def test_the_page_names_launchers_that_there_are() -> None:
    page = (ROOT / "docs" / "placement.md").read_text(encoding="utf-8")
    named = set(re.findall(r"infra/\w+/submit\.sh", page))
    assert named == {f"infra/{where}/submit.sh" for where in (*SCRIPTS, "slurm")}
    assert all(os.access(ROOT / path, os.X_OK) for path in named)
