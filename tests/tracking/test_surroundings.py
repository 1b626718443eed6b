"""What a record says of the code and the machine, and that it says nothing of who and where."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import subprocess
from pathlib import Path

import pytest

from components.tracking.surroundings import _cards, commit_and_tree, surroundings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed step and a lock."""
    (tmp_path / "components").mkdir()
    (tmp_path / "components/step.py").write_text("one")
    (tmp_path / "requirements.lock").write_text("a==1\n")
    (tmp_path / ".gitignore").write_text(".smoke/\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_changed_tree_is_told_with_its_files(repository: Path) -> None:
    clean = commit_and_tree(repository)
    assert len(clean["mlflow.source.git.commit"]) == 40
    assert clean["inkwell.tree"] == "clean"
    (repository / "params.yaml").write_text("seed: 2")  # parameters stand with the run by themselves
    (repository / "dvc.lock").write_text("written by every stage")
    assert commit_and_tree(repository)["inkwell.tree"] == "clean"
    (repository / "components/step.py").write_text("two")
    (repository / "components/new.py").write_text("new")
    assert commit_and_tree(repository)["inkwell.tree"] == "changed: components/new.py, components/step.py"


def test_a_workspaces_copy_is_held_against_the_commit(repository: Path) -> None:
    copy = repository / ".smoke"
    (copy / "components").mkdir(parents=True)
    (copy / "components/step.py").write_text("one")
    (copy / "requirements.lock").write_text("a==1\n")
    assert commit_and_tree(copy)["inkwell.tree"] == "clean"
    (copy / "components/step.py").write_text("two")
    assert commit_and_tree(copy)["inkwell.tree"] == "changed: components/step.py"


def test_without_git_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INKWELL_COMMIT", raising=False)
    assert commit_and_tree(tmp_path) == {}
    # what somebody may have put there is no commit
    monkeypatch.setenv("INKWELL_COMMIT", "main")
    assert commit_and_tree(tmp_path) == {}


def test_an_image_tells_what_it_was_built_of(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_COMMIT", "1" * 40)
    monkeypatch.setenv("INKWELL_TREE", "changed: components/step.py")
    image = tmp_path.parent / f"{tmp_path.name}-image"
    image.mkdir()
    told = {"mlflow.source.git.commit": "1" * 40, "inkwell.tree": "changed: components/step.py"}
    assert commit_and_tree(image) == told
    assert told.items() <= surroundings(1, image).items()
    # A clone in a container is not what the image was built of.
    assert commit_and_tree(repository)["mlflow.source.git.commit"] != "1" * 40
    (image / ".git").mkdir()
    assert commit_and_tree(image) == {}


def test_it_names_lock_versions_and_machine_and_nobody(repository: Path) -> None:
    told = surroundings(17, repository)
    assert told["inkwell.lock"] == hashlib.sha256(b"a==1\n").hexdigest()
    assert told["inkwell.seed"] == "17"
    assert "torch" in json.loads(told["inkwell.versions"])
    assert int(told["inkwell.cores"]) >= 1
    everything = json.dumps(told)
    assert socket.gethostname() not in everything
    assert str(repository) not in everything
    assert str(Path.home()) not in everything or Path.home() == Path("/")
    assert f'"{getpass.getuser()}"' not in everything


def test_cards_are_read_from_the_driver(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0/information").write_text("Model: \t\t NVIDIA L4\nIRQ: 7\n")
    assert _cards(tmp_path) == ["NVIDIA L4"]
    assert _cards(tmp_path / "none") == []
