"""From one thing back to everything that it was made of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import InkwellError
from flows.lineage.records import UNCHANGED, Dataset, Records, Run, Version

_HASH = re.compile(r"[0-9a-f]{32,64}")
_VERSION = re.compile(r"(?:models:/)?([^/@]+)(?:/(\d+)|@([\w-]+))")
_MANIFESTS = 50  # exports whose manifests are read for a hash that no record holds
_OUTSIDE = ("source", "initial")
_FURTHEST = ("export", "align", "sft", "pretrain")


@dataclass
class Link:
    """One thing of the chain: what it is, who made it, what it was made of.

    `digest` is the first 32 hex digits of its hash (`components.step.content_hash` of a folder, the plain sha256 of a
    file or archive). `run` is None for what came from outside, and where no record is left; `missing` says so.
    """

    path: str
    digest: str
    kind: str  # file, model, data, source, initial
    run: Run | None = None
    made_of: list[str] = field(default_factory=list)  # keys
    versions: list[Version] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    again: int = 0  # further runs that made the same bytes

    @property
    def key(self) -> str:
        """Identity: path and hash, for equal bytes may stand in two places."""
        return f"{self.path} {self.digest}"


@dataclass(frozen=True)
class Chain:
    """Links, the asked one first and everything behind what it was made into."""

    asked: str
    links: list[Link]

    @property
    def missing(self) -> list[str]:
        """A sentence for each thing that the records do not tell."""
        return [link.missing for link in self.links if link.missing]


def lead_back(records: Records, asked: str, folder: Path = Path()) -> Chain:
    """The chain of a hash, a file, a model folder or a registered version (`NAME/3`, `NAME@champion`).

    Raises InkwellError where nothing is known of it at all.
    """
    first = _find(records, asked, folder)
    links: dict[str, Link] = {first.key: first}
    waiting = [first]
    while waiting:
        link = waiting.pop(0)
        if link.run is None:
            continue
        for made_of in _made_of(records, link):
            known = links.get(made_of.key)
            if known is None:
                links[made_of.key] = known = made_of
                if known.kind not in _OUTSIDE and known.run is None:
                    _attach(records, known, link.run.started, link.run)
                waiting.append(known)
            link.made_of.append(known.key)
    return Chain(asked, _nearest_first(first, links))


def reduced(chain: Chain) -> dict[str, list[str]]:
    """Direct edges only: what is reached through another link as well needs no line of its own in a picture."""
    by_key = {link.key: link for link in chain.links}
    behind: dict[str, set[str]] = {}
    for link in reversed(chain.links):  # parents are known before what was made of them
        behind[link.key] = set().union(*({key} | behind[key] for key in link.made_of)) if link.made_of else set()
    return {
        key: [
            parent
            for parent in link.made_of
            if not any(parent in behind[other] for other in link.made_of if other != parent)
        ]
        for key, link in by_key.items()
    }


def _find(records: Records, asked: str, folder: Path) -> Link:
    path = Path(asked) if Path(asked).is_absolute() else folder / asked
    if path.exists():
        return _of_path(records, path)
    if _HASH.fullmatch(asked.lower().removeprefix("sha256:")):
        return _of_hash(records, asked.lower().removeprefix("sha256:"))
    named = _VERSION.fullmatch(asked)
    if named:
        return _of_version(records, *named.groups())
    raise InkwellError(
        f"{asked} is no file or folder here, no hash (32 to 64 hex digits) and no registered version (NAME/3 or NAME@champion)."
    )


def _of_path(records: Records, path: Path) -> Link:
    from components.step import content_hash
    from components.tracking.recorder import file_hash

    digests = []
    for hashed in (content_hash,) if path.is_dir() else (file_hash, content_hash):
        digests.append(hashed(path)[:32])
        found = _recorded(records, digests[-1])
        if found:
            return found
    for parent in path.resolve().parents if path.is_file() else []:
        # A file of an output of which only the whole folder's hash was recorded: the folder vouches for it.
        if (parent / "manifest.json").exists() or (parent / "config.json").exists() or (parent / "meta.json").exists():
            found = _recorded(records, content_hash(parent)[:32])
            if found:
                found.facts["file"] = path.name
                return found
    raise InkwellError(
        f"{path} (hash {digests[0]}) was made by no recorded run of {records.uri}: it was changed, made with tracking off, or recorded elsewhere (--uri)."
    )


def _of_hash(records: Records, asked: str) -> Link:
    found = _recorded(records, asked[:32])
    if found:
        return found
    for run in records.by_id(asked) if len(asked) == 32 else []:
        return _of_run(records, run)
    for maker, digest, manifest in records.manifests(_MANIFESTS):
        for file in manifest.get("files", []):
            if str(file.get("sha256", "")).startswith(asked):
                link = _recorded(records, digest)
                if link:
                    link.facts |= {"file": str(file["file"]), "sha256": str(file["sha256"])}
                    return link
                raise InkwellError(
                    f"{asked} is {file['file']} of an export whose run {maker} was deleted from {records.uri}."
                )
    gone = records.touched(asked[:32], deleted=True)
    if gone:
        raise InkwellError(
            f"{asked} was recorded by run {gone[0].id} ({gone[0].stage}), which was deleted from {records.uri}: "
            f"`mlflow runs restore --run-id {gone[0].id}` brings it back, unless `mlflow gc` has run."
        )
    raise InkwellError(
        f"{asked} is known to no run of {records.uri}: it was made with tracking off, recorded elsewhere (--uri), or its record still waits in .inkwell/spool."
    )


def _of_run(records: Records, run: Run) -> Link:
    """What a run made; of a pipeline its furthest stage's output, which a stage that was skipped has from an earlier run."""
    runs = [run]
    if run.tags.get("inkwell.kind") == "pipeline":
        runs = records.of_pipeline(run.tags.get("inkwell.pipeline", ""))
        for name, made_by in run.tags.items():
            if name.startswith(UNCHANGED):
                runs += records.by_id(made_by)
    for stage in _FURTHEST:
        for made in runs:
            for path, digest in made.outputs.items() if made.stage == stage else []:
                if path.startswith("models/"):
                    return _attached(records, path, digest, made)
    for made in runs:
        for path, digest in made.outputs.items():
            return _attached(records, path, digest, made)
    raise InkwellError(f"run {run.id} ({run.stage}, {run.status}) wrote nothing: name another run, a hash or a file.")


def _of_version(records: Records, name: str, number: str | None, alias: str | None) -> Link:
    for version in records.versions:
        if version.name == name and (version.number == number or alias in version.aliases):
            break
    else:
        known = sorted({version.name for version in records.versions})
        raise InkwellError(
            f"{name}{'/' + number if number else '@' + str(alias)} is not in the registry of {records.uri}; it has {', '.join(known) or 'no models'}."
        )
    digests = [records.digest_of_model(version.model)] if version.model else []
    for found in digests:
        if found:
            link = _recorded(records, found[1])
            if link:
                return link
    for value in version.tags.values():
        link = _recorded(records, value[:32]) if _HASH.fullmatch(value) else None
        if link:
            return link
    if version.run:
        for run in records.by_id(version.run):
            for path, digest in run.outputs.items():
                if path.startswith("models/"):
                    return _attached(records, path, digest, run)
    raise InkwellError(
        f"{version.name}/{version.number} was registered from run {version.run or '(none)'}, of which {records.uri} has no record any more."
    )


def _recorded(records: Records, digest: str) -> Link | None:
    """The thing of this hash as the first run that names it tells; None when no run does."""
    runs = records.touched(digest)
    for run in runs:
        for path, hash_ in run.outputs.items():
            if hash_ == digest:
                link = Link(path, digest, _kind(path))
                _attach(records, link, None, None)
                return link
    for run in runs:
        for dataset in run.of_role("file", *_OUTSIDE):
            if dataset.digest == digest:
                if dataset.path in run.outputs:
                    return _attached(records, dataset.path, run.outputs[dataset.path], run)
                if dataset.role == "file":
                    return Link(dataset.path, digest, "file", run, facts=dict(dataset.facts))
                return _outside(dataset)
    for run in runs:
        for dataset in run.of_role("input"):
            if dataset.digest == digest:
                link = Link(dataset.path, digest, _kind(dataset.path))
                _attach(records, link, run.started, run)
                return link
    return None


def _made_of(records: Records, link: Link) -> list[Link]:
    run = link.run
    assert run is not None
    if link.kind == "file":  # a file of a folder: the folder is what was made
        holders = [path for path in run.outputs if link.path.startswith(f"{path}/")]
        return [_attached(records, path, run.outputs[path], run) for path in holders[:1]]
    inputs = [dataset for dataset in run.of_role("input") if dataset.path != link.path]
    if link.path in run.outputs and run.models:
        parents = records.parents_of_model(run.models[0])
        if parents is not None:
            # An export is handed all models, and is made of one.
            inputs = [d for d in inputs if _kind(d.path) != "model" or d.digest in parents or not parents]
    found = [Link(dataset.path, dataset.digest, _kind(dataset.path)) for dataset in inputs]
    # Weights to begin with may be a model that was made here.
    outside = [
        (_recorded(records, dataset.digest) if dataset.role == "initial" else None) or _outside(dataset)
        for dataset in run.of_role(*_OUTSIDE)
    ]
    if not inputs and not outside:
        outside = _sources_by_parameter(run)
    return found + outside


def _attached(records: Records, path: str, digest: str, run: Run) -> Link:
    return Link(path, digest, _kind(path), run, versions=records.versions_of(run, digest))


def _attach(records: Records, link: Link, before: int | None, consumer: Run | None) -> None:
    """Find the run that made it: the last one to do so before it was used."""
    runs = [run for run in records.made(link.path, link.digest) if run.status == "FINISHED"]
    earlier = [run for run in runs if before is None or run.started <= before]
    if runs:
        link.run = (earlier or runs[-1:])[0]
        link.again = len(runs) - 1
        link.versions = [version for run in runs for version in records.versions_of(run, link.digest)]
        link.versions = list({(version.name, version.number): version for version in link.versions}.values())
        return
    for run in _skipped_to(records, link.path, consumer):
        link.run, link.versions = run, records.versions_of(run, link.digest)
        return
    used = f" (used by {consumer.stage}, run {consumer.id})" if consumer else ""
    gone = records.made(link.path, link.digest, deleted=True)
    if gone:
        link.missing = (
            f"{link.path} {link.digest}{used} was made by run {gone[0].id} of {gone[0].stage}, which was deleted: "
            f"`mlflow runs restore --run-id {gone[0].id}` brings it back, unless `mlflow gc` has run."
        )
    elif not link.path.startswith("conf/"):  # a file of the repository, which the commit tells
        link.missing = f"{link.path} {link.digest}{used} was made by no run on record: it was recorded elsewhere, made with tracking off, or its run was purged."


def _skipped_to(records: Records, path: str, consumer: Run | None) -> list[Run]:
    """The run that the consumer's pipeline names for a stage that it skipped, where that run wrote this path."""
    pipeline = consumer.tags.get("mlflow.parentRunId") if consumer else None
    for run in records.by_id(pipeline) if pipeline else []:
        for name, made_by in run.tags.items():
            found = records.by_id(made_by) if name.startswith(UNCHANGED) else []
            if found and path in found[0].outputs:
                return found
    return []


def _outside(dataset: Dataset) -> Link:
    facts = {name: value for name, value in dataset.facts.items() if name != "path"}
    return Link(dataset.path, dataset.digest, dataset.role, facts=facts)


def _sources_by_parameter(run: Run) -> list[Link]:
    """Sources as the parameters name them: older records do not hold the hashes of what was read."""
    try:
        sources = json.loads(run.parameters.get("ingest.sources", "[]"))
    except ValueError:
        sources = []
    found = []
    for source in sources:
        facts = {n: str(source[n]) for n in ("kind", "location", "version", "license", "sha256") if source.get(n)}
        sha256 = facts.get("sha256", "")
        said = (
            ""
            if sha256
            else f"source {source.get('name')}: the record of {run.stage} (run {run.id}) is older than hashes of sources; data/raw/sources.json of that version has them."
        )
        found.append(Link(f"source/{source.get('name')}", sha256[:32], "source", facts=facts, missing=said))
    return found


def _kind(path: str) -> str:
    return "model" if path.startswith("models/") and not path.startswith("models/tokenizer") else "data"


def _nearest_first(first: Link, links: dict[str, Link]) -> list[Link]:
    """Each link behind everything that was made of it; ties by time, the latest first."""
    users: dict[str, int] = dict.fromkeys(links, 0)
    for link in links.values():
        for key in link.made_of:
            users[key] += 1
    ready, found = [first], []
    while ready:
        ready.sort(key=_age)
        link = ready.pop(0)
        found.append(link)
        for key in link.made_of:
            users[key] -= 1
            if not users[key]:
                ready.append(links[key])
    return found


def _age(link: Link) -> tuple[int, str]:
    return (-(link.run.started if link.run else 0), link.path)
