"""What the pipeline left at a commit: files from Git, outputs from DVC's cache by the hashes of that commit's dvc.lock.

Nothing is checked out and DVC is not imported: a file of an experiment is there in milliseconds.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import InkwellError


def git(folder: Path, *arguments: str) -> bytes | None:
    """What `git ARGUMENTS` says in `folder`; None where it fails or there is no Git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def text_of(folder: Path, *arguments: str) -> str | None:
    """The same as text without the last line end."""
    found = git(folder, *arguments)
    return None if found is None else found.decode("utf-8", "replace").strip()


def experiments(folder: Path, baseline: str | None = None) -> dict[str, str]:
    """Names of DVC's experiments and their commits; with `baseline`, those that began at that commit."""
    where = f"refs/exps/{baseline[:2]}/{baseline[2:]}/" if baseline else "refs/exps/"
    listed = text_of(folder, "for-each-ref", "--format=%(refname) %(objectname)", where) or ""
    found = {}
    for line in listed.splitlines():
        reference, _, commit = line.partition(" ")
        parts = reference.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/<two digits>/<the others>/<name>: no stash, no lock
            found[parts[4]] = commit
    return found


def resolve(folder: Path, name: str) -> str | None:
    """The commit of an experiment's name or of anything that Git knows; None where neither knows it."""
    known = experiments(folder).get(name)
    return known or text_of(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")


class Revision:
    """The files of a commit, by their paths in the workspace `folder`, which may lie inside the Git repository."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder = folder
        self.commit = commit

    def read(self, path: str) -> bytes | None:
        """A file that Git or DVC keeps; None where there is none, or where the cache does not hold it any more."""
        found = git(self.folder, "cat-file", "blob", f"{self.commit}:./{path}")
        if found is not None:
            return found
        cached = self.cached(path)
        return None if cached is None else cached.read_bytes()

    def cached(self, path: str) -> Path | None:
        """The file of DVC's cache that holds `path`; None where it is no output, or not in the cache."""
        for output, digest in self._outputs.items():
            if path == output:
                return self._object(digest)
            if path.startswith(f"{output}/") and digest.endswith(".dir"):
                listing = self._object(digest)
                if listing is None:
                    return None
                inside = path.removeprefix(f"{output}/")
                for entry in json.loads(listing.read_bytes()):
                    if entry["relpath"] == inside:
                        return self._object(entry["md5"])
        return None

    def digest(self, output: str) -> str | None:
        """DVC's hash of an output."""
        return self._outputs.get(output)

    def files(self, folder: str) -> list[str]:
        """Names of the files that Git keeps in a folder."""
        listed = text_of(self.folder, "ls-tree", "--name-only", self.commit, f"./{folder}/") or ""
        return [line.rpartition("/")[2] for line in listed.splitlines()]

    @functools.cached_property
    def _outputs(self) -> dict[str, str]:
        import yaml

        written = git(self.folder, "cat-file", "blob", f"{self.commit}:./dvc.lock")
        if written is None:
            return {}
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        stages = (yaml.load(written, Loader=loader) or {}).get("stages", {})
        return {
            str(out["path"]): str(out["md5"])
            for stage in stages.values()
            for out in stage.get("outs", [])
            if "md5" in out
        }

    @functools.cached_property
    def _cache(self) -> Path:
        """The folder of DVC's local cache, also where `cache.dir` was moved."""
        import configparser

        place = self.folder / ".dvc" / "cache"
        for name in ("config", "config.local"):
            config = configparser.ConfigParser(strict=False, interpolation=None)
            try:
                written = (self.folder / ".dvc" / name).read_text(encoding="utf-8")
                config.read_string("\n".join(line.strip() for line in written.splitlines()))
            except (OSError, configparser.Error):
                continue
            given = config.get("cache", "dir", fallback="").strip("\"'")
            if given:
                place = (self.folder / ".dvc" / given).resolve()
        return place

    def _object(self, digest: str) -> Path | None:
        place = self._cache / "files" / "md5" / digest[:2] / digest[2:]
        return place if place.exists() else None


def head(folder: Path) -> str:
    """The commit that is checked out; InkwellError where `folder` is in no Git repository that has one."""
    found = text_of(folder, "rev-parse", "--verify", "HEAD")
    if not found:
        raise InkwellError(
            f"{folder} is in no Git repository with a commit, which DVC's experiments need: run in the project, "
            "or `git init`, `git add --all` and `git commit` there."
        )
    return found


def state(folder: Path, paths: Sequence[str] = (".",)) -> str:
    """What tells two states of the checkout apart: the commit and what was changed since in files that Git tracks."""
    return head(folder) + (text_of(folder, "diff", "HEAD", "--", *paths) or "")
