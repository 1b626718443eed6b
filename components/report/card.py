"""The page: sections from evidence, rendered through one template whose text is escaped throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components import pages
from components.atomic import atomic_file
from components.figures import figure
from components.report import ancestry
from components.report.evidence import MODELS, Evidence, gather
from components.report.run_logs import newest_logs
from components.report.sections.answers import side_by_side
from components.report.sections.corpus import corpus
from components.report.sections.exports import exports, usage
from components.report.sections.headline import headline
from components.report.sections.scores import evaluation
from components.report.sections.tokens import tokens
from components.report.sections.training import moments, training
from components.report.sections.way import way
from components.vocabulary.spelling import origin

if TYPE_CHECKING:
    from markupsafe import Markup

    from components.step import Context

_FOLDER = Path(__file__).parent

_PAGES = (
    ("data_card.html", "the data card"),
    ("corpus_map.html", "a map of the corpus"),
    ("tokenizer.html", "the tokenizer"),
    ("data_docs/index.html", "checks of the documents"),
    ("data_docs_conversations/index.html", "of the conversations"),
    ("data_docs_preferences/index.html", "of the preferences"),
)


def run(context: Context) -> None:
    """Write `reports/index.html`. Raises InkwellError for an input that is there and cannot be read."""
    evidence = gather(context.inputs)
    parameters = context.configuration.report
    page = render(
        evidence,
        context.inputs,
        parameters.title,
        parameters.samples,
        context.configuration.language,
        beside(context.outputs["page"].parent),
    )
    with atomic_file(context.outputs["page"]) as temporary:
        temporary.write_text(page, encoding="utf-8")
    context.metrics["bytes"] = len(page.encode())
    context.metrics["pictures"] = page.count("<svg class=")
    context.metrics["stages_reported"] = len(evidence.metrics)
    context.recorder.artifact(context.outputs["page"])


def beside(folder: Path) -> list[tuple[str, str]]:
    """Address and name of the other pages that are there, to be linked."""
    return [(address, name) for address, name in _PAGES if (folder / address).exists()]


def render(
    evidence: Evidence,
    inputs: Mapping[str, Path],
    title: str,
    samples: int,
    language: str,
    others: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole page as HTML; `samples` texts are shown of each model, `others` are pages to link."""

    def metric(stage: str, name: str, form: str = "count") -> Markup | None:
        return figure(evidence.metric(stage, name), form, f"metrics/{stage}.json: {name}")

    values = {
        "title": title,
        "language": language,
        "style": pages.style(_FOLDER / "card.css"),
        "metric": metric,
        "figure": figure,
        "known": lambda stage, name: evidence.metric(stage, name) is not None,
        "models": MODELS,
        "head": headline(evidence),
        # without the Markdown around its hash; where the tokenizer is gone nobody knows
        "origin": origin(evidence.tokenizer).replace("`", "") if evidence.tokenizer else "trained",
        "lanes": way(evidence),
        "corpus": corpus(evidence),
        "tokenizer": tokens(evidence),
        "training": training(evidence),
        "run_logs": newest_logs(),
        "moments": moments(evidence),
        "evaluation": evaluation(evidence),
        "side_by_side": side_by_side(evidence, samples),
        "exports": exports(evidence, inputs),
        "links": ancestry.chain(evidence, inputs),
        "use": usage(evidence),
        "others": others,
    }
    return pages.render(_FOLDER / "card.html.jinja", values)
