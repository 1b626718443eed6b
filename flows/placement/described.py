"""A placement from its description, which command lines and deployments give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from flows.placement.isolated import Isolated
from flows.placement.workspace import Placement, Workspace


def placed(folder: Path, placement: Mapping[str, Any] | None) -> Placement:
    """The placement that a mapping describes: {"kind": "workspace"} or {"kind": "isolated", "remote": ...}, as deployments give it.

    InkwellError for another kind or an unknown setting.
    """
    settings = dict(placement or {})
    kind = settings.pop("kind", "workspace")
    known = {"workspace": (), "isolated": ("remote", "allow_dirty", "repository", "scratch", "launchers")}
    if kind not in known:
        raise InkwellError(f"there is no placement {kind!r}; known are {' and '.join(known)}.")
    unknown = [name for name in settings if name not in known[kind]]
    if unknown:
        raise InkwellError(f"the placement {kind} has no setting {unknown[0]!r}.")
    if kind == "workspace":
        return Workspace(folder)
    if not settings.get("remote"):
        raise InkwellError(
            "isolated stages need a DVC remote to meet at: --remote NAME (of `dvc remote list`) or an address."
        )
    if settings.get("scratch"):
        settings["scratch"] = Path(settings["scratch"])
    return Isolated(folder, **settings)
