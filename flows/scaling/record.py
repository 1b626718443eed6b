"""A scaling study in MLflow: one run with what was foretold and what came, the page and the figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def record(workspace: Path, outcome: Mapping[str, Any]) -> bool:
    """Tell MLflow of the study that `workspace` holds, once for each outcome; whether it was told. Never raises.

    The run stands among those of the folder in which the command was given, and goes there by way of the spool, as those of steps do.
    """
    try:
        return _record(workspace, outcome)
    except Exception as error:  # the study is done and good: bookkeeping must not fail it
        print(f"tracking: the study is not recorded ({type(error).__name__}: {error}).", file=sys.stderr)
        return False


def _record(workspace: Path, outcome: Mapping[str, Any]) -> bool:
    from components.atomic import atomic_file
    from components.configuration import load
    from components.step import Step
    from components.tracking import Recorder
    from components.tracking.recorder import file_hash

    page, figures, stamp = (workspace / f"scaling.{kind}" for kind in ("html", "json", "recorded"))
    digest = file_hash(figures)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return False
    read = {"documents": workspace / "data" / "clean"}
    step = Step(
        "scaling",
        str(outcome["verdict"]),
        "flows.scaling.study:scaling",
        {name: path.as_posix() for name, path in read.items()},
        {"page": page.as_posix()},
    )
    recorder = Recorder.start(step, load(workspace / "params.yaml"), read)
    if recorder.record is None:  # tracking is off
        return False
    told = {"inkwell.kind": "scaling", "mlflow.source.name": "python -m flows.scaling"}
    recorder.record.append({"kind": "tags", "values": told})
    recorder.artifact(figures)
    recorder.finish("FINISHED", numbers(outcome), {"page": page})
    with atomic_file(stamp) as temporary:
        temporary.write_text(digest, encoding="utf-8")
    return True


def numbers(outcome: Mapping[str, Any]) -> dict[str, float]:
    """The study's figures, flat: losses in nats a token, the law's scales with their bands, 1 or 0 for a run inside its band."""
    back = outcome["held_back"]
    found = {f"predicted_{name}": back["predicted"][name] for name in ("value", "low", "high")}
    found |= {f"{scale}_{name}": value for scale, band in outcome["scales"].items() for name, value in band.items()}
    found |= {"measured": back["loss"], "error": back["error"], "inside": float(back["inside"])}
    found |= {"runs": len(outcome["runs"]), "root_mean_square_residual": outcome["root_mean_square_residual"]}
    if outcome["tokens_per_parameter"] is not None:
        found["tokens_per_parameter"] = outcome["tokens_per_parameter"]
    return {name: float(value) for name, value in found.items()}
