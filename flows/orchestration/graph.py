"""The pipeline's stages, read from DVC: the graph is written once, in dvc.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import InkwellError


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml. `upstream` names the stages whose outputs it reads.

    What stands from `retries` on comes from the stage's `meta`, which no hash of DVC knows: changing it re-runs nothing.
    """

    name: str
    summary: str
    command: str
    upstream: tuple[str, ...]
    outputs: tuple[str, ...]  # paths relative to the workspace, metrics not among them
    retries: int = 0
    timeout_minutes: float | None = None
    concurrency: str | None = None  # stages with the same key share the slots of Prefect's limit of that name
    pool: str | None = None  # where it runs, for placements that know several places
    uncached: tuple[str, ...] = ()  # outputs and metrics that DVC hashes and does not keep
    inputs: tuple[str, ...] = ()  # files and folders below the workspace that it reads


def read_stages(workspace: Path, targets: Sequence[str] = (), downstream: Sequence[str] = ()) -> list[Stage]:
    """Stages in an order in which they can run.

    With `targets`, those and what they need; with `downstream`, those and what needs them; with both, what both name.
    Raises InkwellError when the folder is no DVC repository, dvc.yaml is broken, or a target is unknown.
    """
    with _repository(workspace) as repo:
        return _stages_of(repo, workspace, targets, downstream)


def read_changes(
    workspace: Path, targets: Sequence[str] = (), downstream: Sequence[str] = ()
) -> tuple[list[Stage], dict[str, list[Any]]]:
    """`read_stages`, and what `dvc status` says of those that have changed, by name; the graph is read once for both."""
    from dvc.repo import lock_repo
    from dvc.stage import PipelineStage

    # From inside: DVC's status takes outputs that the process is not beside for some of another repository.
    with _repository(workspace) as repo, chdir(workspace), lock_repo(repo):
        stages = _stages_of(repo, Path(), targets, downstream)
        wanted = {stage.name for stage in stages}
        changes: dict[str, list[Any]] = {}
        # Each stage by itself: `repo.status(targets=...)` reads dvc.yaml, dvc.lock and params.yaml anew for each target.
        for node in repo.index.stages:
            if isinstance(node, PipelineStage) and node.name in wanted:
                for found in node.status(check_updates=True).values():
                    changes[node.name] = found
        return stages, changes


@contextmanager
def _repository(workspace: Path) -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    if not (workspace / "dvc.yaml").exists() or not (workspace / ".dvc").exists():
        raise InkwellError(
            f"{workspace} is no pipeline's folder (dvc.yaml, .dvc): run in the project, or make one with `python -m flows.workspace`."
        )
    try:
        with Repo(str(workspace)) as repo:
            yield repo
    except LockError as error:
        raise InkwellError(
            f"another `dvc` is at work in {workspace.resolve()}: ask again when it has ended ({' '.join(str(error).split())})."
        ) from error
    except DvcException as error:
        raise InkwellError(f"{workspace / 'dvc.yaml'} is no valid pipeline: {' '.join(str(error).split())}.") from error


def _stages_of(repo: Any, workspace: Path, targets: Sequence[str], downstream: Sequence[str]) -> list[Stage]:
    import networkx
    from dvc.stage import PipelineStage

    graph = repo.index.graph  # an edge a -> b means: a depends on b
    found = {node.name: node for node in graph if isinstance(node, PipelineStage)}
    names = networkx.DiGraph()
    names.add_nodes_from(found)
    names.add_edges_from(
        (a.name, b.name) for a, b in graph.edges if isinstance(a, PipelineStage) and isinstance(b, PipelineStage)
    )
    described = {name: _describe(node, names, workspace) for name, node in found.items()}
    unknown = [name for name in (*targets, *downstream) if name not in described]
    if unknown:
        raise InkwellError(f"there is no stage {unknown[0]!r}; known are {', '.join(described)}.")
    wanted = set(described)
    if targets:
        wanted &= set(targets).union(*(networkx.descendants(names, target) for target in targets))
    if downstream:
        wanted &= set(downstream).union(*(networkx.ancestors(names, name) for name in downstream))
    if not wanted:
        raise InkwellError(f"nothing of {', '.join(targets)} comes after {', '.join(downstream)}.")
    written = {name: place for place, name in enumerate(described)}  # ties in the order of dvc.yaml
    order = networkx.lexicographical_topological_sort(names.reverse(), key=lambda name: written[name])
    return [described[name] for name in order if name in wanted]


def _describe(node: Any, names: Any, workspace: Path) -> Stage:
    meta = _hints(node, workspace)
    root = workspace.resolve()
    return Stage(
        name=node.name,
        summary=str(node.desc or ""),
        command=str(node.cmd),
        upstream=tuple(sorted(names.successors(node.name))),
        outputs=tuple(sorted(Path(out.fs_path).relative_to(root).as_posix() for out in node.outs if not out.metric)),
        retries=meta.get("retries", 0),
        timeout_minutes=float(meta["timeout_minutes"]) if "timeout_minutes" in meta else None,
        concurrency=meta.get("concurrency"),
        pool=meta.get("pool"),
        uncached=tuple(
            sorted(Path(out.fs_path).relative_to(root).as_posix() for out in node.outs if not out.use_cache)
        ),
        inputs=tuple(
            sorted(
                Path(dep.fs_path).relative_to(root).as_posix()
                for dep in node.deps
                if Path(dep.fs_path).is_relative_to(root)
            )
        ),
    )


def _hints(node: Any, workspace: Path) -> Mapping[str, Any]:
    """The stage's `meta`, checked; names that are not ours belong to someone else and are left alone."""
    meta = node.meta if isinstance(node.meta, Mapping) else {}
    for name, fits, wanted in (
        ("retries", lambda value: type(value) is int and value >= 0, "a whole number, at least 0"),
        ("timeout_minutes", lambda value: type(value) in (int, float) and value > 0, "a number above 0"),
        ("concurrency", lambda value: isinstance(value, str) and value != "", "a name"),
        ("pool", lambda value: isinstance(value, str) and value != "", "a name"),
    ):
        if name in meta and not fits(meta[name]):
            raise InkwellError(
                f"{workspace / 'dvc.yaml'}: meta.{name} of stage {node.name} is {meta[name]!r} and has to be {wanted}."
            )
    return meta


def last_seconds(workspace: Path) -> dict[str, float]:
    """Seconds that each stage took when it last ran with the parameters of now; stages of which that is unknown lack."""
    import yaml

    try:
        parameters = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))
        locked = yaml.safe_load((workspace / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return {}
    seconds = {}
    for name, stage in locked.items():
        recorded = stage.get("params", {}).get("params.yaml", {})
        if all(_at(parameters, key) == value for key, value in recorded.items()):
            try:
                seconds[name] = float(
                    json.loads((workspace / "metrics" / f"{name}.json").read_text(encoding="utf-8"))["seconds"]
                )
            except (OSError, KeyError, ValueError):
                continue
    return seconds


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
