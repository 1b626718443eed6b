"""Files of DVC's cache, held against their names: each is called by the hash of its content.

DVC believes a file of its cache that is write-protected: what a failing disk or a stray program has made of it is copied out, and noted under
the hash that it should have. What is to be restored is therefore read before. Nothing else is: where nothing is to do, no file is read.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any


def whole(cache: Any, value: str) -> bool:
    """Whether `cache` (DVC's, a folder of this machine) holds the bytes that the hash `value` was taken of; not, where it holds none."""
    from dvc_data.hashfile.hash import file_md5

    try:
        return bool(file_md5(cache.oid_to_path(value), cache.fs) == value.removesuffix(".dir"))
    except FileNotFoundError:
        return False


def names_of(cache: Any, value: str) -> list[str]:
    """The hash `value` itself and, of a folder whose list is whole, those of its files."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    names = [value]
    if value.endswith(".dir") and whole(cache, value):
        names += [str(info.value) for _, _, info in Tree.load(cache, HashInfo("md5", value))]
    return list(dict.fromkeys(names))


def drop_damaged(cache: Any, path: str, value: str) -> str | None:
    """Remove from the cache what is damaged of the output `path`, whose hash is `value`; one sentence about it, None where nothing is.

    What lacks is left to DVC, which fetches it or runs the stage: just that happens to what was removed as well.
    """
    damaged = [
        name for name in names_of(cache, value) if Path(cache.oid_to_path(name)).exists() and not whole(cache, name)
    ]
    for name in damaged:
        Path(cache.oid_to_path(name)).unlink(missing_ok=True)  # another stage may have met it too
    if not damaged:
        return None
    shown = ", ".join(name[:8] for name in damaged[:3]) + (", ..." if len(damaged) > 3 else "")
    files = "1 file" if len(damaged) == 1 else f"{len(damaged)} files"
    return f"{path} is damaged in DVC's cache: {files} removed ({shown}), to be fetched or made again."


def drop_damaged_of(repo: Any, stages: Collection[str]) -> list[str]:
    """The same for all outputs of the named stages that dvc.lock knows and the workspace lacks: `repo.pull` would copy them out unread."""
    from dvc.stage import PipelineStage

    said = []
    for node in repo.index.stages:
        if isinstance(node, PipelineStage) and node.name in stages:
            for out in node.outs:
                if out.use_cache and out.hash_info and not Path(out.fs_path).exists():
                    said.append(drop_damaged(repo.cache.local, str(out.def_path), str(out.hash_info.value)))
    return [sentence for sentence in said if sentence]
