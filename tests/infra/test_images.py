"""The Dockerfiles, what is sent to their builds, and what is installed in them."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.infra.reading import INFRA, ROOT, check, tool

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
