"""The checkout while DVC begins a trial, and who may begin one.

`dvc exp run` makes its copy from the checkout itself: for a moment it puts changes away that are not committed, detaches HEAD
and writes the trial's parameters into params.yaml. Whoever is killed in that moment would leave them there. So what is checked out is
written down before and brought back after: by the sweep, or by the next one.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from components.errors import InkwellError
from flows.revisions import git, head, text_of

_SWEEPS = Path(".inkwell") / "sweeps"
_NOTE = _SWEEPS / "beginning.json"
_KEPT = "refs/inkwell/beginning"  # so that Git's garbage collection spares the changes


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One sweep at a time in a checkout: a second would meet the first one's half-made experiments. Raises InkwellError."""
    import fcntl

    (folder / _SWEEPS).mkdir(parents=True, exist_ok=True)
    with (folder / _SWEEPS / "lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InkwellError(f"another sweep runs in {folder}: wait for its end or stop it.") from None
        yield


def changes(folder: Path) -> str:
    """A commit of Git's that holds what is not committed in the checkout, which stays as it is; empty where all is committed.

    Raises InkwellError where Git cannot make it, as in a merge with conflicts: DVC could not either.
    """
    found = text_of(folder, "stash", "create")
    if found is None:
        raise InkwellError(f"{folder} is in the middle of something (`git status` says what): finish or undo it first.")
    return found


def keep(folder: Path) -> None:
    """Write down branch, commit and changes of the checkout; nothing in it is touched."""
    from components.atomic import atomic_file

    there = changes(folder)
    if there:
        git(folder, "update-ref", _KEPT, there)
    note = {"branch": _branch(folder), "commit": head(folder), "changes": there}
    with atomic_file(folder / _NOTE) as temporary:
        temporary.write_text(json.dumps(note), encoding="utf-8")


def forget(folder: Path) -> None:
    """The checkout is whole again."""
    (folder / _NOTE).unlink(missing_ok=True)
    git(folder, "update-ref", "-d", _KEPT)


def mend(folder: Path) -> None:
    """Bring back what a killed sweep left put away. Raises InkwellError while another sweep runs, or where Git cannot."""
    if (folder / _NOTE).exists():
        with alone(folder):
            restore(folder)


def restore(folder: Path) -> None:
    """Make the checkout what `keep` wrote down, unless it is. What stands in its way goes into Git's stash.

    Where another commit is checked out by now, the checkout is left alone and the changes go into Git's stash.
    """
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    branch, commit, there = (str(note[key]) for key in ("branch", "commit", "changes"))
    if head(folder) != commit:
        if there:
            _stash(folder, there, "changes of a checkout in which a sweep was killed")
            print(f"sweep: {folder} had changes when a sweep was killed; `git stash list` has them.", file=sys.stderr)
    elif _branch(folder) != branch or git(folder, "diff", "--quiet", there or "HEAD") is None:
        found = text_of(folder, "stash", "create")
        if found:
            _stash(folder, found, "a checkout as a killed sweep left it")
        done = git(folder, "reset", "--hard", "--quiet")
        if done is not None and branch:
            done = git(folder, "symbolic-ref", "HEAD", branch)
        if done is not None and there:
            done = git(folder, "stash", "apply", "--quiet", "--index", there)
        if done is None:
            kept = f"; they are kept: `git stash apply {there}`" if there else ""
            raise InkwellError(
                f"a sweep was killed while DVC had changes of {folder} put away, and Git does not bring them back (`git status` says why){kept}."
            )
    forget(folder)


def _branch(folder: Path) -> str:
    """The full name of the branch; empty for a detached HEAD."""
    return text_of(folder, "symbolic-ref", "--quiet", "HEAD") or ""


def _stash(folder: Path, commit: str, message: str) -> None:
    git(folder, "stash", "store", "--message", f"inkwell: {message}", commit)
