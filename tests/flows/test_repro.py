"""What is restored from a damaged cache, and what a full disk leaves of DVC's own files: the real `dvc`, by way of flows.orchestration.repro."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.orchestration.objects import drop_damaged, whole
from flows.orchestration.repro import command, mend_table, whole_or_not
from flows.processes import environment

FOLDER = """
  folder:
    cmd: python folder.py
    deps: [a.txt, folder.py]
    outs: [made]
"""
MAKES = "import os\nos.makedirs('made', exist_ok=True)\nfor n in '12':\n    open(f'made/{n}', 'w').write(open('a.txt').read() * int(n))\n"


def _dvc(folder: Path, *arguments: str, plain: bool = False, status: int = 0) -> str:
    """What `dvc` says, ours or the plain one, once it has ended with `status`."""
    started = [sys.executable, "-m", "dvc", *arguments] if plain else command(*arguments)
    done = subprocess.run(
        started,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def _hash_of(folder: Path, output: str) -> str:
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return next(out["md5"] for stage in stages.values() for out in stage["outs"] if out["path"] == output)


def _object(folder: Path, value: str) -> Path:
    return folder / ".dvc" / "cache" / "files" / "md5" / value[:2] / value[2:]


def _damage(path: Path) -> None:
    """Other bytes under the same name, size, protection and time, as a failing disk leaves them."""
    before = path.stat()
    assert before.st_mode & 0o777 == 0o444, "DVC would look at it by itself"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def finished(workspace: Path) -> Path:
    """The tiny pipeline with a stage more, whose output is a folder; all of it has run."""
    (workspace / "dvc.yaml").write_text((workspace / "dvc.yaml").read_text() + FOLDER)
    (workspace / "folder.py").write_text(MAKES)
    _dvc(workspace, "repro")
    return workspace


def test_plain_dvc_restores_what_is_damaged_and_ours_makes_it_again(finished: Path) -> None:
    kept = _object(finished, _hash_of(finished, "b.txt"))
    _damage(kept)
    (finished / "b.txt").unlink()
    _dvc(finished, "repro", "--single-item", "left", plain=True)
    assert (finished / "b.txt").read_bytes() != b"in!"  # the reason for all of this
    (finished / "b.txt").unlink()
    said = _dvc(finished, "repro", "--single-item", "left")
    assert "cache: b.txt is damaged in DVC's cache: 1 file removed" in said
    assert "Running stage 'left'" in said
    assert (finished / "b.txt").read_bytes() == b"in!"
    assert hashlib.md5(kept.read_bytes(), usedforsecurity=False).hexdigest() == _hash_of(finished, "b.txt")
    (finished / "b.txt").unlink()
    again = _dvc(finished, "repro", "--single-item", "left")
    assert "is cached" in again
    assert "damaged" not in again
    assert _dvc(finished, "status", "--json").strip() == "{}"


@pytest.mark.parametrize("which", ["file", "list"])
def test_a_folder_is_made_again_when_one_of_its_files_or_their_list_is_damaged(finished: Path, which: str) -> None:
    listed = _hash_of(finished, "made")
    one = hashlib.md5(b"inin", usedforsecurity=False).hexdigest()
    _damage(_object(finished, listed if which == "list" else one))
    for path in (finished / "made").iterdir():
        path.unlink()
    (finished / "made").rmdir()
    said = _dvc(finished, "repro", "--single-item", "folder")
    assert "cache: made is damaged" in said
    assert "Running stage 'folder'" in said
    assert {path.name: path.read_text() for path in (finished / "made").iterdir()} == {"1": "in", "2": "inin"}
    assert hashlib.md5(_object(finished, one).read_bytes(), usedforsecurity=False).hexdigest() == one
    assert _dvc(finished, "status", "--json", "folder").strip() == "{}"


def test_what_an_earlier_run_made_is_read_as_well(finished: Path) -> None:
    (finished / "in.txt").write_text("other")
    _dvc(finished, "repro")
    assert (finished / "a.txt").read_text() == "other"
    (finished / "in.txt").write_text("in")
    earlier = hashlib.md5(b"in", usedforsecurity=False).hexdigest()
    _damage(_object(finished, earlier))  # dvc.lock does not name it now, DVC's memory of earlier runs does
    said = _dvc(finished, "repro", "--single-item", "first")
    assert "cache: a.txt is damaged" in said
    assert "Running stage 'first'" in said
    assert (finished / "a.txt").read_text() == "in"


def test_a_damaged_file_is_fetched_again_where_a_remote_has_it(finished: Path, tmp_path: Path) -> None:
    _dvc(finished, "remote", "add", "--default", "store", str(tmp_path / "store"))
    _dvc(finished, "push", "--quiet", "--run-cache")
    (finished / "in.txt").write_text("other")
    _dvc(finished, "repro")
    (finished / "in.txt").write_text("in")
    _damage(_object(finished, hashlib.md5(b"in", usedforsecurity=False).hexdigest()))
    said = _dvc(finished, "repro", "--single-item", "--pull", "first")
    assert "cache: a.txt is damaged" in said
    assert "Running stage" not in said
    assert (finished / "a.txt").read_text() == "in"


def test_the_flow_makes_again_what_is_damaged_and_reads_nothing_where_nothing_is_to_do(
    finished: Path, prefect_server: None
) -> None:
    from flows.orchestration.running import run_pipeline

    kept = _object(finished, _hash_of(finished, "b.txt"))
    _damage(kept)
    states = {outcome.stage: outcome.state for outcome in run_pipeline(finished)}
    assert set(states.values()) == {"unchanged"}
    assert kept.exists()
    (finished / "b.txt").unlink()
    states = {outcome.stage: outcome.state for outcome in run_pipeline(finished)}
    assert states == {
        "first": "unchanged",
        "left": "ran",
        "right": "unchanged",
        "last": "unchanged",
        "folder": "unchanged",
    }
    assert (finished / "b.txt").read_text() == "in!"
    assert (finished / "d.txt").read_text() == "in!inin"


def test_a_dry_run_removes_nothing(finished: Path) -> None:
    kept = _object(finished, _hash_of(finished, "b.txt"))
    _damage(kept)
    (finished / "b.txt").unlink()
    _dvc(finished, "repro", "--dry", "left")
    assert kept.exists()


def test_what_is_whole_and_what_lacks_is_left_alone(finished: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(finished)) as repo:
        cache = repo.cache.local
        made, a = _hash_of(finished, "made"), _hash_of(finished, "a.txt")
        assert whole(cache, made)
        assert whole(cache, a)
        assert drop_damaged(cache, "made", made) is None
        assert not whole(cache, "0" * 32)
        assert drop_damaged(cache, "nothing", "0" * 32) is None
        _damage(_object(finished, a))  # a.txt and made/1 are the same bytes, and DVC keeps them once
        assert not whole(cache, a)
        assert whole(cache, made)
        sentence = drop_damaged(cache, "made", made)
        assert sentence is not None
        assert a[:8] in sentence
        assert not _object(finished, a).exists()
        assert _object(finished, made).exists()


def test_the_lock_is_changed_as_a_whole_or_not(tmp_path: Path) -> None:
    from dvc.utils.serialize import modify_yaml

    path = tmp_path / "dvc.lock"
    path.write_text("schema: '2.0'\n")
    unspeakable = object()  # no YAML can hold it: the writing stops in the middle, as on a full disk
    with pytest.raises(Exception, match="represent"), whole_or_not(modify_yaml)(str(path)) as data:
        data["stages"] = unspeakable
    assert path.read_text() == "schema: '2.0'\n"
    with whole_or_not(modify_yaml)(str(path)) as data:
        data["stages"] = {"a": {"cmd": "b"}}
    assert yaml.safe_load(path.read_text()) == {"schema": "2.0", "stages": {"a": {"cmd": "b"}}}
    with whole_or_not(modify_yaml)(str(tmp_path / "new.lock")) as data:
        data["schema"] = "2.0"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dvc.lock", "new.lock"]
    before = path.read_text()
    with pytest.raises(Exception, match="represent"), modify_yaml(str(path)) as data:
        data["stages"] = unspeakable
    assert path.read_text() != before  # the reason for it


def test_half_a_table_of_readers_and_writers_stops_plain_dvc_and_not_ours(finished: Path) -> None:
    table = finished / ".dvc" / "tmp" / "rwlock"
    table.write_text('{"write": {"/a"')
    assert "rwlock" in _dvc(finished, "repro", plain=True, status=255)
    assert "half written" in _dvc(finished, "repro")
    table.write_text('{"write": {}, "read": {}}')
    mend_table(table.parent)
    assert table.read_text() == '{"write": {}, "read": {}}'
    mend_table(finished / "nowhere")


def test_before_a_pull_only_what_the_workspace_lacks_is_looked_at(finished: Path) -> None:
    from dvc.repo import Repo

    from flows.orchestration.objects import drop_damaged_of

    b = _object(finished, _hash_of(finished, "b.txt"))
    c = _object(finished, _hash_of(finished, "c.txt"))
    for kept in (b, c):
        _damage(kept)
    (finished / "b.txt").unlink()
    with Repo(str(finished)) as repo:
        [sentence] = drop_damaged_of(repo, ["left", "right"])  # c.txt stands here already
    assert sentence.startswith("b.txt is damaged")
    assert (b.exists(), c.exists()) == (False, True)
