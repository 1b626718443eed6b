"""What Prefect runs on a schedule or at a click: promote and retrain. The pipeline itself is flows.orchestration.running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import deployment

from components.errors import InkwellError
from flows.orchestration.links import page_of
from flows.orchestration.running import PipelineError, pipeline
from flows.orchestration.sentences import told_in_sentences


@flow(name="inkwell-promote", persist_result=False, validate_parameters=False)
def promote(workspace: str = ".", by: str | None = None, note: str = "") -> dict[str, Any]:
    """Judge the workspace's model against the champion; the evidence is an artifact. {promoted, reason, version}."""
    from flows.notify import tell
    from flows.promotion.deciding import decide
    from flows.promotion.decision import sentence
    from flows.promotion.page import as_markdown

    told_in_sentences(InkwellError)
    folder = Path(workspace).resolve()
    decision = decide(folder, by, note=note)
    get_run_logger().info(sentence(decision))
    create_markdown_artifact(key="promotion", markdown=as_markdown(decision), description=sentence(decision)[:2000])
    page = page_of(folder, decision.run, "promotion.html") if decision.run else None
    if page:
        create_link_artifact(key="promotion-page", link=page, description="The evidence, in MLflow")
    tell(folder, "promoted" if decision.promoted else "kept", sentence(decision))
    return {
        "promoted": decision.promoted,
        "reason": decision.reason,
        "version": decision.challenger["version"],
        "said": sentence(decision),
    }


@flow(name="inkwell-retrain", persist_result=False, validate_parameters=False)
def retrain(workspace: str = ".", when: str | None = None) -> dict[str, Any]:
    """Look whether the corpus has changed; if so (or `when` is "always") train, judge and perhaps promote.

    Fails when another retraining works in the same folder, a stage fails, or the registry is away.
    """
    from components.tracking.delivery import exclusive
    from flows.notify import tell
    from flows.retrain import lock_of, why

    told_in_sentences(InkwellError, PipelineError)
    folder = Path(workspace).resolve()
    logger = get_run_logger()
    with exclusive(lock_of(folder)) as mine:
        if not mine:
            raise InkwellError(f"{folder.name}: another retraining works here; let it end.")
        try:
            reason = why(folder, when, lambda targets, force: pipeline(str(folder), targets, force))
            if not reason:
                logger.info("the corpus is the champion's: nothing to do")
                return {"promoted": False, "reason": "the corpus is the champion's", "version": None, "said": ""}
            logger.info(f"retraining: {reason}")
            pipeline(str(folder))
            outcome: dict[str, Any] = promote(str(folder), by="flows.retrain", note=reason)
            return outcome
        except (InkwellError, PipelineError) as error:
            if not deployment.id:  # of a deployment's run the server tells (flows.automations), and once is enough
                tell(folder, "failed", f"Retraining stopped: {error}")
            raise
