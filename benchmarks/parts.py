"""Finished parts of a long benchmark: each a small JSON file, so that it can be run in pieces and killed between them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from components.atomic import atomic_file

ROOT = Path(__file__).parents[1]
_LIBRARIES = ("torch", "transformers")


class Parts:
    """`done(name, work)` returns what `work` found, now or in an earlier process.

    A part counts only for the setting that it was measured in (`setting`: corpus, minutes, ...) and for the state of what
    was measured (`state`: a digest of code and parameters, see `digest`): each has a folder of its own. A part that lies
    beside, of the same setting and another state, is told and measured anew. What else a part depends on stands in its name.
    """

    def __init__(self, root: Path, setting: Mapping[str, Any], state: str = "", fresh: bool = False) -> None:
        name = "-".join(f"{key}={value}" for key, value in setting.items())
        self.root, self.fresh, self._setting = root, fresh, name
        self.folder = root / (f"{name}-state={state}" if state else name)
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, Any]] = {}

    def has(self, name: str) -> bool:
        """Whether the part was finished before."""
        return self._file(name).exists()

    def done(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of a part."""
        if name in self._known:
            return self._known[name]
        if self.has(name):
            print(f"  {name}: measured before", flush=True)
            return self.read(name)
        if any((folder / f"{name}.json").exists() for folder in self.root.glob(f"{self._setting}-state=*")):
            print(f"  {name}: measured before with other code or parameters: measured anew", flush=True)
        found = work()
        with atomic_file(self._file(name)) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        self._known[name] = found
        return found

    def read(self, name: str) -> dict[str, Any]:
        """The figures of a part that is finished."""
        if name not in self._known:
            self._known[name] = json.loads(self._file(name).read_text(encoding="utf-8"))
        return self._known[name]

    def forget(self, name: str) -> None:
        """Measure a part anew when it is asked for again."""
        self._known.pop(name, None)
        self._file(name).unlink(missing_ok=True)

    def names(self, pattern: str) -> list[str]:
        """Names of finished parts that a glob matches, sorted."""
        return sorted(path.name.removesuffix(".json") for path in self.folder.glob(f"{pattern}.json"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def digest(code: Iterable[str], *more: Any, root: Path = ROOT) -> str:
    """Twelve digits that change with the files of `code` (files and folders below `root`), with `more`, and with PyTorch and transformers."""
    from importlib.metadata import version

    told: list[Any] = [[name, version(name)] for name in _LIBRARIES]
    for path in sorted(file for name in code for file in _files(root / name)):
        told.append([path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps([told, *more], sort_keys=True).encode()).hexdigest()[:12]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
