"""The Dockerfiles, what is sent to their builds, and what is installed in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.reading import INFRA, ROOT, check, services, tool

DOCKERFILES = sorted((INFRA / "docker").glob("Dockerfile*"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(path) -> None:
    check(tool("hadolint"), "--failure-threshold", "style", path)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_stages_end_as_nobody_special(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^FROM (?!\$\{PYTHON_IMAGE\}|base)(\S+)", text, re.MULTILINE) == []
    assert re.findall(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
    last = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" in last
    # An address in an argument or a variable would stay in the image's history.
    assert not re.search(r"index-url|find-links|trusted-host", text)
    assert text.count("--mount=type=secret,id=pip") == text.count("pip install")


def test_both_workers_differ_only_in_their_torch() -> None:
    cpu, cuda = (path.read_text(encoding="utf-8") for path in DOCKERFILES)
    wanted = re.search(r"FROM base AS worker\n.*", cpu, re.DOTALL)[0]  # type: ignore[index]
    found = re.search(r"FROM base AS worker\n.*", cuda, re.DOTALL)[0]  # type: ignore[index]
    code = [line for line in wanted.splitlines() if not line.startswith("#")]
    assert [line for line in code if line not in found.splitlines()] == ["    HF_HUB_OFFLINE=1"]  # there it goes on


@pytest.mark.parametrize(("build", "expected"), [("", "2.13.0"), ("cpu", "2.13.0+cpu"), ("cu130", "2.13.0+cu130")])
def test_build_of_torch_goes_into_the_lock(build: str, expected: str, tmp_path) -> None:
    for path in DOCKERFILES:
        (line,) = re.findall(r"sed --in-place (\"s/.*/\") /build/requirements.lock", path.read_text(encoding="utf-8"))
        lock = tmp_path / "requirements.lock"
        lock.write_text((ROOT / "requirements.lock").read_text(encoding="utf-8"), encoding="utf-8")
        subprocess.run(
            ["sh", "-c", f"sed --in-place {line} {lock}"],
            env={"TORCH_BUILD": build, "PATH": "/usr/bin:/bin"},
            check=True,
        )
        assert re.findall(r"^torch==(.*)$", lock.read_text(encoding="utf-8"), re.MULTILINE) == [expected]


def test_servers_are_pinned_by_the_lock_alone() -> None:
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    wanted = (INFRA / "docker" / "servers.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in wanted if line and not line.startswith("#")]
    assert set(names) <= locked
    assert "torch" not in names


def test_images_hold_nothing_that_only_tests_need() -> None:
    for path in DOCKERFILES:
        assert "requirements-dev" not in path.read_text(encoding="utf-8")
    assert "requirements-dev" not in (ROOT / ".dockerignore").read_text(encoding="utf-8")

    def pinned(name: str) -> dict[str, str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))

    run, develop = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert {"pytest", "ruff", "mypy", "moto", "zizmor"} <= set(develop)
    assert set(run) & set(develop) == set()


def test_only_what_is_listed_reaches_a_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    # What may hold passwords, or addresses, is taken out again whatever lets it in.
    assert {"**/.env", "**/pip.conf"} <= set(rules[rules.index("!infra/docker") :])
    allowed = {line[1:] for line in rules if line.startswith("!")}
    assert not allowed & {
        "data",
        "models",
        "reports",
        "metrics",
        "infra",
        "infra/.env",
        ".git",
        ".dvc",
        ".inkwell",
        "*",
    }
    # What a worker's workspace is copied from has to be there.
    from flows.workspace import COPIED

    assert set(COPIED) <= allowed
    for path in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(encoding="utf-8"), re.MULTILINE):
            for source in sources.split():
                assert source == "." or any(source == name or source.startswith(f"{name}/") for name in allowed), source


def environment_of(path: Path) -> dict[str, str]:
    """What the last stage of a Dockerfile sets."""
    last = re.split(r"^FROM ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[-1]
    lines = re.findall(r"^ENV ((?:.*\\\n)*.*)$", last, re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(lines)))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_written_goes_to_the_volume(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.dirs import global_config_dir, site_cache_dir

    found = environment_of(path)
    for name in ("HOME", "XDG_CACHE_HOME", "PREFECT_HOME", "INKWELL_WORKSPACE", "INKWELL_PARAMETERS_FILE"):
        assert found[name].startswith("/work/"), name
    # DVC keeps a database beside /var/tmp unless it is told another place, and the rest of the file system is read-only.
    for name in ("XDG_CONFIG_HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert site_cache_dir().startswith("/work/")
    assert global_config_dir().startswith("/work/")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit, the script that builds, and a docker that writes down what it was asked for."""
    (tmp_path / "infra").mkdir()
    shutil.copy2(INFRA / "build.sh", tmp_path / "infra")
    (tmp_path / "components").mkdir()
    (tmp_path / "components/step.py").write_text("one", encoding="utf-8")
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin/docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$INKWELL_COMMIT" "$INKWELL_TREE" "$*"\n', encoding="utf-8")
    docker.chmod(0o755)
    return tmp_path


def committed(project: Path) -> None:
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=project, check=True)


def built(project: Path, *arguments: str) -> list[str]:
    """The commit, the tree and the arguments that docker gets."""
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return check("bash", project / "infra/build.sh", *arguments, env={"PATH": path}).splitlines()


def test_images_are_built_with_what_lineage_would_say_of_the_checkout(project: Path) -> None:
    from components.tracking.surroundings import commit_and_tree

    committed(project)
    compose = f"compose --file {project / 'infra'}/compose.yaml build"
    told = commit_and_tree(project)
    assert built(project, "--pull", "worker") == [
        told["mlflow.source.git.commit"],
        "clean",
        f"{compose} --pull worker",
    ]
    (project / "components/step.py").write_text("two", encoding="utf-8")
    for number in range(25):
        (project / f"components/新{number:02}.py").write_text("new", encoding="utf-8")
    (project / "params.yaml").write_text("seed: 2", encoding="utf-8")  # stands with the run by itself
    told = commit_and_tree(project)
    assert "and 6 more" in told["inkwell.tree"]
    assert built(project) == [told["mlflow.source.git.commit"], told["inkwell.tree"], compose]


def test_without_a_repository_images_are_built_all_the_same(project: Path) -> None:
    assert built(project)[:2] == ["", ""]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_commit_reaches_the_workers(path: Path) -> None:
    found = environment_of(path)
    builds = [service["build"] for service in services().values() if "build" in service]
    (build,) = [one for one in builds if one["dockerfile"].endswith(f"/{path.name}") and one["target"] == "worker"]
    for name in ("INKWELL_COMMIT", "INKWELL_TREE"):
        assert re.search(rf'^ARG {name}=""$', path.read_text(encoding="utf-8"), re.MULTILINE)
        assert found[name] == f'"${{{name}}}"'
        assert build["args"][name] is None  # the shell's
