"""Where a step ran, for its record in MLflow: code, environment, machine, seed. No host name, no user name, no path.

None of it may stand in a tracked output: an output cannot hold the commit that it will belong to, and its bytes must
not depend on the machine. It reaches MLflow as tags of the run, and outputs are joined to it by their hash.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the code that runs: a checkout, or a workspace's copy of it
LOCK = "requirements.lock"
# What decides the outcome beside the parameters, which stand with the run in full.
CODE = ("components", "flows", "conf/accepted", "dvc.yaml", LOCK)
LIBRARIES = (
    *("torch", "transformers", "tokenizers", "sentencepiece", "lightning", "numpy", "pyarrow", "rensa", "lighteval"),
    *("great-expectations", "gguf", "xllamacpp", "dvc", "mlflow", "prefect"),
)
_NAMED = 20  # changed files that are named; the rest are counted


def surroundings(seed: int, root: Path = ROOT) -> dict[str, str]:
    """Tags of a run: `inkwell.lock`, `.tree`, `.machine`, `.cores`, `.memory_gib`, `.accelerators`, `.python`, `.versions`, `.seed`.

    Only what can be had is told; nothing is imported that a step would not import by itself.
    """
    found = {
        "inkwell.seed": str(seed),
        "inkwell.python": f"{platform.python_implementation()} {platform.python_version()}",
        "inkwell.versions": json.dumps(_versions(), sort_keys=True),
        **_machine(),
        **commit_and_tree(root),
    }
    lock = root / LOCK
    if lock.is_file():
        found["inkwell.lock"] = _sha256(lock)
    return found


def accelerators() -> str | None:
    """Names of the accelerators as PyTorch sees them, "none" where it sees none; None where nothing has imported it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(cards) or ("mps" if torch.backends.mps.is_available() else "none")


def commit_and_tree(root: Path) -> dict[str, str]:
    """`mlflow.source.git.commit`, and `inkwell.tree`: "clean", or "changed: " and the files that differ from the commit.

    A workspace's copy of the code is held against the commit of the repository that it lies in. In an image there is none: there
    both are what its build was told (INKWELL_COMMIT, INKWELL_TREE). Empty where nobody knows.
    """
    asked = _git(root, "rev-parse", "--absolute-git-dir", "HEAD")
    if asked is None or len(asked.split("\n")) < 2:
        return {} if _in_a_repository(root) else _told_by_the_image()
    folder, commit = asked.split("\n")[:2]
    # The work tree is named, so that a copy in an ignored folder is compared too, instead of passing for unchanged.
    where = ("--git-dir", folder, "--work-tree", str(root))
    said = _git(root, *where, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", *CODE)
    found = {"mlflow.source.git.commit": commit}
    if said is not None:
        changed = sorted(entry[3:] for entry in said.split("\0") if len(entry) > 3)
        changed = [name for name in changed if not _is_left_out(root, name)]
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        found["inkwell.tree"] = f"changed: {', '.join(changed[:_NAMED])}{more}" if changed else "clean"
    return found


def _in_a_repository(root: Path) -> bool:
    """Whether git only could not answer: the image's commit would be that of other code."""
    return any((folder / ".git").exists() for folder in (root, *root.parents))


def _told_by_the_image() -> dict[str, str]:
    commit, tree = os.environ.get("INKWELL_COMMIT", ""), os.environ.get("INKWELL_TREE", "")
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        return {}
    return {"mlflow.source.git.commit": commit, **({"inkwell.tree": tree} if tree else {})}


def _is_left_out(root: Path, name: str) -> bool:
    """Whether a missing file belongs to a folder that this copy of the code does not have at all."""
    return not (root / Path(name).parts[0]).exists()


def _git(folder: Path, *arguments: str) -> str | None:
    # Without optional locks: a commit in another window must not meet an index that is locked by a mere look.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=5, check=False, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def _machine() -> dict[str, str]:
    from components.machine.cache import processor
    from components.machine.cores import available_cores

    found = {"inkwell.machine": processor(), "inkwell.cores": str(available_cores())}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["inkwell.memory_gib"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f}"
    cards = _cards()
    if cards:
        found["inkwell.accelerators"] = ", ".join(cards)
    return found


def _cards(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Accelerators that the kernel's driver names, without the second that importing PyTorch would cost."""
    models = []
    try:
        for file in sorted(folder.glob("*/information")):
            found = re.search(r"^Model:\s*(.+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
            models.append(found[1].strip() if found else "NVIDIA")
    except OSError:
        return models
    return models


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
