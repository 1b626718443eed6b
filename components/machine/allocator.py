"""glibc's allocator, told to keep large blocks: training on a CPU otherwise spends half its time on page faults.

glibc reads these settings once, when a process starts, so a step that trains replaces itself by the same command with
the settings in its environment. Other C libraries and systems ignore them; an allocator that the user has preloaded
(tcmalloc, jemalloc, mimalloc) and settings that the user has made stay as they are. The first run measures what the
settings gain on this machine (`gain`); where they make it slower, runs after it are left without them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_KEEP = {
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap, which is reused, not from fresh mappings
    "MALLOC_TOP_PAD_": "536870912",  # grow by 512 MiB at a time
    "MALLOC_TRIM_THRESHOLD_": "10000000000",  # and give nothing back before the end
}
# the heap in pages of 2 MiB where the kernel leaves that to programs (glibc 2.35 and later; older ones ignore it)
_LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
_PRELOADED = ("tcmalloc", "jemalloc", "mimalloc")
_BLOCK, _ROUNDS, _TRIES = 64 << 20, 8, 3  # of `gain`: bytes a block, blocks a try, tries of which the best counts


def keep_large_blocks(module: str) -> None:
    """Re-execute `python -m module` with the settings, once; the process id and the arguments stay the same.

    Nothing happens where `machine.allocator` is off, and with auto where another allocator is preloaded, the user has set
    glibc's variables, or the settings were slower here.
    """
    if {"-h", "--help", "--parameters"} & set(sys.argv[1:]) or set(_KEEP) <= os.environ.keys():
        return
    settings = settings_for(_wanted(sys.argv[1:]), os.environ)
    if settings:
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **settings})


def settings_for(wanted: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `environment` for `machine.allocator` = auto, glibc or off; none where nothing is to be done."""
    if wanted == "off" or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return {}
    if wanted == "auto" and in_use(environment) not in ("glibc", "off"):
        return {}
    if wanted == "auto" and (any(name in environment for name in _KEEP) or (remembered_gain() or 1.0) < 1.0):
        return {}
    name, value = _LARGE_PAGES
    return {**_KEEP, **({} if name in environment else {name: value})}


def in_use(environment: Mapping[str, str] | None = None) -> str:
    """What this process allocates with: "glibc" (keeping large blocks), a preloaded allocator's name, or "off"."""
    known = os.environ if environment is None else environment
    preloaded = known.get("LD_PRELOAD", "") + known.get("DYLD_INSERT_LIBRARIES", "")
    found = next((name for name in _PRELOADED if name in preloaded), None)
    return found or ("glibc" if all(known.get(name) == value for name, value in _KEEP.items()) else "off")


def gain() -> float | None:
    """How much faster operations that need fresh memory are with the settings than without: a ratio of times.

    Two child processes multiply an array into fresh blocks of 64 MiB, one with glibc's settings and one without; it takes
    half a second. None where the settings have no effect or a child fails.
    """
    settings = settings_for("glibc", {})
    if not settings:
        return None
    plain = {name: value for name, value in os.environ.items() if name not in (*settings, "LD_PRELOAD")}
    seconds = [_child_seconds({**plain, **more}) for more in ({}, settings)]
    without, with_settings = seconds
    return without / with_settings if without and with_settings else None


def remember_gain(found: float) -> None:
    """Keep what `gain` found for the processes that start after this one; 0, where it found nothing, is not kept."""
    from components.machine.cache import remember

    if found:
        remember("allocator", _identity(), {"gain": found})


def remembered_gain() -> float | None:
    """What `gain` found on this machine, None where it was not asked yet. Read without PyTorch: the process starts anew."""
    from components.machine.cache import recall

    found = (recall("allocator", _identity()) or {}).get("gain")
    return float(found) if isinstance(found, int | float) else None


def _identity() -> dict[str, str]:
    from components.machine.cache import processor

    return {"processor": processor(), "system": platform.release(), "library": " ".join(platform.libc_ver())}


def _child_seconds(environment: Mapping[str, str]) -> float | None:
    code = (
        "import time, numpy\n"
        f"data = numpy.ones({_BLOCK} // 4, dtype='float32')\n"
        "def work():\n"
        f"    started = time.perf_counter()\n    for _ in range({_ROUNDS}): data * 2\n"
        "    return time.perf_counter() - started\n"
        f"work(); print(min(work() for _ in range({_TRIES})))\n"
    )
    try:
        # numpy would ask for large pages by itself, and PyTorch does not
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "NUMPY_MADVISE_HUGEPAGE": "0"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _wanted(arguments: Sequence[str]) -> str:
    """`machine.allocator` of the command line or params.yaml; auto where it is not to be had.

    The whole configuration is read and checked after the process has started anew: mistakes in it are told then.
    """
    import yaml

    found: Any = None
    file = Path("params.yaml")
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, _, value = argument.partition("=")
        if before == "--params" or option == "--params":
            file = Path(argument if before == "--params" else value)
        setting = argument if before == "--set" else value if option == "--set" else ""
        if setting.partition("=")[0].strip() == "machine.allocator":
            found = setting.partition("=")[2].strip()
    if found is None:
        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            found = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)["machine"]["allocator"]
        except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
            found = "auto"
    if found is False:  # YAML reads a bare off as false
        return "off"
    return found if found in ("auto", "glibc", "off") else "auto"
