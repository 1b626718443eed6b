"""One training run: what its outcome depends on, and the folders that belong to it.

`.inkwell/work/<step>/<run>` holds checkpoints and whatever was decided for the run; it is removed when the step has ended
well. `.inkwell/runs/<step>/<run>` is kept: the run log and the history of checkpoints.

A run goes on when its identity is the same: data, tokenizer, seed, every parameter that the weights depend on, and the
code that computes them (without comments; the modules are listed below). What only changes how the work is cut up
(micro-batch, accumulation, processes, threads, intervals, what is done about anomalies) may change between two processes of
one run, and is told. Where the best weights are kept, when and on what they are validated decides too.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from components.atomic import atomic_file
from components.errors import InkwellError
from components.step import STATE, content_hash
from components.training.run_log import RunLog

if TYPE_CHECKING:
    from components.configuration.training import Optimization
    from components.step import Context

IDENTITY = "identity.json"
CHECKPOINTS = "checkpoints"
CHECKPOINT_PATTERN = "rows-*"
# parameters whose product is what a run is worth: each may change as long as the steps, or the rows, stay the same
COURSE = ("steps", "micro_batch", "accumulation")
FREE = (
    "checkpoints",
    "anomalies",
    "validation_every",
    "validation_documents",
    "validation_conversations",
    "sample_every",
    "activation_checkpointing",
)
# what decides which weights are the best, where a run ends with those
_JUDGES = ("validation_every", "validation_documents", "validation_conversations")
# Modules that decide about weights. What only shows, measures, plans or starts is none of them: a run goes on when it is mended.
_CODE = (
    *("chat/encoding", "chat/markup", "corpus/conversations", "corpus/packed"),
    *("model/architectures", "model/folders", "model/forward", "model/initial"),
    *("training/anomalies", "training/averaging", "training/checkpoints", "training/computation"),
    *("training/distributed", "training/pipeline", "training/sharded_optimizer", "training/tensor_parallel"),
    *("training/fused/attention", "training/fused/decoder", "training/fused/loss", "training/fused/weights"),
    *("training/module", "training/muon", "training/optimizers", "training/order", "training/packing"),
    *("training/recipe", "training/residual_dropout", "training/schedules", "training/shares", "training/strategies"),
)
# of the steps: a plan is saved with the run, so what makes plans does not count; of a step that is not here all modules do
_STEP_CODE = {"pretrain": ("data",), "sft": ("data", "lora")}
_LIBRARIES = ("torch", "transformers", "lightning")


@dataclass
class Run:
    """Folders and log of a run. `resumes`: a process before this one left checkpoints. Followers write nothing."""

    work: Path
    kept: Path
    log: RunLog
    resumes: bool
    leader: bool = True
    _lock: TextIO | None = field(default=None, repr=False)

    def release(self) -> None:
        """Let another process have the run."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        """Where the states lie from which training goes on."""
        return self.work / CHECKPOINTS

    @property
    def history(self) -> Path:
        """Where model folders are kept for ever."""
        return self.kept / "history"


def open_run(context: Context, parameters: Optimization, leader: bool = True) -> Run:
    """The unfinished run of this identity, or a new one.

    Raises InkwellError when another process works on it, and, where `checkpoints.other` is refuse, when the newest
    unfinished run of the step is another one; the sentence names what differs.
    """
    section = context.step.section or context.step.name
    identity = _identity(context, section, parameters)
    course = {name: getattr(parameters, name) for name in COURSE}
    changeable = {
        **{
            f"{section}.{name}": value
            for name, value in parameters.model_dump(mode="json").items()
            if name in (*COURSE, *FREE)
        },
        "machine": context.configuration.machine.model_dump(mode="json"),
        **{name: version(name) for name in _LIBRARIES},
    }
    described = {"identity": identity, "course": course, "may_change": changeable}
    folder = STATE / "work" / context.step.name
    unfinished = _unfinished(folder)
    name = hashlib.sha256(json.dumps([identity, course], sort_keys=True).encode()).hexdigest()[:16]
    work = next(
        (path for path, saved in unfinished if saved["identity"] == identity and _same_course(saved["course"], course)),
        folder / name,
    )
    others = [(path, saved) for path, saved in unfinished if path != work]
    resumes = any((work / CHECKPOINTS).glob(CHECKPOINT_PATTERN))
    if others and not resumes and leader:
        _tell_other(*others[0], described, section, parameters.checkpoints.other)
    kept = STATE / "runs" / context.step.name / work.name
    run = Run(work, kept, RunLog(kept / "run.log" if leader else None), resumes, leader)
    if leader:
        work.mkdir(parents=True, exist_ok=True)
        run._lock = _lock(work)
        described["course"] = _tell_changes(run, described)
        with atomic_file(work / IDENTITY) as temporary:
            temporary.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return run


def _identity(context: Context, section: str, parameters: Optimization) -> dict[str, Any]:
    chosen = {
        f"{section}.{name}": value
        for name, value in parameters.model_dump(mode="json").items()
        if name not in (*COURSE, *FREE)
    }
    if parameters.checkpoints.keep_best:
        chosen[f"{section}.checkpoints.keep_best"] = True
        chosen |= {f"{section}.{name}": getattr(parameters, name) for name in _JUDGES if hasattr(parameters, name)}
    data = {name: content_hash(path) for name, path in sorted(context.inputs.items()) if path.exists()}
    initial = getattr(parameters, "initial", None)
    if initial and Path(initial).exists():
        data["initial weights"] = content_hash(Path(initial))
    return {"seed": context.seed, **chosen, "data": data, "code": _code(context.step.name)}


def _code(step: str) -> dict[str, str]:
    package = Path(__file__).parents[1]
    if step in _STEP_CODE:
        own = [package / step / f"{name}.py" for name in _STEP_CODE[step]]
    else:
        own = [*(package / step).rglob("*.py")]
    files = [*(package / f"{name}.py" for name in _CODE), *own]
    missing = [str(file) for file in files if not file.exists()]
    assert not missing, f"moved, or renamed: {', '.join(missing)}"
    return {file.relative_to(package).as_posix(): code_hash(file.read_text(encoding="utf-8")) for file in sorted(files)}


def code_hash(source: str) -> str:
    """Identity of what a module of Python does: comments, layout and docstrings do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _unfinished(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Runs that left checkpoints, the newest first."""
    found = []
    for path in folder.glob(f"*/{IDENTITY}"):
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            checkpoints = (path.parent / CHECKPOINTS).glob(CHECKPOINT_PATTERN)
            newest = max((entry.stat().st_mtime_ns for entry in checkpoints), default=None)
        except (OSError, ValueError):  # being written, or left half written by a full disk
            continue
        if newest is not None and isinstance(saved, dict) and {"identity", "course"} <= saved.keys():
            found.append((newest, path.parent, saved))
    return [(path, saved) for _, path, saved in sorted(found, key=lambda one: one[0], reverse=True)]


def _same_course(saved: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Equal steps, whatever the batch: the run keeps its rows. Or equal rows, cut up otherwise."""
    rows, rows_now = (one["steps"] * one["micro_batch"] * one["accumulation"] for one in (saved, now))
    return saved["steps"] == now["steps"] or rows == rows_now


def _tell_other(path: Path, saved: Mapping[str, Any], described: Mapping[str, Any], section: str, policy: str) -> None:
    differences = describe_differences(saved["identity"], described["identity"])
    if not differences:
        before, now = (
            {f"{section}.{name}": value for name, value in one["course"].items()} for one in (saved, described)
        )
        differences = describe_differences(before, now)
    text = f"an unfinished run of {section} lies in {path}; it differs in: {'; '.join(differences)}."
    if policy == "refuse":
        raise InkwellError(
            f"{text} Put that back to go on with it, delete the folder, or set {section}.checkpoints.other to fresh to "
            "start beside it."
        )
    print(f"  {text} It is kept until its folder is deleted, and a new run starts beside it.", flush=True)


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, in words: `name old -> new` for values, the names alone for data and code."""
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if name in ("data", "code"):
                changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
                found.append(f"the {name} of {', '.join(changed)}")
            else:
                found += [f"{name}.{text}" for text in describe_differences(before, after)]
        else:
            found.append(f"{name} {json.dumps(before)} -> {json.dumps(after)}")
    return found


def _lock(work: Path) -> TextIO:
    """Held until this process ends, however it ends. Where the disk knows no locks, that is told, and nothing is held."""
    handle = (work / "lock").open("a+", encoding="utf-8")
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        owner = handle.read().strip() or "?"
        handle.close()
        raise InkwellError(f"process {owner} is at work on this run ({work}): wait for it, or end it first.") from None
    except (OSError, ImportError) as error:  # ENOLCK or ENOSYS of a network disk; Windows has no fcntl
        reason = getattr(error, "strerror", None) or error
        print(f"  {work} cannot be locked ({reason}): take care that no second process works on this run.", flush=True)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _tell_changes(run: Run, described: Mapping[str, Any]) -> Any:
    """Say how this process differs from the last one of the run; returns the course that the run began with."""
    if not run.resumes:
        run.log.add(f"new run {run.work.name}")
        return described["course"]
    saved = json.loads((run.work / IDENTITY).read_text(encoding="utf-8"))
    changes = describe_differences(saved.get("may_change", {}), described["may_change"])
    killed = "" if run.log.closed() else ", for the process before was killed"
    run.log.add(f"started again{killed}{': ' + '; '.join(changes) if changes else ''}")
    if changes:
        print(f"  since this run was last at work, changed: {'; '.join(changes)}", flush=True)
    return saved["course"]
