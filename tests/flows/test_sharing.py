"""Checkouts that share DVC's cache by way of a default remote: real DVC and Prefect, and moto's server for S3."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from configobj import ConfigObj

from flows.processes import environment
from flows.promotion.kept import fetch, locked, missing
from tests.flows.conftest import ROOT

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def measured(workspace: Path) -> Path:
    """The tiny pipeline, a stage of it with a metric, which DVC hashes and keeps in no cache of its own."""
    described = yaml.safe_load((workspace / "dvc.yaml").read_text())
    described["stages"]["right"]["cmd"] = "python right.py"
    described["stages"]["right"]["deps"].append("right.py")
    described["stages"]["right"]["metrics"] = [{"metrics/right.json": {"cache": False}}]
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(described))
    (workspace / "right.py").write_text(
        "import os\nos.makedirs('metrics', exist_ok=True)\nopen('metrics/right.json', 'w').write('{\"letters\": 4}')\n"
        "open('c.txt', 'w').write(open('a.txt').read() * 2)\n"
    )
    return workspace


def _share(workspace: Path, **remote: str) -> None:
    config = ConfigObj(str(workspace / ".dvc" / "config"), encoding="utf-8")
    config.setdefault("core", {})["remote"] = "team"
    config['remote "team"'] = remote
    config.write()


def _elsewhere(workspace: Path, folder: Path) -> Path:
    """Another machine's checkout: the sources and settings, and nothing that was made."""
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml", "in.txt", "left.py", "right.py"):
        shutil.copyfile(workspace / name, folder / name)
    shutil.copytree(workspace / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    return folder


def _states(workspace: Path) -> dict[str, str]:
    from flows.orchestration.running import run_pipeline

    return {outcome.stage: outcome.state for outcome in run_pipeline(workspace)}


def test_what_one_checkout_made_another_one_restores(
    measured: Path, store: str, prefect_server: None, tmp_path: Path
) -> None:
    _share(measured, url=store)
    assert set(_states(measured).values()) == {"ran"}
    other = _elsewhere(measured, tmp_path / "other")
    assert set(_states(other).values()) == {"restored"}
    assert (other / "d.txt").read_text() == "in!inin"
    assert (other / "metrics" / "right.json").read_text() == '{"letters": 4}'
    assert yaml.safe_load((other / "dvc.lock").read_text()) == yaml.safe_load((measured / "dvc.lock").read_text())
    assert set(_states(other).values()) == {"unchanged"}

    # What was lost afterwards, cache and all, comes back as dvc.lock names it.
    shutil.rmtree(other / ".dvc" / "cache")
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "metrics/right.json"):
        (other / name).unlink()
    assert set(_states(other).values()) == {"restored"}
    assert (other / "metrics" / "right.json").exists()

    # A new input is nobody's yet, and from then on everybody's.
    (other / "params.yaml").write_text("left: 2\n")
    (other / "left.py").write_text((other / "left.py").read_text() + "# another\n")
    assert _states(other)["left"] == "ran"
    for name in ("params.yaml", "left.py"):
        shutil.copyfile(other / name, measured / name)
    assert _states(measured)["left"] == "restored"


def test_what_a_rollback_needs_comes_from_the_remote_when_the_cache_is_lost(
    measured: Path, store: str, prefect_server: None, tmp_path: Path
) -> None:
    _states(measured)
    hashes = locked(measured, ["d.txt"], ["metrics/right.json"])
    assert set(hashes) == {"d.txt", "metrics/right.json"}
    _share(measured, url=store)
    assert set(_states(measured).values()) == {"unchanged"}  # it is sent although nothing ran
    shutil.rmtree(measured / ".dvc" / "cache")
    assert missing(measured, hashes) == []
    shutil.rmtree(measured / ".dvc" / "cache")
    fetch(measured, hashes, tmp_path / "back")
    assert (tmp_path / "back" / "d.txt").read_text() == "in!inin"
    assert (tmp_path / "back" / "metrics" / "right.json").read_text() == '{"letters": 4}'


def test_a_remote_that_is_away_stops_nothing(
    measured: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _away(measured, monkeypatch)
    assert set(_states(measured).values()) == {"ran"}
    said = capfd.readouterr().err
    assert "stages take nothing from other machines: DVC's remote team does not answer" in said
    assert "not all went to DVC's remote team" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("stage", "stands"), [("first", True), ("left", False)])
def test_a_stage_whose_remote_has_gone_away_is_made_here(
    measured: Path, monkeypatch: pytest.MonkeyPatch, stage: str, stands: bool
) -> None:
    _away(measured, monkeypatch)
    if stage == "left":
        (measured / "a.txt").write_text("in")
        (measured / "left.py").write_text("import sys; sys.exit('left: no such poem.')\n")
    done = subprocess.run(
        [sys.executable, "-m", "flows.placement.sharing", stage],
        cwd=measured,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == stands, done.stderr
    assert f"sharing: nothing of {stage} comes from DVC's remote" in done.stderr
    assert "Traceback" not in done.stderr
    assert (measured / {"first": "a.txt", "left": "b.txt"}[stage]).exists() == stands


def _away(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # it would be away for as long as that takes
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    _share(workspace, url="s3://store/away", endpointurl=NOBODY)
