"""What a benchmark of training prints at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pretrain import main


def figures(capsys: pytest.CaptureFixture[str], workspace: Path, *arguments: str) -> dict[str, float]:
    """The last line of the command."""
    assert main(["--workspace", str(workspace), "--results", str(workspace / "results"), *arguments]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found
