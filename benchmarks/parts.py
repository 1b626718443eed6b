"""Finished parts of a long benchmark: each a small JSON file, so that it can be run in pieces and killed between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.atomic import atomic_file


class Parts:
    """`done(name, work)` returns what `work` found, now or in an earlier process.

    A part counts only for the setting that it was measured in (`setting`: corpus, minutes, sizes); another setting has a
    folder of its own. A change of code does not make a part invalid: begin with `fresh` then.
    """

    def __init__(self, folder: Path, setting: Mapping[str, Any], fresh: bool = False) -> None:
        name = "-".join(f"{key}={value}" for key, value in setting.items())
        self.folder = folder / name
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

    def names(self, pattern: str) -> list[str]:
        """Names of finished parts that a glob matches, sorted."""
        return sorted(path.stem for path in self.folder.glob(f"{pattern}.json"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
