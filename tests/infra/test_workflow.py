"""The workflow of GitHub Actions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.reading import ROOT, check, package, tool

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TEXT = WORKFLOW.read_text(encoding="utf-8")
JOBS: dict[str, Any] = yaml.safe_load(TEXT)["jobs"]


def test_schema() -> None:
    check(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", WORKFLOW)
    check(tool("check-jsonschema"), "--builtin-schema", "custom.github-workflows-require-timeout", WORKFLOW)


def test_zizmor_finds_nothing() -> None:
    check(tool("zizmor"), "--offline", "--quiet", "--config", ROOT / "tests/infra/zizmor.yaml", WORKFLOW)


def test_least_permissions() -> None:
    assert yaml.safe_load(TEXT)["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in JOBS.values())
    assert "secrets." not in TEXT
    assert TEXT.count("actions/checkout@") == TEXT.count("persist-credentials: false")


def test_actions_are_pinned_by_major_version() -> None:
    used = re.findall(r"uses: (\S+)", TEXT)
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_runs_what_it_should() -> None:
    commands = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in JOBS.items()}
    assert "bash .ci/run" in commands["check"]
    assert "bash infra/smoke.sh .smoke" in commands["smoke"]
    # each lock, and each as it stands: nothing resolved, nothing installed
    audited = re.findall(r"--requirement (\S+)", commands["audit"])
    assert sorted(audited) == sorted(path.name for path in ROOT.glob("requirements*.lock"))
    assert {"--no-deps", "--disable-pip"} <= set(commands["audit"].split())
    # what the report card stands beside is what the script has written
    (kept,) = [step["with"]["path"] for step in JOBS["smoke"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert {".smoke/reports", ".smoke/.inkwell/prefect.log"} <= set(kept.split())
    assert '"$workspace/.inkwell/prefect.log"' in (ROOT / "infra/smoke.sh").read_text(encoding="utf-8")


def test_caches_follow_both_locks() -> None:
    locks = sorted(path.name for path in ROOT.glob("requirements*.lock"))
    setups = [s["with"] for job in JOBS.values() for s in job["steps"] if "setup-python" in s.get("uses", "")]
    cached = [setup["cache-dependency-path"].split() for setup in setups if "cache" in setup]
    assert len(cached) == 2
    assert all(sorted(paths) == locks for paths in cached)


def test_no_job_installs_what_only_tests_need_but_the_one_that_tests() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^test: \.venv/ready-dev\b", makefile, re.MULTILINE)
    assert re.search(r"^setup: \.venv/ready\b(?!-)", makefile, re.MULTILINE)
    assert re.search(r"^exec make test\b", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    commands = "\n".join(step.get("run", "") for step in JOBS["smoke"]["steps"])
    assert "make setup" in commands
    assert "requirements-dev" not in commands


def test_scripts_of_the_steps() -> None:
    for job in JOBS.values():
        for step in job["steps"]:
            if "run" in step:
                script = re.sub(r"\$\{\{.*?\}\}", "x", step["run"])
                check(
                    tool("bash"),
                    "-c",
                    'printf "%s\\n" "$1" | "$2" --shell=bash --exclude=SC1091 -',
                    "-",
                    script,
                    tool("shellcheck"),
                )


def test_the_script_of_ci_is_one_that_shellcheck_takes() -> None:
    check(tool("shellcheck"), ROOT / ".ci/run")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on which .ci/run finds nothing but what every machine has, and an apt-get without a network."""
    for name in ("bash", "dirname", "id", "mktemp", "rm", "tail"):
        (tmp_path / name).symlink_to(tool(name))
    apt = tmp_path / "apt-get"
    apt.write_text(f"#!{tool('bash')}\necho 'E: Unable to fetch some archives'\nexit 100\n", encoding="utf-8")
    apt.chmod(0o755)
    return {"PATH": str(tmp_path)}


@pytest.mark.parametrize("apt", [True, False])
def test_what_lacks_in_ci_is_said_at_once(bare: dict[str, str], apt: bool) -> None:
    if not apt:
        (Path(bare["PATH"]) / "apt-get").unlink()
    command = [tool("bash"), str(ROOT / ".ci/run")]
    strict = bare | {"INKWELL_CI": "1"}
    done = subprocess.run(command, env=strict, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    *before, last = done.stderr.splitlines()
    assert "chromium" in last
    assert "unset INKWELL_CI" in last
    assert [line for line in before if "E: Unable to fetch" in line] == before
    assert len(before) == apt
    said = subprocess.run(command, env=bare, capture_output=True, text=True, check=False).stderr
    assert "chromium" in said
    assert "are left out" in said


def test_in_ci_nothing_that_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "export INKWELL_CI=1" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    for look in (tool, package):
        monkeypatch.setenv("INKWELL_CI", "1")
        with pytest.raises(pytest.fail.Exception, match="no_such_thing is not installed"):
            look("no_such_thing")
        monkeypatch.delenv("INKWELL_CI")
        with pytest.raises(pytest.skip.Exception):
            look("no_such_thing")
