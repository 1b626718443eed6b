"""What was measured on this machine, kept in the user's cache so that it is measured once.

A file belongs to one identity: processor, cores, version of PyTorch and whatever else a measurement depends on. It stands in
$INKWELL_CACHE/calibration (else $XDG_CACHE_HOME/inkwell, else ~/.cache/inkwell); a damaged one counts as none.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.atomic import atomic_file

_FORMAT = 1  # of what is kept; a change makes older files void
_passing: dict[Path, dict[str, Any]] = {}  # what holds for this process only, by the file that it is not written to


def machine_identity() -> dict[str, Any]:
    """What a measurement on this machine depends on: processor, cores that this process may use, accelerators, PyTorch."""
    import torch

    from components.machine.allocator import in_use
    from components.machine.cores import available_cores

    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "format": _FORMAT,
        "processor": processor(),
        "cores": available_cores(),
        "allocator": in_use(),
        "accelerators": cards or (["mps"] if torch.backends.mps.is_available() else []),
        "torch": torch.__version__,
    }


def processor() -> str:
    """Name of the processor and a digest of what it can do (a virtual machine may hide some of it)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    name = re.search(r"^(?:model name|Hardware|CPU part)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    digest = hashlib.sha256(" ".join(sorted(flags[1].split())).encode()).hexdigest()[:8] if flags else ""
    return f"{platform.machine()} {name[1].strip() if name else ''} {digest}".strip()


def recall(name: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was remembered under this name and identity; None where there is nothing, or nothing that can be read."""
    file = _file(name, identity)
    if file in _passing:
        return _passing[file]
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        found = saved["found"] if saved["identity"] == _plain(identity) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def remember(name: str, identity: Mapping[str, Any], found: Mapping[str, Any], lasting: bool = True) -> None:
    """Keep it in the user's cache, atomically. A cache that cannot be written costs the next run a calibration, no more.

    lasting: False keeps it for this process only, so that it does not decide one way now and another in a minute.
    """
    if not lasting:
        _passing[_file(name, identity)] = _plain(found)
        return
    try:
        with atomic_file(_file(name, identity)) as temporary:
            temporary.write_text(json.dumps({"identity": identity, "found": found}, indent=1) + "\n", encoding="utf-8")
    except OSError:
        return


def _file(name: str, identity: Mapping[str, Any]) -> Path:
    from components.fetching.cache import cache_folder

    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / "calibration" / f"{name}-{digest}.json"


def _plain(value: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(value))


def learnt_compile_gain(identity: Mapping[str, Any]) -> float | None:
    """How many times as fast compiled steps were as eager ones, in whole runs on this machine; None before there was one."""
    known = recall("achieved", identity) or {}
    compiled, eager = known.get("compiled"), known.get("eager") or known.get("calibrated")
    return compiled / eager if compiled and eager else None


def learn(identity: Mapping[str, Any], *, compiled: bool, rate: float, calibrated: float | None = None) -> float | None:
    """Remember the rate (tokens a second) that a whole run reached; returns the gain of compiling where it is known.

    calibrated: the rate of eager steps in the calibration, which stands for a whole eager run until there was one. The
    latest run's rate takes the place of earlier ones.
    """
    known = recall("achieved", identity) or {}
    known["compiled" if compiled else "eager"] = rate
    if calibrated:
        known["calibrated"] = calibrated
    remember("achieved", identity, known)
    return learnt_compile_gain(identity)
