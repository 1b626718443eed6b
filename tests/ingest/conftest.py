"""One call that runs the real command line on sources of a test's own, and a cache that no other test sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.ingest.__main__ import STEP
from components.step import main


@dataclass
class Outcome:
    """What a run of ingest left."""

    status: int
    said: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        from components.corpus.documents import iterate, raw_schema

        assert self.status == 0, self.said
        return list(iterate(self.folder / "raw" / "documents.parquet", raw_schema()))

    def of_role(self, role: str) -> list[dict[str, Any]]:
        """Documents of another role than train."""
        from components.corpus.documents import iterate, raw_schema

        return list(iterate(self.folder / "raw" / f"{role}.parquet", raw_schema()))

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.rows]

    @property
    def sources(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "raw" / "sources.json").read_text("utf-8"))
        return found

    @property
    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = json.loads((self.folder / "ingest.json").read_text("utf-8"))
        return found

    def refused(self) -> str:
        """The one sentence of a run that was refused; nothing was written."""
        assert self.status == 2, (self.status, self.said)
        assert not (self.folder / "raw").exists()
        lines = [line for line in self.said.splitlines() if line.startswith("ingest: ")]
        assert len(lines) == 1, self.said
        assert "Traceback" not in self.said
        return lines[0]


Ingest = Callable[..., Outcome]


def write_params(folder: Path, sources: list[dict[str, Any]], limit: int | None = None, **parameters: Any) -> Path:
    path = folder / "params.yaml"
    value = {"ingest": {"sources": sources, "limit": limit, **parameters}, "tracking": {"enabled": False}}
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    return path


def arguments(folder: Path) -> list[str]:
    return ["--params", f"{folder}/params.yaml", "--output", f"{folder}/raw", "--metrics", f"{folder}/ingest.json"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("INKWELL_CACHE", str(folder))
    return folder


@pytest.fixture
def ingest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ingest:
    """Run ingest on one source (keywords) or several (`sources=`); `parameters` are those of `ingest` itself."""

    def run(
        sources: list[dict[str, Any]] | None = None,
        limit: int | None = None,
        parameters: dict[str, Any] | None = None,
        **source: Any,
    ) -> Outcome:
        write_params(tmp_path, sources or [{"name": "tiny", "kind": "path", **source}], limit, **(parameters or {}))
        capsys.readouterr()
        status = main(STEP, arguments(tmp_path))
        return Outcome(status, capsys.readouterr().err, tmp_path)

    return run
