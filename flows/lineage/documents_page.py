"""Which models saw some documents, as one page that opens offline."""

from __future__ import annotations

import shlex
from pathlib import Path

from components.atomic import atomic_file
from flows.lineage.forward import Answer, as_json, registered, standing, verdict

_TEMPLATE = Path(__file__).with_name("documents_page.html.jinja")


def write_documents_page(answer: Answer, path: Path) -> None:
    """Write the page atomically."""
    from components.pages import render, style

    documents, found = standing(answer), as_json(answer)
    page = render(
        _TEMPLATE,
        {
            "title": next(iter(documents)) if len(documents) == 1 else f"{len(documents)} documents",
            "lead": verdict(answer),
            "documents": documents,
            "models": found["models"],
            "registered": registered,
            "tokenizers": found["tokenizer_runs"],
            "missing": answer.missing,
            "again": " ".join(f"--document {shlex.quote(name)}" for name in answer.asked),
            "style": style(_TEMPLATE.with_name("page.css")),
        },
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
