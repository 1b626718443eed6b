"""The challenger of a workspace takes the champion's place when it is better beyond the noise, and worse at nothing.

    python -m flows.promote                     decide, register, move the alias, leave the evidence
    python -m flows.promote --workspace .smoke
    python -m flows.promote --plan              decide and show, change nothing

Exit status: 0 promoted, 3 the champion stays, 2 something to mend.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Promotion
    from flows.promotion.judging import Pairs
    from flows.promotion.registry import Version

EXPORT, EVALUATION, CLEAN = "models/export", "data/evaluation", "data/clean"
_ALSO_KEPT = ("data/raw", "reports/data_docs")
KEPT_CHAMPION = 3  # exit status
_PERCENT = 0.95  # of the intervals that are shown


@dataclass(frozen=True)
class Check:
    """One thing that has to hold besides being better: a gate, a hash, a size, a speed."""

    name: str
    holds: bool
    told: str


@dataclass(frozen=True)
class Task:
    """One task of the comparison; figures are means over the shared questions, for bits as they are usually told."""

    task: str
    champion: float
    challenger: float
    gain: float
    low: float
    high: float
    p: float
    adjusted: float
    documents: int
    differing: int
    bound: float
    judged: bool

    def regressed(self) -> bool:
        """Whether the challenger is worse by more than its bound."""
        return self.judged and self.gain < -self.bound


@dataclass
class Decision:
    """Whether the challenger was promoted, why, and everything that led there."""

    promoted: bool
    reason: str
    by: str
    at: str
    challenger: dict[str, Any]
    champion: dict[str, Any] | None
    checks: list[Check] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    held_out: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    pages: Path | None = None
    run: str = ""

    def described(self) -> dict[str, Any]:
        """As JSON."""
        values = asdict(self)
        values.pop("pages")
        return {"format": 1, "decision": "promoted" if self.promoted else "kept", **values}


def decide(workspace: Path, by: str | None = None, change: bool = True, note: str = "") -> Decision:
    """Judge the workspace's export against the champion; with `change`, register it, move the alias and keep the evidence.

    `note` stands in front of the reason ("scheduled: the corpus has changed"). Raises InkwellError for what has to be
    mended before anything can be decided: stages out of date, a registry that is away, files of the champion that are lost.
    """
    from components.configuration import load
    from components.tracking.delivery import exclusive
    from flows.promotion.registry import CHAMPION, Registry, now, whoami

    configuration = load(workspace / "params.yaml")
    promotion = configuration.promotion
    _up_to_date(workspace)
    state = workspace / ".inkwell"
    state.mkdir(exist_ok=True)
    with exclusive(state / "promotion.lock", wait=True):
        registry = Registry(workspace)
        manifest = read_manifest(workspace / EXPORT)
        digest, hashes = identity(workspace)
        checks = [*_gates(workspace), _hashes(workspace / EXPORT, manifest), *_largest(manifest, promotion)]
        champion = registry.holder(CHAMPION)
        challenger = None
        if change:
            challenger = registry.register(
                digest, str(manifest["model"]), _tags(workspace, manifest, hashes), EXPORT, workspace / EXPORT
            )
        decision = Decision(
            promoted=False,
            reason="",
            by=by or whoami(),
            at=now(),
            challenger=_about(challenger, manifest, digest),
            champion=None,
            checks=checks,
            settings={**promotion.model_dump(mode="json"), "seed": configuration.seed},
        )
        if champion is None:
            first = "it is the first, and its gates are green"
            failed = [check for check in checks if not check.holds]
            decision.promoted, decision.reason = (False, _failures(failed)) if failed else (True, first)
        elif champion.tags.get("inkwell.digest") == digest:
            decision.champion = _about(champion, manifest, digest)
            decision.reason = f"this export is the champion already (version {champion.number})"
        else:
            with tempfile.TemporaryDirectory(dir=state, prefix="champion-") as name:
                _against(workspace, Path(name), champion, configuration.seed, promotion, manifest, decision)
        decision.reason = f"{note}{': ' if note else ''}{decision.reason}"
        if change:
            assert challenger is not None
            _publish(workspace, registry, challenger, decision)
    return decision


def _up_to_date(workspace: Path) -> None:
    """What is judged has to be what the parameters of now say, or the decision would speak of another model."""
    from flows.orchestration.graph import read_stages
    from flows.pipeline import plan

    stages = {stage.name for stage in read_stages(workspace)}
    wanted = [name for name in ("evaluate", "export") if name in stages]
    if len(wanted) < 2:
        raise InkwellError(f"{workspace / 'dvc.yaml'} has no stages evaluate and export: there is no model to judge.")
    gates = sorted(name for name in stages if name.startswith("validate"))
    waiting = [(name, why) for name, why in plan(workspace, [*wanted, *gates], force=False) if why]
    if waiting:
        name, why = waiting[0]
        raise InkwellError(
            f"{name} is out of date ({why}): run `python -m flows.pipeline` first, so that what is judged is what was made."
        )


def read_manifest(export: Path) -> dict[str, Any]:
    """`manifest.json` of an export; InkwellError where there is none."""
    path = export / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["files"]
        assert found["model"]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InkwellError(f"{path} is no manifest of an export: run `dvc repro --force export`.") from error
    return dict(found)


def identity(workspace: Path) -> tuple[str, dict[str, str]]:
    """(first 32 digits of the export's content hash as MLflow knows it, DVC's hashes of what is kept of a version)."""
    from components.step import content_hash
    from flows.promotion.kept import locked

    return content_hash(workspace / EXPORT)[:32], locked(workspace, (EXPORT, EVALUATION, CLEAN), _ALSO_KEPT)


def _tags(workspace: Path, manifest: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, str]:
    from flows.drift import sources_hash
    from flows.promotion.registry import DVC, SHA256

    files = {f"{SHA256}{entry['file']}": str(entry["sha256"]) for entry in manifest["files"]}
    more = {"inkwell.name": str(manifest.get("name", "")), "inkwell.model": str(manifest["model"])}
    sources = sources_hash(workspace / "data" / "raw")
    return {**files, **{f"{DVC}{path}": value for path, value in hashes.items()}, **more} | (
        {"inkwell.sources": sources} if sources else {}
    )


def _about(version: Version | None, manifest: Mapping[str, Any], digest: str) -> dict[str, Any]:
    return {
        "version": version.number if version else None,
        "digest": digest,
        "name": manifest.get("name"),
        "model": manifest["model"],
        "files": {entry["file"]: {"bytes": entry["bytes"], "sha256": entry["sha256"]} for entry in manifest["files"]},
    }


def _gates(workspace: Path) -> list[Check]:
    """One check for each stage of validation; what it counted stands in its metrics."""
    from flows.orchestration.graph import read_stages

    found = []
    for stage in read_stages(workspace):
        if not stage.name.startswith("validate"):
            continue
        path = workspace / "metrics" / f"{stage.name}.json"
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            failed, asked = int(metrics["expectations_failed"]), int(metrics["expectations"])
        except (OSError, ValueError, KeyError, TypeError):
            found.append(Check(stage.name, False, f"{path.name} does not say what the gate found"))
            continue
        warned = int(metrics.get("expectations_warned", 0))
        told = f"{failed} of {asked} expectations failed" + (f", {warned} warned" if warned else "")
        found.append(Check(stage.name, failed == 0, told))
    return found or [Check("validate", False, "the pipeline has no stage of validation")]


def _hashes(export: Path, manifest: Mapping[str, Any]) -> Check:
    """Every file of the manifest has the bytes that it names."""
    from components.export.lineage import file_hash

    wrong = [
        str(entry["file"])
        for entry in manifest["files"]
        if not (export / str(entry["file"])).is_file() or file_hash(export / str(entry["file"])) != entry["sha256"]
    ]
    told = f"{', '.join(wrong)}: not the bytes of the manifest" if wrong else f"{len(manifest['files'])} files verified"
    return Check("hashes", not wrong, told)


def _largest(manifest: Mapping[str, Any], promotion: Promotion) -> list[Check]:
    if promotion.maximum_bytes is None:
        return []
    entry = max(manifest["files"], key=lambda entry: entry["bytes"])
    told = f"{entry['file']} has {entry['bytes']:,} bytes, allowed are {promotion.maximum_bytes:,}"
    return [Check("maximum bytes", entry["bytes"] <= promotion.maximum_bytes, told)]


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

    try:
        fetch(workspace, {path: champion.hashes[path] for path in (EXPORT, EVALUATION, CLEAN)}, place)
    except (KeyError, InkwellError) as error:
        told = str(error) if isinstance(error, InkwellError) else "its tags do not name its files"
        raise InkwellError(
            f"the champion (version {champion.number}) cannot be compared with: {told.rstrip('.')}; or crown the challenger by hand: "
            f"python -m flows.rollback --to {decision.challenger['version'] or 'VERSION'} --reason TEXT."
        ) from error
    before = read_manifest(place / EXPORT)
    decision.champion = _about(champion, before, champion.tags.get("inkwell.digest", ""))
    intact = _hashes(place / EXPORT, before)
    if not intact.holds:
        raise InkwellError(f"the champion (version {champion.number}) is not what it was: {intact.told}.")
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
    decision.checks += _sizes(before, manifest, promotion)
    if promotion.minimum_speed:
        decision.checks.append(_speed(speeds(place / EXPORT, workspace / EXPORT), promotion))
    decision.promoted, decision.reason = verdict(decision.tasks, decision.checks, promotion)


def judge(pairs: Mapping[str, Pairs], promotion: Promotion, seed: int) -> list[Task]:
    """Each task with its gain, interval and p value; Holm's correction is over the tasks that enough documents speak for."""
    from flows.promotion.judging import BITS
    from flows.promotion.paired import compare, holm

    found = {}
    for task, one in pairs.items():
        better = [b - a for a, b in zip(one.champion, one.challenger, strict=True)]
        found[task] = compare(better, one.weights, promotion.resamples, seed, _PERCENT)
    judged = [task for task, one in pairs.items() if one.documents >= promotion.minimum_documents]
    adjusted = holm({task: found[task].p for task in judged})
    sign = {task: -1 if task == BITS else 1 for task in pairs}
    return [
        Task(
            task=task,
            champion=sign[task] * one.figure("champion"),
            challenger=sign[task] * one.figure("challenger"),
            gain=found[task].gain,
            low=found[task].low,
            high=found[task].high,
            p=found[task].p,
            adjusted=adjusted.get(task, 1.0),
            documents=one.documents,
            differing=found[task].differing,
            bound=promotion.regressions[task],
            judged=task in judged,
        )
        for task, one in sorted(pairs.items())
    ]


def _sizes(before: Mapping[str, Any], now: Mapping[str, Any], promotion: Promotion) -> list[Check]:
    """How much larger the files of each format have become that both have."""
    sizes = [{entry["format"]: entry["bytes"] for entry in one["files"]} for one in (before, now)]
    common = [kind for kind in sizes[0].keys() & sizes[1].keys() if kind.startswith("gguf") or kind == "safetensors"]
    if not common:
        return [Check("size", False, "the two exports have no format in common to compare sizes in")]
    worst = max(sorted(common), key=lambda kind: sizes[1][kind] / sizes[0][kind])
    times = sizes[1][worst] / sizes[0][worst]
    told = f"{worst}: {sizes[0][worst]:,} → {sizes[1][worst]:,} bytes, {times:.2f} times; allowed are {promotion.maximum_growth:g}"
    return [Check("size", times <= promotion.maximum_growth, told)]


def _speed(measured: tuple[str, float, float] | None, promotion: Promotion) -> Check:
    if measured is None:
        return Check("speed", True, "not measured: the two exports have no kind of GGUF file in common")
    kind, before, now = measured
    told = f"{kind}: {before:,.0f} → {now:,.0f} tokens/s, {now / before:.2f} times; at least {promotion.minimum_speed:g} asked"
    return Check("speed", now >= promotion.minimum_speed * before, told)


def verdict(tasks: Sequence[Task], checks: Sequence[Check], promotion: Promotion) -> tuple[bool, str]:
    """(promoted, why in one sentence): every check holds, no task regressed past its bound, and one is better for sure."""
    failed = [check for check in checks if not check.holds]
    if failed:
        return False, _failures(failed)
    if not any(task.judged for task in tasks):
        most = max((task.documents for task in tasks), default=0)
        return False, (
            f"both answered about {most} of the same documents, {promotion.minimum_documents} are needed to judge (promotion.minimum_documents)"
        )
    regressed = [task for task in tasks if task.regressed()]
    if regressed:
        told = ", ".join(f"{task.task} by {-task.gain:.4g} (at most {task.bound:g})" for task in regressed)
        return False, f"it is worse past the bound at {told}"
    better = [task for task in tasks if task.judged and task.gain > 0 and task.adjusted <= promotion.error_rate]
    if not better:
        best = min((task for task in tasks if task.judged), key=lambda task: task.adjusted)
        return (
            False,
            f"it is better at no task beyond the noise (nearest: {best.task}, p = {best.adjusted:.2g} after Holm)",
        )
    told = ", ".join(
        f"{task.task} by {task.gain:.4g} (95 % interval {task.low:.4g} to {task.high:.4g}, p = {task.adjusted:.2g})"
        for task in better
    )
    return True, f"it is better at {told}, and worse past no bound"


def _failures(failed: Sequence[Check]) -> str:
    return "; ".join(f"{check.name}: {check.told}" for check in failed)


def _publish(workspace: Path, registry: Any, challenger: Version, decision: Decision) -> None:
    """Pages, a run in MLflow, the tag and the alias: in this order, so that evidence is never behind the alias."""
    from flows.promotion.page import write_pages

    stem = workspace / ".inkwell" / "promotion" / f"{registry.name}-{challenger.number}" / "promotion"
    decision.pages = stem
    write_pages(stem, decision)
    figures = {f"{task.task}.gain": task.gain for task in decision.tasks if task.judged}
    outcome = "promoted" if decision.promoted else "kept"
    tags = {
        "inkwell.decision": outcome,
        "inkwell.version": challenger.number,
        "inkwell.digest": decision.challenger["digest"],
    }
    decision.run = registry.record("promote", [stem.with_suffix(kind) for kind in (".json", ".html")], tags, figures)
    evidence = f"runs:/{decision.run}/promotion.json"
    if decision.promoted:
        registry.crown(challenger, decision.by, decision.reason, evidence)
    elif decision.champion is None or decision.champion["version"] != challenger.number:
        registry.tell(challenger, decision.by, decision.reason, evidence, tag="inkwell.refusal")


def sentence(decision: Decision, name: str = "") -> str:
    """What became of it, in one sentence."""
    number = decision.challenger["version"]
    which = f"version {number}" if number else "the challenger"
    if decision.promoted:
        instead = f" in place of version {decision.champion['version']}" if decision.champion else ""
        return f"{name}{which} is the champion{instead}: {decision.reason}."
    stays = (
        f"version {decision.champion['version']} stays the champion"
        if decision.champion
        else f"{which} is not promoted"
    )
    return f"{name}{stays}: {decision.reason}."


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.promote",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit status: 0 promoted, 3 the champion stays, 2 something to mend.",
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument("--by", help="who decides (default: INKWELL_BY, git's user.name, the user)")
    parser.add_argument("--plan", action="store_true", help="decide and show, but register and move nothing")
    arguments = parser.parse_args(argv)
    try:
        decision = decide(arguments.workspace, arguments.by, change=not arguments.plan)
        print_tables(decision)
        print(("plan: " if arguments.plan else "") + sentence(decision))
        if decision.pages:
            print(f"Evidence: {decision.pages.with_suffix('.html')}")
        if not arguments.plan:
            from flows.notify import tell

            tell(arguments.workspace, "promoted" if decision.promoted else "kept", sentence(decision))
    except InkwellError as error:
        print(f"promote: {error}", file=sys.stderr)
        return 2
    return 0 if decision.promoted else KEPT_CHAMPION


def print_tables(decision: Decision) -> None:
    """Checks and tasks, a line each."""
    for check in decision.checks:
        print(f"  {'ok  ' if check.holds else 'FAIL'}  {check.name}: {check.told}")
    for task in decision.tasks:
        if not task.judged:
            print(f"  --    {task.task}: {task.documents} documents in common, too few")
            continue
        state = "FAIL" if task.regressed() else "ok  "
        print(
            f"  {state}  {task.task}: {task.champion:.4g} → {task.challenger:.4g}, gain {task.gain:+.4g} "
            f"({task.low:+.4g} to {task.high:+.4g}), p = {task.adjusted:.2g}, {task.documents} documents"
        )


if __name__ == "__main__":
    sys.exit(main())
