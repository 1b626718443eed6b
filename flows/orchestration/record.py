"""The end of a pipeline, told to MLflow: how it ended, and which runs made what was found unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.processes import environment


def record_pipeline(
    workspace: Path, pipeline: str, ran: Sequence[str], unchanged: Mapping[str, Sequence[str]], succeeded: bool
) -> None:
    """Spool and deliver the end of `pipeline`; `unchanged` maps stages to their outputs' paths. Never raises.

    A pipeline in which nothing ran has no run in MLflow and needs no end.
    """
    if not ran or os.environ.get("INKWELL_TRACKING") == "off":
        return
    try:
        from components.configuration import load
        from components.step import STATE, content_hash
        from components.tracking.delivery import record_pipeline_end
        from components.tracking.recorder import LOCAL_PATIENCE, REMOTE_PATIENCE
        from flows.placement.records import destination

        tracking = load(workspace / "params.yaml").tracking
        if not tracking.enabled:
            return
        # Stages that ran in clones may have told a server all by themselves, so that there is no spool here yet.
        spool = workspace / STATE / "spool"
        here = destination(workspace)
        header = {"pipeline": pipeline, "experiment": tracking.experiment, **here}
        hashes = {
            stage: {path: content_hash(workspace / path)[:32] for path in paths if (workspace / path).exists()}
            for stage, paths in unchanged.items()
        }
        record_pipeline_end(spool, header, hashes, "FINISHED" if succeeded else "FAILED")
        subprocess.run(
            [sys.executable, "-m", "components.tracking", "--seconds", "5"],
            cwd=workspace,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LOCAL_PATIENCE if here["artifacts"] else REMOTE_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:  # it stays in the spool for the next step
        return
    except Exception as error:  # the pipeline is over: its bookkeeping must not fail it
        print(f"tracking: the pipeline's end is not recorded ({type(error).__name__}: {error}).", file=sys.stderr)
