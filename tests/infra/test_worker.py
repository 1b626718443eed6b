"""The worker's container as it starts: infra/docker/worker.sh, without a container and with another command in the worker's place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from components.configuration import load
from tests.infra.reading import INFRA, ROOT, check


@pytest.fixture
def container(tmp_path: Path) -> dict[str, str]:
    """The variables of the image, with a folder of the test's in place of the volume."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "cache/dvc"),
        "INKWELL_WORKSPACE": str(tmp_path / "inkwell"),
        "INKWELL_PARAMETERS": "corpus=tang size=smoke",
        "INKWELL_PARAMETERS_FILE": str(tmp_path / "parameters.yaml"),
    }


def started(container: dict[str, str], *command: str) -> str:
    """What the container says that is started with a command."""
    return check("bash", INFRA / "docker/worker.sh", *command, env=container)


def test_a_removal_outlives_every_start(container: dict[str, str], tmp_path: Path) -> None:
    parameters = tmp_path / "inkwell/params.yaml"
    assert started(container, "pwd").splitlines()[-1] == str(tmp_path / "inkwell")
    assert load(parameters).clean.denied == []
    (tmp_path / "parameters.yaml").write_text("clean: {denied: [tang-000017]}\n", encoding="utf-8")
    for _ in range(2):
        started(container, "true")
        assert load(parameters).clean.denied == ["tang-000017"]
        assert load(parameters).pretrain.layers == 2  # and the rest is of smoke size
    # What somebody wrote into the workspace goes with the next start, which says so.
    parameters.write_text(parameters.read_text(encoding="utf-8").replace("\nseed: ", "\nseed: 1"), encoding="utf-8")
    assert "other than what stood there: seed." in started(container, "true")


def test_a_stage_of_the_isolated_placement_gets_no_workspace(container: dict[str, str], tmp_path: Path) -> None:
    del container["INKWELL_WORKSPACE"]
    said = started(container, "python", "-m", "flows.placement.worker", "--help")
    assert "--commit" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "home", "prefect"]
