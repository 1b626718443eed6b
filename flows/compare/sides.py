"""What is compared: a workspace, a commit or DVC experiment, or a run in MLflow, each as the same few things."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from components.tracking.reading import Run
from flows.compare.tracked import Runs, runs_of
from flows.revisions import Revision, git, resolve

STAGES_WITH_CURVES = ("pretrain", "sft", "align")
_RUN = re.compile(r"[0-9a-f]{32}")
Curve = list[dict[str, float]]  # rows with step, and where known tokens and seconds since the beginning


@dataclass
class Side:
    """One of the two. What is not there is empty, never guessed; `absent` says why."""

    name: str
    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    generations: bytes | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    profile: dict[str, Any] | None = None
    documents: Path | bytes | None = None  # Parquet with `id` and `split`: data/clean itself, or its index
    digests: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    runs: Runs | None = None


def find(name: str, workspace: Path) -> Side:
    """The side that `name` stands for, looked for as a workspace, a run, an experiment and a revision, in this order.

    Raises InkwellError where it is none of these.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and (folder / "params.yaml").exists():
        side = _from_files(name, "workspace", lambda path: _read(folder / path), lambda path: _there(folder / path))
        side.facts["folder"] = str(folder)
        commit = git(folder, "rev-parse", "HEAD")
        if commit:
            changed = git(folder, "status", "--porcelain", "--untracked-files=no", ".")
            side.facts["commit"] = commit.decode().strip()[:12] + (" with changes" if changed else "")
        side.runs = runs_of(folder, _tracking_uri(side))
        return side
    here = _flat(_yaml(_read(workspace / "params.yaml"), workspace / "params.yaml"))
    if _RUN.fullmatch(name):
        runs = runs_of(workspace, here.get("tracking.uri"))
        run = runs.run(name) if runs else None
        if runs and run:
            return _from_mlflow(run, runs, workspace)
    commit_id = resolve(workspace, name)
    if commit_id:
        revision = Revision(workspace, commit_id)
        side = _from_files(name, "experiment or commit", revision.read, revision.cached)
        if not side.parameters:
            raise InkwellError(f"{name}: its commit has no params.yaml; name a commit of the pipeline.")
        side.facts["commit"] = commit_id[:12]
        side.runs = runs_of(workspace, here.get("tracking.uri"))
        for output in ("data/clean", "models/base"):
            if digest := revision.digest(output):
                side.digests[output] = digest
        return side
    raise InkwellError(
        f"{name} is no workspace (a folder with params.yaml), no run of MLflow, no DVC experiment and no Git revision in {workspace}: "
        "`dvc exp show` and `git log` list what there is."
    )


def _from_files(name: str, kind: str, read: Callable[[str], bytes | None], place: Callable[[str], Path | None]) -> Side:
    side = Side(name, kind)
    side.parameters = _flat(_yaml(read("params.yaml"), Path(name) / "params.yaml"))
    for stage in _STAGES:
        for key, value in _object(read(f"metrics/{stage}.json"), f"{name}: metrics/{stage}.json").items():
            if isinstance(value, int | float):
                side.metrics[f"{stage}.{key}"] = float(value)
    for stage in STAGES_WITH_CURVES:
        written = read(f"data/curves/{stage}.csv")
        if written:
            rate = side.metrics.get(f"{stage}.tokens_per_second")
            side.curves[stage] = _with_time(_rows(written, f"{name}: data/curves/{stage}.csv"), rate)
    side.samples = _samples(read("data/samples/pretrain.jsonl"), f"{name}: data/samples/pretrain.jsonl")
    side.generations = read("data/evaluation/generations.parquet")
    results = _object(read("data/evaluation/results.json"), f"{name}: data/evaluation/results.json")
    side.scores = results.get("scores", {})
    side.profile = _object(read("reports/data_docs/profile.json"), f"{name}: profile.json") or None
    side.documents = place("data/clean/documents.parquet")
    return side


_STAGES = (
    "ingest",
    "tag",
    "clean",
    "datacard",
    "validate",
    "tokenizer",
    "tokenize",
    "pretrain",
    "instruct",
    "validate_conversations",
    "sft",
    "align",
    "validate_preferences",
    "evaluate",
    "export",
    "report",
)


def _from_mlflow(run: Run, runs: Runs, workspace: Path) -> Side:
    """A pipeline's run with its steps (and those that made what it found unchanged), a step's run, or a sweep's trial.

    Texts, the corpus' profile and its index of documents are files that were kept beside the steps' runs.
    """
    side = Side(f"{run.name} ({run.id[:8]})", "MLflow run", runs=runs)
    side.parameters = {key: _value(text) for key, text in run.parameters.items()}
    steps = {child.tags["stage"]: child for child in runs.children(run.id) if "stage" in child.tags}
    for tag, identity in run.tags.items():
        if tag.startswith("unchanged.") and (stage := tag.removeprefix("unchanged.")) not in steps:
            made = runs.run(identity) if _RUN.fullmatch(identity) else None
            if made:
                steps[stage] = made
    if "stage" in run.tags:
        steps[run.tags["stage"]] = run
    for stage, step in steps.items():
        # how busy the machine was is no figure of the step, and its last moment least of all
        side.metrics |= {
            f"{stage}.{key}": value for key, value in step.metrics.items() if not key.startswith("system/")
        }
        for key, digest in step.tags.items():
            if key.startswith("inkwell.output."):
                side.digests[key.removeprefix("inkwell.output.")] = digest
    curved = [stage for stage in STAGES_WITH_CURVES if stage in steps]
    for stage in curved:
        side.curves[stage] = _tracked_curve(steps[stage], runs)
        for key in ("loss", "tokens", "gradient_norm", "rate_factor", "validation_bits_per_char", "validation_loss"):
            side.metrics.pop(f"{stage}.{key}", None)  # the last point of a curve is no figure of the end
    side.metrics |= {key: value for key, value in run.metrics.items() if key.partition(".")[0] in steps}
    for key, value in side.metrics.items():
        if key.startswith("evaluate.") and f"{key}_stderr" in side.metrics:
            error = side.metrics[f"{key}_stderr"]
            low, high = value - 1.96 * error, value + 1.96 * error
            side.scores[key.removeprefix("evaluate.")] = {"value": value, "low": low, "high": high, "stderr": error}
    side.samples = _samples(runs.kept(steps.get("pretrain"), "pretrain.jsonl"), f"{side.name}: pretrain.jsonl")
    side.generations = runs.kept(steps.get("evaluate"), "generations.parquet")
    side.profile = _object(runs.kept(steps.get("validate"), "profile.json"), f"{side.name}: profile.json") or None
    side.documents = _index(side.digests.get("data/clean"), steps.get("tokenize"), runs, workspace)
    commit = run.tags.get("mlflow.source.git.commit")
    side.facts = {"run": run.id, "status": run.status.lower()} | ({"commit": commit[:12]} if commit else {})
    return side


def _index(clean: str | None, packed: Run | None, runs: Runs, workspace: Path) -> Path | bytes | None:
    """The index of documents of the version of data/clean with this hash: the workspace's, else the one that was kept with its packing."""
    from components.step import STATE
    from components.tracking.documents import index_path

    if clean is None:
        return None
    here = index_path(workspace / STATE, clean)
    return here if here.exists() else runs.kept(packed, here.name)


def _tracked_curve(step: Run, runs: Runs) -> Curve:
    """The points of a step's curves joined by step, with tokens and seconds since the first point."""
    rows: dict[int, dict[str, float]] = {}
    times: dict[int, int] = {}
    for key in ("loss", "tokens", "validation_bits_per_char", "validation_loss"):
        for at, value, when in runs.history(step.id, key):
            if at > 0:  # step 0 holds the figures of the end
                rows.setdefault(at, {"step": float(at)})[key] = value
                times[at] = when
    curve = _with_time([rows[at] for at in sorted(rows)], step.metrics.get("tokens_per_second"))
    for row in curve:
        row.setdefault("seconds", (times[int(row["step"])] - min(times.values())) / 1000)
    return curve


def _with_time(rows: Curve, tokens_per_second: float | None) -> Curve:
    """Tokens of each step summed up, and the seconds that they take at the run's mean rate."""
    seen = 0.0
    for row in rows:
        if "tokens" in row:
            seen += row["tokens"]
            row["tokens"] = seen
            if tokens_per_second:
                row["seconds"] = seen / tokens_per_second
    return rows


def _tracking_uri(side: Side) -> str | None:
    uri = side.parameters.get("tracking.uri")
    return str(uri) if uri else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise InkwellError(f"{path} cannot be read: {error.strerror}.") from error


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _yaml(written: bytes | None, path: Path) -> dict[str, Any]:
    import yaml

    if written is None:
        return {}
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = yaml.load(written, Loader=loader)
    except yaml.YAMLError as error:
        raise InkwellError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    return found if isinstance(found, dict) else {}


def _object(written: bytes | None, where: str) -> dict[str, Any]:
    if written is None:
        return {}
    try:
        found = json.loads(written)
    except ValueError as error:
        raise InkwellError(f"{where} is no JSON ({error}): run the step that writes it again.") from error
    return found if isinstance(found, dict) else {}


def _samples(written: bytes | None, where: str) -> list[dict[str, Any]]:
    """Rows of `step` and `texts`."""
    try:
        found = [json.loads(line) for line in (written or b"").decode("utf-8").splitlines() if line.strip()]
        return [{"step": int(row["step"]), "texts": [str(text) for text in row["texts"]]} for row in found]
    except (ValueError, TypeError, KeyError) as error:
        raise InkwellError(f"{where} is no list of samples ({error}): run the pretrain step again.") from error


def _rows(written: bytes, where: str) -> Curve:
    try:
        return [
            {name: float(cell) for name, cell in row.items() if cell}
            for row in csv.DictReader(io.StringIO(written.decode("utf-8")))
        ]
    except (ValueError, TypeError, csv.Error) as error:
        raise InkwellError(f"{where} is no table of numbers ({error}): run the step that writes it again.") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _value(text: str) -> Any:
    """MLflow keeps text; numbers and lists were written as JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
