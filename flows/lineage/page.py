"""The chain as one page that opens offline."""

from __future__ import annotations

from pathlib import Path

from components.atomic import atomic_file
from flows.lineage.backward import Chain
from flows.lineage.picture import draw
from flows.lineage.words import facts

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_page(chain: Chain, path: Path) -> None:
    """Write the page atomically."""
    from components.pages import render, style

    first = chain.links[0]
    page = render(
        _TEMPLATE,
        {
            "chain": chain,
            "first": first,
            "title": chain.asked if not chain.asked.startswith("/") and len(chain.asked) < 40 else first.path,
            "lead": lead(chain),
            "drawing": draw(chain),
            "links": [(number, link, facts(link)) for number, link in enumerate(chain.links, 1)],
            "numbers": {link.key: number for number, link in enumerate(chain.links, 1)},
            "style": style(_TEMPLATE.with_name("page.css")),
        },
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def lead(chain: Chain) -> str:
    """One sentence: out of what, through how many runs and models, at which commits."""
    runs = {link.run.id: link.run for link in chain.links if link.run}
    sources = [link.path.partition("/")[2] for link in chain.links if link.kind in ("source", "initial")]
    models = sum(link.kind == "model" for link in chain.links)
    commits = {run.tags.get("mlflow.source.git.commit", "")[:8] for run in runs.values()} - {""}
    said = [
        f"{len(runs)} run{'s' * (len(runs) != 1)}" if runs else "no run on record",
        f"{models} model{'s' * (models != 1)}",
        f"commit{'s' * (len(commits) != 1)} {', '.join(sorted(commits))}" if commits else "no commit on record",
    ]
    return f"From {', '.join(sources) or 'sources that are not on record'}: {'; '.join(said)}."
