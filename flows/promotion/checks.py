"""What has to hold of a challenger besides being better: gates, bytes, size, speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from flows.promotion.decision import Check

if TYPE_CHECKING:
    from components.configuration import Promotion


def up_to_date(workspace: Path) -> None:
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


def gates(workspace: Path) -> list[Check]:
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


def intact(export: Path, manifest: Mapping[str, Any]) -> Check:
    """Every file of the manifest has the bytes that it names."""
    from components.export.lineage import file_hash

    wrong = [
        str(entry["file"])
        for entry in manifest["files"]
        if not (export / str(entry["file"])).is_file() or file_hash(export / str(entry["file"])) != entry["sha256"]
    ]
    told = f"{', '.join(wrong)}: not the bytes of the manifest" if wrong else f"{len(manifest['files'])} files verified"
    return Check("hashes", not wrong, told)


def largest(manifest: Mapping[str, Any], promotion: Promotion) -> list[Check]:
    """Whether the largest file is within the bound for any model; no check where there is no bound."""
    if promotion.maximum_bytes is None:
        return []
    entry = max(manifest["files"], key=lambda entry: entry["bytes"])
    told = f"{entry['file']} has {entry['bytes']:,} bytes, allowed are {promotion.maximum_bytes:,}"
    return [Check("maximum bytes", entry["bytes"] <= promotion.maximum_bytes, told)]


def sizes(before: Mapping[str, Any], now: Mapping[str, Any], promotion: Promotion) -> list[Check]:
    """How much larger the files of each format have become that both have."""
    bytes_of = [{entry["format"]: entry["bytes"] for entry in one["files"]} for one in (before, now)]
    common = [
        kind for kind in bytes_of[0].keys() & bytes_of[1].keys() if kind.startswith("gguf") or kind == "safetensors"
    ]
    if not common:
        return [Check("size", False, "the two exports have no format in common to compare sizes in")]
    worst = max(sorted(common), key=lambda kind: bytes_of[1][kind] / bytes_of[0][kind])
    times = bytes_of[1][worst] / bytes_of[0][worst]
    told = f"{worst}: {bytes_of[0][worst]:,} → {bytes_of[1][worst]:,} bytes, {times:.2f} times; allowed are {promotion.maximum_growth:g}"
    return [Check("size", times <= promotion.maximum_growth, told)]


def speed(measured: tuple[str, float, float] | None, promotion: Promotion) -> Check:
    """Whether the challenger is fast enough; `measured`: (format, champion's, challenger's tokens per second), None where nothing could be."""
    if measured is None:  # a bound that nobody can check does not hold
        told = "the two exports have no kind of GGUF file in common to measure; promotion.minimum_speed: 0 asks for no speed"
        return Check("speed", False, told)
    kind, before, now = measured
    told = f"{kind}: {before:,.0f} → {now:,.0f} tokens/s, {now / before:.2f} times; at least {promotion.minimum_speed:g} asked"
    return Check("speed", now >= promotion.minimum_speed * before, told)
