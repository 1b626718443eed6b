"""The workflow of GitHub Actions."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.infra.reading import ROOT, check, tool

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
    assert "python -m flows.pipeline --workspace .smoke" in commands["smoke"]
    assert "prefect server start" in commands["smoke"]
    # each lock, and each as it stands: nothing resolved, nothing installed
    audited = re.findall(r"--requirement (\S+)", commands["audit"])
    assert sorted(audited) == sorted(path.name for path in ROOT.glob("requirements*.lock"))
    assert {"--no-deps", "--disable-pip"} <= set(commands["audit"].split())
    # made in the run, and hidden in its log before anything else can print them
    assert commands["smoke"].index("::add-mask::") < commands["smoke"].index("GITHUB_ENV")


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


def test_same_postgresql_as_in_compose() -> None:
    from tests.infra.reading import services

    assert JOBS["smoke"]["services"]["postgres"]["image"] == services()["postgres"]["image"]
