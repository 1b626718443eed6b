"""The commit that isolated stages run at: what git knows, or a snapshot of a tree with changes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from components.errors import InkwellError

_REFS = "refs/inkwell/snapshots"
_LITERAL = {"GIT_LITERAL_PATHSPECS": "1"}
_OF_DVC = ("dvc.yaml", ".dvcignore", ".dvc/config")  # read by DVC itself, and named by no stage


def git(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What `git ARGUMENTS` says in `folder`; InkwellError with git's words where it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise InkwellError(
            "git is not installed, and isolated stages run in clones: install it, or use --placement workspace."
        ) from None
    if done.returncode:
        raise InkwellError(f"{folder}: `git {arguments[0]}` failed: {' '.join(done.stderr.split())}.")
    return done.stdout


def changed_files(folder: Path, results: Collection[str]) -> list[str]:
    """Files that differ from HEAD or are unknown to git, `results` left out: those are written by the pipeline itself."""
    listed = git(folder, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", ".")
    prefix = git(folder, "rev-parse", "--show-prefix").strip()
    paths = [entry[3:].removeprefix(prefix) for entry in listed.split("\0") if entry]
    return [path for path in paths if path not in results]


def left_out(folder: Path, commit: str, results: Collection[str]) -> list[str]:
    """Files in `folder` that git neither knows nor ignores and that are not in `commit`, `results` left out."""
    unknown = git(folder, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    stored = set(git(folder, "ls-tree", "-r", "--name-only", "-z", commit).split("\0"))
    return [path for path in unknown if path and path not in stored and path not in results]


def commit_of(folder: Path, results: Collection[str], allow_dirty: bool, inputs: Collection[str] = ()) -> str:
    """The commit that holds the files of `folder` as they are now.

    Without changes that is HEAD. With changes it is refused, since the result could not be had again from what others can see;
    `allow_dirty` makes a commit of them under `refs/inkwell/snapshots`, on no branch, leaving HEAD, the index and the files alone. Of files
    that git does not know only those in `inputs` (files and folders) go along: a snapshot may be pushed, and what else lies about, backups and
    passwords among it, is nobody's business. `results` stay as HEAD has them. The same files on the same HEAD give the same commit, so that a
    second try finds what the first one finished.
    """
    try:
        head = git(folder, "rev-parse", "--verify", "HEAD^{commit}").strip()
    except InkwellError as error:
        raise InkwellError(
            f"{folder} has no git commit, and isolated stages run in clones at one: `git init`, commit, or use --placement workspace."
        ) from error
    if git(folder, "rev-parse", "--show-prefix").strip():
        raise InkwellError(f"{folder} is not the top folder of its git repository: isolated stages need it to be.")
    changed = changed_files(folder, results)
    if not changed:
        return head
    if not allow_dirty:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise InkwellError(
            f"{folder} has changes that are in no commit ({shown}): commit them, or let --allow-dirty run a snapshot of them."
        )
    return _snapshot(folder, head, results, inputs)


def _new_files(folder: Path, inputs: Collection[str], index: Mapping[str, str]) -> set[str]:
    """Files that the commit behind `index` does not hold: those that somebody has staged, and those in `inputs`."""
    staged = git(folder, "diff", "--cached", "--name-only", "-z", "--diff-filter=A")
    others = ("ls-files", "--others", "--exclude-standard", "-z", "--", *sorted(inputs))
    listed = f"{staged}\0{git(folder, *others, env={**index, **_LITERAL})}".split("\0")
    return {path for path in listed if path and (folder / path).exists()}


def _snapshot(folder: Path, head: str, results: Collection[str], inputs: Collection[str]) -> str:
    dated = git(folder, "show", "--no-patch", "--format=%cI", head).strip()
    who = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", "inkwell"), ("EMAIL", "inkwell@localhost"), ("DATE", dated))
    }
    with tempfile.TemporaryDirectory() as own:
        index = {"GIT_INDEX_FILE": str(Path(own) / "index")}
        git(folder, "read-tree", head, env=index)
        kept = [f":(exclude,literal){path}" for path in sorted(results)]
        git(folder, "add", "--update", "--", ".", *kept, env=index)
        new = _new_files(folder, {*inputs, *_OF_DVC}, index) - set(results)
        if new:
            git(folder, "add", "--force", "--", *sorted(new), env={**index, **_LITERAL})
        tree = git(folder, "write-tree", env=index).strip()
    if tree == git(folder, "rev-parse", f"{head}^{{tree}}").strip():
        return head
    commit = git(folder, "commit-tree", tree, "-p", head, "-m", "Snapshot of a changed tree", env=who).strip()
    git(folder, "update-ref", f"{_REFS}/{commit}", commit)
    return commit
