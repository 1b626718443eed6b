"""The challenger of a workspace against the champion, from the first check to the alias."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from flows.promotion.checks import gates, intact, largest, sizes, speed, up_to_date
from flows.promotion.decision import Decision
from flows.promotion.exported import CLEAN, EVALUATION, EXPORT, described, identity, read_manifest, tags
from flows.promotion.verdict import failures, judge, verdict

if TYPE_CHECKING:
    from components.configuration import Promotion
    from flows.promotion.registry import Registry, Version


def decide(workspace: Path, by: str | None = None, change: bool = True, note: str = "") -> Decision:
    """Judge the workspace's export against the champion; with `change`, register it, move the alias and keep the evidence.

    `note` stands in front of the reason ("scheduled: the corpus has changed"). Raises InkwellError for what has to be
    mended before anything can be decided: stages out of date, a registry that is away, files of the champion that are lost.
    """
    from components.configuration import load
    from components.tracking.delivery import exclusive
    from flows.promotion.registry import CHAMPION, DIGEST, Registry, now, whoami

    configuration = load(workspace / "params.yaml")
    promotion = configuration.promotion
    up_to_date(workspace)
    state = workspace / ".inkwell"
    state.mkdir(exist_ok=True)
    with exclusive(state / "promotion.lock", wait=True):
        registry = Registry(workspace)
        manifest = read_manifest(workspace / EXPORT)
        digest, hashes = identity(workspace)
        checks = [*gates(workspace), intact(workspace / EXPORT, manifest), *largest(manifest, promotion)]
        champion = registry.holder(CHAMPION)
        if change:
            named = tags(workspace, manifest, hashes)
            challenger: Version | None = registry.register(
                digest, str(manifest["model"]), named, EXPORT, workspace / EXPORT
            )
        else:
            challenger = registry.find(digest)
        decision = Decision(
            promoted=False,
            reason="",
            by=by or whoami(),
            at=now(),
            challenger=described(challenger, manifest, digest),
            champion=None,
            checks=checks,
            settings={**promotion.model_dump(mode="json"), "seed": configuration.seed},
        )
        if champion is None:
            first = "it is the first, and its gates are green"
            failed = [check for check in checks if not check.holds]
            decision.promoted, decision.reason = (False, failures(failed)) if failed else (True, first)
        elif champion.tags.get(DIGEST) == digest:
            # nothing was compared: the evidence of its crowning stays what it is
            decision.champion = described(champion, manifest, digest)
            decision.reason = f"this export is the champion already (version {champion.number})"
            return decision
        else:
            with tempfile.TemporaryDirectory(dir=state, prefix="champion-") as name:
                _against(workspace, Path(name), champion, configuration.seed, promotion, manifest, decision)
            if decision.promoted and challenger and challenger.withdrawn:
                decision.promoted, decision.reason = False, _withdrawn(challenger)
        decision.reason = f"{note}{': ' if note else ''}{decision.reason}"
        if change:
            assert challenger is not None
            _publish(workspace, registry, challenger, decision)
    return decision


def _against(
    workspace: Path,
    place: Path,
    champion: Version,
    seed: int,
    promotion: Promotion,
    manifest: Mapping[str, Any],
    decision: Decision,
) -> None:
    """Compare with the champion, whose files are brought into `place`, and fill in the decision."""
    from flows.promotion.judging import BITS, answers, bits_pairs, draw, held_out_by_both, pair, speeds
    from flows.promotion.kept import fetch
    from flows.promotion.registry import DIGEST

    try:
        fetch(workspace, {path: champion.hashes[path] for path in (EXPORT, EVALUATION, CLEAN)}, place)
    except (KeyError, InkwellError) as error:
        told = str(error) if isinstance(error, InkwellError) else "its tags do not name its files"
        raise InkwellError(
            f"the champion (version {champion.number}) cannot be compared with: {told.rstrip('.')}; or crown the challenger by hand: "
            f"python -m flows.rollback --to {decision.challenger['version'] or 'VERSION'} --reason TEXT."
        ) from error
    before = read_manifest(place / EXPORT)
    decision.champion = described(champion, before, champion.tags.get(DIGEST, ""))
    whole = intact(place / EXPORT, before)
    if not whole.holds:
        raise InkwellError(f"the champion (version {champion.number}) is not what it was: {whole.told}.")
    joint, theirs, mine = held_out_by_both(place / CLEAN, workspace / CLEAN)
    pairs = pair(
        answers(place / EVALUATION, str(before["model"])),
        answers(workspace / EVALUATION, str(manifest["model"])),
        set(joint),
    )
    asked = draw(joint, promotion.documents, seed)
    pairs[BITS] = bits_pairs(
        place / EXPORT / "huggingface", workspace / EXPORT / "huggingface", [joint[name] for name in asked]
    )
    decision.held_out = {"both": len(joint), "champion": theirs, "challenger": mine, "scored": len(asked)}
    decision.tasks = judge(pairs, promotion, seed)
    decision.checks += sizes(before, manifest, promotion)
    if promotion.minimum_speed:
        decision.checks.append(speed(speeds(place / EXPORT, workspace / EXPORT), promotion))
    decision.promoted, decision.reason = verdict(decision.tasks, decision.checks, promotion)


def _withdrawn(version: Version) -> str:
    """A human's decision stands until a human takes it back, whatever the figures say."""
    told = version.withdrawn
    return (
        f"version {version.number} was rolled back by {told.get('by', 'somebody')} ({told.get('reason', '')}); "
        f"crown it by hand: python -m flows.rollback --to {version.number} --reason TEXT"
    )


def _publish(workspace: Path, registry: Registry, challenger: Version, decision: Decision) -> None:
    """Pages, a run in MLflow, the tag and the alias: in this order, so that evidence is never behind the alias."""
    from flows.promotion.page import write_pages
    from flows.promotion.registry import REFUSAL

    stem = workspace / ".inkwell" / "promotion" / f"{registry.name}-{challenger.number}" / "promotion"
    decision.pages = stem
    write_pages(stem, decision)
    figures = {f"{task.task}.gain": task.gain for task in decision.tasks if task.judged}
    outcome = "promoted" if decision.promoted else "kept"
    about = {
        "inkwell.decision": outcome,
        "inkwell.version": challenger.number,
        "inkwell.digest": decision.challenger["digest"],
    }
    decision.run = registry.record("promote", [stem.with_suffix(kind) for kind in (".json", ".html")], about, figures)
    evidence = f"runs:/{decision.run}/promotion.json"
    if decision.promoted:
        registry.crown(challenger, decision.by, decision.reason, evidence)
    elif decision.champion is None or decision.champion["version"] != challenger.number:
        registry.tell(challenger, decision.by, decision.reason, evidence, tag=REFUSAL)
