"""One stage as a Slurm job: submit.sh and stage.sbatch, with a scheduler of the test's in place of Slurm's.

It keeps to what Slurm's manual says of the options that are used here: `--parsable` tells `number;cluster`, `--wait` ends with the job's
status, scancel ends the steps of the job. A real Slurm is not on this hardware.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.infra.reading import INFRA, ROOT

SLURM = INFRA / "slurm"
SCHEDULER = {
    # Starts the job at once, away from whoever submits it, and tells its number.
    "sbatch": """#!/bin/bash
set -u
printf '%s\\n' "$@" >"$CLUSTER/asked"
output=""
until [ -f "$1" ]; do # the script; options stand before it
    case "$1" in --output=*) output="${1#--output=}" ;; esac
    shift
done
sleep "${SLOW:-0}"
SLURM_JOB_ID=41 SLURM_SUBMIT_DIR="$PWD" setsid bash "$@" >"${output/\\%j/41}" 2>&1 &
echo $! >"$CLUSTER/job"
echo "41;north"
wait $!
""",
    "scancel": """#!/bin/bash
printf '%s\\n' "$@" >"$CLUSTER/cancelled"
kill -TERM -- "-$(cat "$CLUSTER/job")"
""",
    "srun": """#!/bin/bash
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
""",
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that can submit; $CLUSTER holds what the scheduler was asked for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in SCHEDULER.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    (tmp_path / "project").mkdir()
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "CLUSTER": str(tmp_path)}


def submitted(cluster: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SLURM / "submit.sh"), *arguments],
        cwd=Path(cluster["CLUSTER"]) / "project",
        env=cluster,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_output_and_status_of_the_job_are_passed_on(cluster: dict[str, str]) -> None:
    script = "import sys; print('a line of the stage'); print('and another', file=sys.stderr); sys.exit(7)"
    process = submitted(cluster, "--partition=long", "--gres", "gpu:1", "--", "python", "-c", script, "two words")
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 7, complained
    assert said.splitlines() == ["a line of the stage", "and another"]
    assert "job 41" in complained
    asked = (Path(cluster["CLUSTER"]) / "asked").read_text().splitlines()
    assert {"--wait", "--parsable", "--export=ALL", "--partition=long"} <= set(asked)
    assert asked[asked.index("--gres") + 1] == "gpu:1"
    assert asked[-4:] == ["python", "-c", script, "two words"]
    assert asked[-5] == str(SLURM / "stage.sbatch")
    assert not (Path(cluster["CLUSTER"]) / "cancelled").exists()
    logs = Path(cluster["CLUSTER"]) / "project/.inkwell/slurm"
    assert [path.name for path in logs.iterdir()] == ["41.log"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_whoever_ends_the_launcher_cancels_the_job(
    cluster: dict[str, str], number: signal.Signals, status: int
) -> None:
    pid = Path(cluster["CLUSTER"]) / "pid"
    script = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); print('begun', flush=True); time.sleep(300)"
    )
    process = submitted(cluster, "--", "python", "-c", script)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        stage = int(pid.read_text())
        # The whole group at once, as flows.processes does.
        os.killpg(process.pid, number)
        assert process.wait(30) == status
        assert (Path(cluster["CLUSTER"]) / "cancelled").read_text().split() == ["--clusters=north", "41"]
        until(lambda: not alive(stage))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def test_a_job_whose_number_is_not_yet_told_is_cancelled_too(cluster: dict[str, str]) -> None:
    asked = Path(cluster["CLUSTER"]) / "asked"
    process = submitted({**cluster, "SLOW": "1.5"}, "--", "sleep", "300")
    try:
        until(asked.exists)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 143
        assert (Path(cluster["CLUSTER"]) / "cancelled").read_text().split()[-1] == "41"
        job = int((Path(cluster["CLUSTER"]) / "job").read_text())
        until(lambda: not alive(job))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "-- COMMAND"),
        (["--mem=1G", "--"], "-- COMMAND"),
        (["python", "-V"], "-- COMMAND"),
        (["--array=1-3", "--", "true"], "a stage is one job"),
        (["--output=x", "--", "true"], "--output=x is set here"),
        (["-W", "--", "true"], "-W is set here"),
    ],
)
def test_mistakes_end_in_one_sentence(cluster: dict[str, str], arguments: list[str], words: str) -> None:
    process = submitted(cluster, *arguments)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 2
    assert words in complained
    assert complained.count("\n") == 1
    assert said == ""
    assert not (Path(cluster["CLUSTER"]) / "asked").exists()


def test_without_slurm_it_says_so(cluster: dict[str, str]) -> None:
    process = submitted({**cluster, "PATH": "/usr/bin:/bin"}, "--", "true")
    _, complained = process.communicate(timeout=30)
    if process.returncode == 0 or "job" in complained:
        pytest.skip("a Slurm is installed here")
    assert process.returncode == 2
    assert "sbatch was not found" in complained


def test_the_pipeline_makes_the_worker_s_command_behind_it() -> None:
    from flows.orchestration.graph import Stage
    from flows.placement.isolated import Isolated

    stage = Stage("pretrain", "Trains", "python -m components.pretrain", (), (), pool="gpu")
    launchers = {"gpu": "infra/slurm/submit.sh --partition=gpu --gres=gpu:1 --"}
    command = Isolated(ROOT, "s3://bucket/store", launchers=launchers).command(stage, force=False)
    assert command[:4] == ["infra/slurm/submit.sh", "--partition=gpu", "--gres=gpu:1", "--"]
    assert command[4:7] == ["python", "-m", "flows.placement.worker"]
    assert os.access(ROOT / command[0], os.X_OK)


def test_options_of_the_job_leave_resources_to_the_caller() -> None:
    text = (SLURM / "stage.sbatch").read_text(encoding="utf-8")
    set_here = {match.split("=")[0] for match in re.findall(r"^#SBATCH (--[\w-]+(?:=\S+)?)", text, re.MULTILINE)}
    assert set_here == {"--job-name", "--ntasks", "--signal", "--no-requeue", "--open-mode"}
    # Slurm reads no #SBATCH line behind the first command.
    assert text.rindex("\n#SBATCH") < text.index("\nset -euo pipefail")


def test_the_log_of_pretraining_goes_to_a_folder_that_is_there() -> None:
    text = (SLURM / "pretrain.sbatch").read_text(encoding="utf-8")
    (output,) = re.findall(r"^#SBATCH --output=(\S+)$", text, re.MULTILINE)
    assert "/" not in output  # Slurm makes no folders
    done = subprocess.run(["git", "check-ignore", "-q", output.replace("%j", "41")], cwd=ROOT, check=False)
    assert done.returncode == 0
