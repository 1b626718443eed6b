"""From a document forward to every model that was trained on it, and what a request to remove it comes to.

The index of each version of the corpus (`components.tracking.documents`) tells which versions held the document in
their training split; from there the hashes of what was made lead on: packed tokens, conversations, models, exports,
versions in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from components.corpus.documents import TRAIN, VALIDATION
from components.errors import InkwellError
from flows.lineage.records import Records, Run, Version
from flows.lineage.words import when

# Steps that look at documents and hand none on. Their outputs may be equal for different corpora (a gate that says
# "passed"), so that following them would lead to models that never saw the document.
_OBSERVERS = ("validate", "datacard", "evaluate", "report", "tokenizer")
_NO_DATA = ("reports/", "data/curves/", "data/samples/", "metrics/", "models/tokenizer")
_RANK = ("champion", "challenger")


@dataclass(frozen=True)
class Sighting:
    """A document in one version of the corpus; `split` is train, validation or removed."""

    id: str
    corpus: str
    split: str
    source: str
    repeats: int
    rule: str | None
    duplicate_of: str | None


@dataclass
class Model:
    """A model that was trained on a document, or made of one that was."""

    path: str
    digest: str
    run: Run
    versions: list[Version]
    documents: set[str] = field(default_factory=set)

    @property
    def rank(self) -> tuple[int, int]:
        """Champion, challenger, other versions, the rest; the latest first."""
        aliases = {alias for version in self.versions for alias in version.aliases}
        place = next((at for at, alias in enumerate(_RANK) if alias in aliases), len(_RANK) + (not self.versions))
        return (place, -self.run.started)


@dataclass(frozen=True)
class Answer:
    """What is known of some documents. `missing`: a sentence for each version of the corpus that cannot be looked into."""

    asked: list[str]
    sightings: list[Sighting]
    models: list[Model]
    tokenizers: list[Run]
    corpora: int
    missing: list[str]


def who_saw(records: Records, workspace: Path, ids: Sequence[str], texts: Sequence[str] = ()) -> Answer:
    """Models trained on any of the documents with these ids or texts.

    Raises InkwellError where no version of the corpus is on record.
    """
    from components.tracking.documents import find

    corpora = _corpora(records)
    if not corpora:
        raise InkwellError(f"{records.uri} has no run of the tokenize step: nothing was trained on record.")
    sightings: list[Sighting] = []
    missing = []
    models: dict[str, Model] = {}
    tokenizers: dict[str, Run] = {}
    here_now = cache(lambda: _version_here(workspace))
    for digest, runs in corpora.items():
        index = _index(records, workspace, digest, runs, here_now)
        if index is None:
            missing.append(
                f"data/clean {digest} (run {runs[0].id}, {when(runs[0].started)}) has no index of its documents: where its "
                f"data/clean lies (`dvc checkout` at commit {runs[0].tags.get('mlflow.source.git.commit', '?')[:8]}), run `python -m flows.lineage --index`."
            )
            continue
        here = [
            Sighting(row["id"], digest, row["split"], row["source"], row["repeats"], row["rule"], row["duplicate_of"])
            for row in find(index, ids, texts)
        ]
        sightings += here
        trained = {sighting.id for sighting in here if sighting.split == TRAIN}
        if trained:
            made, counted = _descendants(records, digest)
            tokenizers |= {run.id: run for run in counted}
            for model in made:
                models.setdefault(f"{model.path} {model.digest}", model).documents |= trained
    # Duplicates of a document matter to who asks for its removal, not to who asks where it is.
    wanted = set(ids) | {s.id for s in sightings if s.duplicate_of not in ids}
    asked = [*ids, *sorted(wanted - set(ids))] if texts else list(ids)
    return Answer(
        asked, sightings, sorted(models.values(), key=lambda model: model.rank), list(tokenizers.values()), len(corpora), missing
    )  # fmt: skip


def text(answer: Answer) -> str:
    """The answer for a terminal."""
    lines = []
    for name, said in standing(answer).items():
        lines += [f"{name}:", *(f"  {sentence}" for sentence in said)]
    if answer.models:
        lines += ["", f"{verdict(answer)}:"]
        lines += [f"  {line}" for line in _model_lines(_as_rows(answer.models))]
    elif answer.sightings:
        lines += ["", f"{verdict(answer)}."]
    if answer.tokenizers:
        runs = ", ".join(run.id for run in answer.tokenizers)
        lines += [
            "",
            f"Its characters were counted by the tokenizer of {_count(len(answer.tokenizers), 'run')}: {runs}.",
        ]
    if answer.missing:
        lines += ["", "Not on record:", *(f"  - {sentence}" for sentence in answer.missing)]
    return "\n".join(lines)


def standing(answer: Answer) -> dict[str, list[str]]:
    """Sentences on each document that was asked for, one a version of the corpus."""
    return {name: _said(answer, name) for name in answer.asked or ["the text"]}


def verdict(answer: Answer) -> str:
    """One sentence on all of them, without its end; empty where no version of the corpus holds any."""
    if answer.models:
        return f"{_count(len(answer.models), 'model')} saw it in training, champion first"
    return "No model on record was trained on it" if answer.sightings else ""


def registered(model: Mapping[str, Any]) -> str:
    """The versions of a row of `as_json`'s models: "poet/2 (champion), poet/1", or "not registered"."""
    versions = [
        f"{v['name']}/{v['version']}" + (f" ({', '.join(v['aliases'])})" if v["aliases"] else "")
        for v in model["versions"]
    ]
    return ", ".join(versions) or "not registered"


def as_json(answer: Answer) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "asked": answer.asked,
        "documents": [vars(sighting) for sighting in answer.sightings],
        "models": _as_rows(answer.models),
        "tokenizer_runs": [run.id for run in answer.tokenizers],
        "corpora": answer.corpora,
        "missing": answer.missing,
    }


def removal(records: Records, workspace: Path, ids: Sequence[str]) -> dict[str, Any]:
    """A removal request: what is known of each id, models to retrain (champion first), and lines for params.yaml.

    The ids of duplicates that were dropped in favour of a document go with it: without it, one would take its place.
    """
    answer = who_saw(records, workspace, ids)
    twins = sorted({s.id for s in answer.sightings if s.duplicate_of in ids} - set(ids))
    known = {sighting.id for sighting in answer.sightings}
    unknown = [name for name in ids if name not in known]
    denied = [*(name for name in ids if name in known), *twins]
    return {
        "documents": {name: _said(answer, name) for name in ids},
        "unknown": unknown,
        "duplicates": twins,
        "retrain": _as_rows(answer.models),
        "params": "\n".join(["clean:", "  denied:", *(f"    - {_quoted(name)}" for name in denied)]) if denied else "",
        "missing": answer.missing,
    }


def removal_text(request: dict[str, Any]) -> str:
    """A removal request for a terminal."""
    lines = [f"Removal of {_count(len(request['documents']), 'document')}"]
    for name, said in request["documents"].items():
        lines += ["", f"{name}:", *(f"  {sentence}" for sentence in said)]
    lines += [
        "",
        "Models to retrain, champion first:" if request["retrain"] else "No model on record has to be retrained.",
    ]
    lines += [f"  {line}" for line in _model_lines(request["retrain"])]
    if request["params"]:
        lines += ["", "In params.yaml:", "", request["params"]]
    if request["duplicates"]:
        lines += [
            "",
            f"{_count(len(request['duplicates']), 'duplicate')} that would take a removed document's place stand in the list too.",
        ]
    if request["params"]:
        lines += ["", "Then `python -m flows.run`, promote the new model, and delete the old versions and their files."]
    if request["missing"]:
        lines += ["", "Not on record:", *(f"  - {sentence}" for sentence in request["missing"])]
    return "\n".join(lines)


def keep_index(records: Records, workspace: Path) -> str:
    """Write the index of the workspace's data/clean and keep it with the run that packed it; returns a sentence."""
    from components.step import STATE, content_hash
    from components.tracking.documents import build_index, index_path

    clean, tokens = workspace / "data/clean", workspace / "data/tokens"
    if not clean.exists():
        raise InkwellError(f"{clean} does not exist: `dvc checkout data/clean` brings it, or run the clean step.")
    digest = content_hash(clean)[:32]
    runs = _corpora(records).get(digest, [])
    packed = content_hash(tokens)[:32] if tokens.exists() else ""
    same = any(packed in run.outputs.values() for run in runs)
    index = index_path(workspace / STATE, digest)
    count = build_index(clean, index, tokens if same else None)
    if not runs:
        return f"{index}: {count:,} documents; no run on record has packed this version, so it is kept here only."
    records.keep(runs[0].id, index)
    return f"{index}: {count:,} documents; kept with run {runs[0].id} ({runs[0].stage}) too."


def read_ids(path: Path) -> list[str]:
    """Ids, one a line; empty lines and lines that begin with # are left out."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    found = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not found:
        raise InkwellError(f"{path} holds no ids: write one a line.")
    return found


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InkwellError(f"{path} cannot be read as UTF-8 text ({error}).") from error


def _corpora(records: Records) -> dict[str, list[Run]]:
    """Versions of the cleaned corpus that were packed, the latest first, with the runs that packed them."""
    found: dict[str, list[Run]] = {}
    for run in records.of_stage("tokenize"):
        for dataset in run.of_role("input"):
            if not dataset.path.startswith("models/"):
                found.setdefault(dataset.digest, []).append(run)
    return found


def _version_here(workspace: Path) -> str:
    """Hash of the workspace's data/clean; empty where there is none."""
    from components.step import content_hash

    clean = workspace / "data/clean"
    return content_hash(clean)[:32] if clean.exists() else ""


def _index(
    records: Records, workspace: Path, digest: str, runs: Sequence[Run], here_now: Callable[[], str]
) -> Path | None:
    from components.step import STATE
    from components.tracking.documents import build_index, index_path

    index = index_path(workspace / STATE, digest)
    if index.exists():
        return index
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for run in runs:
            kept = records.file_of(run, index.name, Path(name))
            if kept is not None:
                import shutil

                from components.atomic import atomic_file

                with atomic_file(index) as temporary:
                    shutil.copyfile(kept, temporary)
                return index
    if here_now() == digest:
        build_index(workspace / "data/clean", index)
        return index
    return None


def _descendants(records: Records, corpus: str) -> tuple[list[Model], list[Run]]:
    """Models that a version of the corpus went into, and the runs of the tokenizer that read it."""
    models: dict[str, Model] = {}
    counted: dict[str, Run] = {}
    waiting, seen = [corpus], {corpus}
    while waiting:
        digest = waiting.pop()
        for run in records.touched(digest):
            if (
                not any(dataset.digest == digest for dataset in run.of_role("input", "initial"))
                or run.status != "FINISHED"
            ):
                continue
            if run.stage == "tokenizer" and digest == corpus:
                counted[run.id] = run
            if run.stage.startswith(_OBSERVERS) or not _made_of(records, run, digest):
                continue
            for path, made in run.outputs.items():
                if made in seen or path.startswith(_NO_DATA):
                    continue
                seen.add(made)
                waiting.append(made)
                if path.startswith("models/"):
                    models[made] = Model(path, made, run, records.versions_of(run, made))
            # Another training may begin with this model, which it then names by a hash of its own.
            for dataset in run.of_role("file"):
                if dataset.digest not in seen and dataset.path.startswith(tuple(run.outputs)):
                    seen.add(dataset.digest)
                    if dataset.path.endswith(".gguf") or dataset.path in run.outputs:
                        waiting.append(dataset.digest)
    return list(models.values()), list(counted.values())


def _made_of(records: Records, run: Run, digest: str) -> bool:
    """An export reads the data and all models, for their hashes, and is made of one of them."""
    if run.stage != "export" or not run.models:
        return True
    parents = records.parents_of_model(run.models[0])
    return not parents or digest in parents


def _said(answer: Answer, name: str) -> list[str]:
    """Sentences on one document, one a version of the corpus."""
    found = []
    for s in answer.sightings:
        if s.id != name:
            continue
        where = f"data/clean {s.corpus[:12]} (source {s.source})"
        if s.split == TRAIN:
            often = f", {s.repeats} times an epoch" if s.repeats > 1 else ""
            found.append(f"in the training split of {where}{often}")
        elif s.split == VALIDATION:
            found.append(f"held out for validation in {where}: models were judged by it, none was trained on it")
        else:
            stayed = f"; its duplicate {s.duplicate_of} stayed, ask for that too" if s.duplicate_of else ""
            found.append(f"removed from {where} by the rule {s.rule}{stayed}")
    if not found:
        unknown = " that could be looked into" if answer.missing else ""
        found.append(f"not in any of the {answer.corpora - len(answer.missing)} versions of the corpus{unknown}")
    return found


def _model_lines(models: Iterable[dict[str, Any]]) -> list[str]:
    return [
        f"{model['what']}  {model['hash']}  {registered(model)}  (run {model['run']}, {model['made']})"
        for model in models
    ]


def _as_rows(models: Iterable[Model]) -> list[dict[str, Any]]:
    return [
        {
            "what": model.path,
            "hash": model.digest,
            "run": model.run.id,
            "made": when(model.run.started),
            "versions": [{"name": v.name, "version": v.number, "aliases": list(v.aliases)} for v in model.versions],
            "documents": sorted(model.documents),
        }
        for model in models
    ]


def _quoted(name: str) -> str:
    """An id as YAML holds it, whatever it looks like."""
    import json

    return json.dumps(name, ensure_ascii=False)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)
