"""Losses of small runs, written down: a refactoring that moves them changed what is computed.

After a change that is meant to move them: `python -m tests.training.test_golden` writes them anew, and the change says why.
After torchtitan's loss files. Float32, one thread and eager, so that other processors come close enough.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import train

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
CASES: dict[str, dict[str, Any]] = {
    "muon": {"steps": 20},
    "muon-accumulated-cosine": {"steps": 10, "accumulation": 2, "schedule": "cosine"},
    "muon-ramp-linear": {"steps": 8, "accumulation": 3, "batch_ramp": 0.5, "schedule": "linear"},
    "adamw-noam": {"steps": 20, "optimizer": "adamw", "schedule": "noam"},
    "adamw-clipped": {"steps": 10, "optimizer": "adamw", "gradient_clip": 0.1, "weight_decay": 0.5},
}


def _losses(folder: Path, case: str, fused: str = "off") -> dict[str, list[float]]:
    outcome = train(folder, **{**CASES[case], "checkpoints": {"minutes": 10}}, fused=fused)
    return {
        "loss": [round(row["loss"], 7) for row in outcome.curve],
        "gradient_norm": [round(row["gradient_norm"], 6) for row in outcome.curve],
        "rate_factor": [round(row["rate_factor"], 7) for row in outcome.curve],
        "validation": [round(row["validation"], 7) for row in outcome.curve if "validation" in row],
    }


@pytest.mark.parametrize(
    ("case", "fused"),
    # what a Llama is trained with unless somebody wishes otherwise is held to the losses of the stock modules
    [*((case, "off") for case in CASES), ("muon-accumulated-cosine", "on")],
)
def test_losses_are_those_that_were_written_down(tmp_path: Path, case: str, fused: str) -> None:
    wanted = json.loads(GOLDEN.read_text(encoding="utf-8"))[case]
    found = _losses(tmp_path, case, fused)
    assert found["rate_factor"] == pytest.approx(wanted["rate_factor"], abs=1e-6)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=2e-4)
    assert found["validation"] == pytest.approx(wanted["validation"], rel=1e-3)
    assert found["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-2)
    assert found["loss"][-1] < found["loss"][0] - 0.2, "it learns"


def main() -> int:
    """Write the losses of all cases."""
    with tempfile.TemporaryDirectory() as folder:
        found = {case: _losses(Path(folder) / case, case) for case in CASES}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
