"""A tiny pipeline of real commands, and a real Prefect server for the session."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.pipeline import set_environment
from flows.processes import environment
from tests.flows.candidates import export_of

set_environment()

DVC_YAML = """
stages:
  first:
    desc: The beginning
    cmd: python -c "print('first says hello'); open('a.txt','w').write(open('in.txt').read())"
    deps: [in.txt]
    outs: [a.txt]
    meta: {timeout_minutes: 5}
  left:
    desc: One way
    cmd: python left.py
    deps: [a.txt, left.py]
    outs: [b.txt]
    params: [left]
  right:
    desc: Another way
    cmd: python -c "open('c.txt','w').write(open('a.txt').read()*2)"
    deps: [a.txt]
    outs: [c.txt]
  last:
    desc: The end
    cmd: python -c "open('d.txt','w').write(open('b.txt').read()+open('c.txt').read())"
    deps: [b.txt, c.txt]
    outs: [d.txt]
"""
LEFT = "open('b.txt', 'w').write(open('a.txt').read() + '!')\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Four stages: first, then left and right at the same time, then last."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (folder / "params.yaml").write_text("left: 1\n", encoding="utf-8")
    (folder / "in.txt").write_text("in", encoding="utf-8")
    (folder / "left.py").write_text(LEFT, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, env=environment(), check=True)
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with an empty database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def exports(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, raw_folder: Path, clean_folder: Path, token_folder: Path
) -> dict[str, Path]:
    """The same small model twice: as it is, and with its embedding blown up, which costs it bits."""
    from safetensors.torch import load_file, save_file

    place = tmp_path_factory.mktemp("exports")
    worse = place / "worse"
    shutil.copytree(tiny_model, worse)
    weights = load_file(worse / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 40
    save_file(weights, worse / "model.safetensors", metadata={"format": "pt"})
    folders = (raw_folder, clean_folder, token_folder)
    return {
        "better": export_of(tiny_model, place / "a", *folders),
        "worse": export_of(worse, place / "b", *folders),
    }
