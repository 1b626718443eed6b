"""The exported files, what quantization cost them, and commands that use them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.figures import FORMS, figure, small
from components.report import ancestry, pictures
from components.report.evidence import Evidence, Row
from components.report.sections.excerpts import cut

if TYPE_CHECKING:
    from markupsafe import Markup


def exports(evidence: Evidence, inputs: Mapping[str, Path]) -> Row | None:
    """The GGUF files with what they cost, then the other files."""
    if not evidence.manifest:
        return None
    quantized, others = [], []
    origin = "models/export/manifest.json"
    for file, holds in ancestry.files(evidence, inputs):
        format = str(file["format"]).removeprefix("gguf ")
        shown = {
            "file": file["file"],
            "bytes": figure(file["bytes"], "size", f"{origin}: bytes of {file['file']}"),
            "sha256": file["sha256"],
            "holds": holds,
            "format": format,
        }
        if "tensors_by_type" not in file:
            others.append(shown)
            continue
        kinds = sorted(file["tensors_by_type"].items(), key=lambda item: (-item[1], item[0]))
        compared = {
            name: figure(evidence.metric("export", f"{name}_{format}"), form, f"metrics/export.json: {name}_{format}")
            for name, form in (("kl", "small"), ("bits_per_char", "bits"), ("top_token", "percent"), ("greedy_identical", "percent"))
        }  # fmt: skip
        types = ", ".join(f"{amount} {kind}" for kind, amount in kinds)
        quantized.append({**shown, **compared, "types": types, "fallbacks": len(file.get("fallbacks", []))})
    sizes = [
        (item["format"], file["bytes"])
        for item in quantized
        for file in evidence.manifest["files"]
        if file["file"] == item["file"]
    ]
    divergences = [
        (item["format"], value)
        for item in quantized
        if (value := evidence.metric("export", f"kl_{item['format']}")) is not None
    ]
    return {
        "name": evidence.manifest.get("name"),
        "model": evidence.manifest.get("model"),
        "architecture": evidence.manifest.get("architecture"),
        "quantized": quantized,
        "others": others,
        "sizes": _export_bars("export-sizes", "File size", sizes, FORMS["size"]),
        "divergences": _export_bars("export-kl", "Divergence from the torch model, nats a token", divergences, small),
    }


def _export_bars(name: str, said: str, values: Sequence[tuple[str, float]], form: Any) -> Markup | None:
    if not values:
        return None
    alternative = f"{said}: " + ", ".join(f"{label} {form(value)}" for label, value in values)
    return pictures.picture(name, alternative, pictures.bars(values, form), height=0.4 + 0.28 * len(values))


def usage(evidence: Evidence) -> Row | None:
    """Commands that work with the files that are there."""
    files = [file["file"] for file in evidence.manifest.get("files", []) if file["file"].endswith(".gguf")]
    if not evidence.manifest:
        return None
    # The smallest loss for half the size, where it was made.
    best = next((file for file in files if file.endswith("q8_0.gguf")), files[0] if files else None)
    example = evidence.manifest.get("example", {})
    question = example["messages"][-1]["content"] if example.get("messages") else None
    prompt = question or example.get("prompt") or ""
    return {
        "generate": f"python -m components.generate {'--chat ' if question else ''}{shlex.quote(cut(prompt, 60))}",
        "chats": question is not None,
        "gguf": best,
        "gguf_command": shlex.quote(f"models/export/{best}") if best else None,
        "name": evidence.manifest.get("name"),
    }
