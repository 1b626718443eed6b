"""A chain in words: the facts of each link, as text for a terminal, as JSON for programs, and for the page."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

from flows.lineage.backward import Chain, Link
from flows.lineage.records import Run, Version

# What stands in the chain already, as a fact or as a link.
_UNTOLD = {"seed", "ingest.sources"}
_LONGEST = 160  # characters of a parameter's value that are shown


def when(milliseconds: int) -> str:
    """A time in UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(milliseconds / 1000))


def duration(seconds: float | None) -> str | None:
    """`41 s`, `12 min 5 s`, `3 h 2 min`."""
    if seconds is None:
        return None
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def facts(link: Link) -> list[tuple[str, str]]:
    """Names and values of what is known of a link, in the order of interest; what is not known is left out."""
    told: list[tuple[str, str | None]] = []
    for version in link.versions:
        told.append(("registered", version.title))
        told += _promotion(version)
    told += [(name, value) for name, value in link.facts.items() if name not in ("role", "documents", "characters")]
    run = link.run
    if run is not None and link.kind != "file":
        told += [
            ("made by", f"{run.stage}, run {run.id}, {when(run.started)}"),
            ("took", duration(run.seconds)),
            ("also made by", f"{link.again} other run{'s' * (link.again > 1)}, byte for byte" if link.again else None),
            ("commit", run.tags.get("mlflow.source.git.commit")),
            ("tree", run.tags.get("inkwell.tree")),
            ("requirements.lock", run.tags.get("inkwell.lock")),
            ("machine", _machine(run)),
            ("python", _python(run)),
            ("seed", run.tags.get("inkwell.seed") or run.parameters.get("seed")),
            (
                "parameters",
                ", ".join(f"{name} = {value}" for name, value in changed(run).items()) or "all at their defaults",
            ),
        ]
    return [(name, value) for name, value in told if value]


def changed(run: Run) -> dict[str, str]:
    """Parameters of a run that differ from the defaults: of the code that ran, else (older records) of this code."""
    said = run.tags.get("inkwell.set")
    try:
        names = set(json.loads(said)) if said else None
    except ValueError:
        names = None
    defaults = {} if names is not None else _defaults()
    found = {}
    for name, value in run.parameters.items():
        if name in _UNTOLD or (name not in names if names is not None else defaults.get(name) == value):
            continue
        value = value.replace("\n", "\\n")
        found[name] = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    return found


def text(chain: Chain) -> str:
    """The chain for a terminal."""
    lines = [f"Lineage of {chain.asked}: {len(chain.links)} links, from what was asked to where it began."]
    for number, link in enumerate(chain.links, 1):
        lines += ["", f"{number:2}. {link.path}  {link.digest or '(no hash)'}"]
        lines += [f"      {name + ':':<19} {value}" for name, value in facts(link)]
        if link.made_of:
            lines.append(f"      {'made of:':<19} {', '.join(key.split()[0] for key in link.made_of)}")
    if chain.missing:
        lines += ["", "Not on record:", *(f"  - {sentence}" for sentence in chain.missing)]
    return "\n".join(lines)


def as_json(chain: Chain) -> dict[str, Any]:
    """The chain for programs."""
    return {
        "asked": chain.asked,
        "links": [
            {
                "what": link.path,
                "hash": link.digest,
                "kind": link.kind,
                "made_of": [{"what": key.split()[0], "hash": key.partition(" ")[2]} for key in link.made_of],
                "facts": link.facts,
                "run": None if link.run is None else _run(link.run),
                "versions": [
                    {"name": v.name, "version": v.number, "aliases": list(v.aliases), "promotion": v.promotion}
                    for v in link.versions
                ],
                "missing": link.missing or None,
            }
            for link in chain.links
        ],
        "missing": chain.missing,
    }


def _run(run: Run) -> dict[str, Any]:
    around = {name.removeprefix("inkwell."): run.tags.get(name) for name in _AROUND}
    return {
        "id": run.id,
        "stage": run.stage,
        "started": when(run.started),
        "seconds": run.seconds,
        "commit": run.tags.get("mlflow.source.git.commit"),
        **{name: value for name, value in around.items() if value is not None},
        "parameters": changed(run),
    }


_AROUND = tuple(
    f"inkwell.{name}"
    for name in (
        "tree",
        "lock",
        "machine",
        "cores",
        "memory_gib",
        "accelerators",
        "python",
        "versions",
        "seed",
        "pipeline",
    )
)


def _promotion(version: Version) -> list[tuple[str, str | None]]:
    said = version.promotion
    if not said:
        return []
    who = " ".join(str(said[name]) for name in ("by", "at") if said.get(name))
    evidence = said.get("evidence")
    shown = evidence if isinstance(evidence, str) else json.dumps(evidence, ensure_ascii=False)
    return [
        ("promoted by", who),
        ("because", str(said.get("reason") or "")),
        ("evidence", None if evidence is None else shown if len(shown) <= 400 else f"{shown[:400]}…"),
    ]


def _machine(run: Run) -> str | None:
    tags = run.tags
    parts = [
        tags.get("inkwell.machine"),
        f"{tags['inkwell.cores']} cores" if "inkwell.cores" in tags else None,
        f"{tags['inkwell.memory_gib']} GiB" if "inkwell.memory_gib" in tags else None,
        f"accelerators: {tags['inkwell.accelerators']}" if "inkwell.accelerators" in tags else None,
    ]
    return ", ".join(part for part in parts if part) or None


def _python(run: Run) -> str | None:
    try:
        versions = json.loads(run.tags.get("inkwell.versions", "{}"))
    except ValueError:
        versions = {}
    parts = [run.tags.get("inkwell.python"), *(f"{name} {value}" for name, value in versions.items())]
    return ", ".join(part for part in parts if part) or None


@cache
def _defaults() -> dict[str, str]:
    from components.configuration import parse
    from components.tracking.recorder import _flat

    least = {"ingest": {"sources": [{"name": "any", "kind": "path", "location": "any"}]}}
    return _flat(parse(least).model_dump(mode="json", by_alias=True))
