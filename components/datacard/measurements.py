"""How each statistic is distributed, with the bounds that are in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.statistics import STATISTICS
from components.datacard import pictures
from components.datacard.corpus import Corpus, Row
from components.datacard.pictures import COLOURS, Bound
from components.datacard.wording import language_name, largest, named

if TYPE_CHECKING:
    from numpy.typing import NDArray


_SERIES = len(COLOURS)  # languages that have an outline of their own
_LEAST_SERIES = 0.01  # share of the documents from which a language has one
_FAMILIES = {
    "shape": "Shape",
    "words": "Words",
    "language": "Language",
    "repetition": "Repetition",
    "web": "Web pages",
    "verse": "Verse",
    "dialogue": "Dialogue",
    "duplicates": "Duplicates",
    "perplexity": "Scores",
    "quality": "Scores",
    "judge": "Scores",
    "topics": "Scores",
    "pii": "Personal data",
}


def outlines(corpus: Corpus) -> list[Row]:
    """Languages that have an outline of their own in the pictures of statistics: {code, name, colour}."""
    amounts = corpus.before.by("language")
    total = corpus.before.total().documents
    large = [code for code, amount in largest(amounts, _SERIES).items() if amount.documents >= _LEAST_SERIES * total]
    return [
        {"code": code, "name": language_name(code), "colour": colour}
        for code, colour in zip(large, COLOURS, strict=False)
    ]


def statistics(corpus: Corpus, measured: Mapping[str, NDArray[np.float64]]) -> list[Row]:
    """Small pictures of everything measured, by family; those that a rule bounds come with their bounds."""
    colours = {row["code"]: row["colour"] for row in outlines(corpus)}
    language = corpus.languages()
    in_force = corpus.clean.get("policy", {}).get("rules", {})
    families: dict[str, Row] = {}
    for name, values in measured.items():
        statistic = STATISTICS[name]
        if statistic.family == "pii":
            continue
        split = {code: values[(language == code) & ~np.isnan(values)] for code in colours}
        split = {code: found for code, found in split.items() if len(found)}
        if not split or len(colours) < 2:
            split = {"all documents": values[~np.isnan(values)]}
        bounds = _bounds(name, in_force, list(colours))
        if not set(split) & set(colours):
            bounds = [Bound(value, side) for value, side in sorted({(bound.value, bound.side) for bound in bounds})]
        bounds = [bound for bound in bounds if bound.series is None or bound.series in split]
        found = values[~np.isnan(values)]
        family = families.setdefault(
            _FAMILIES.get(statistic.family, statistic.family), {"bounded": [], "others": [], "constant": []}
        )
        if found.min() == found.max() and not bounds:
            family["constant"].append({"name": named(name), "value": statistic.show(float(found[0]))})
            continue
        low, middle, high = (statistic.show(float(value)) for value in np.quantile(found, [0.05, 0.5, 0.95]))
        said = f"{statistic.phrase}: 5 % of documents at most {low}, half at most {middle}, 95 % at most {high}"
        shades = {code: colours.get(code, COLOURS[0]) for code in split}
        picture = pictures.histogram(split, shades, bounds, statistic.unit == "share", statistic.show, said)
        family["bounded" if bounds else "others"].append(
            {
                "name": named(name),
                "phrase": statistic.phrase,
                "picture": picture,
                "median": middle,
                "measured": len(found),
            }
        )
    return [{"family": family, **found} for family, found in families.items()]


def _bounds(statistic: str, in_force: Mapping[str, Mapping[str, Row]], series: Sequence[str]) -> list[Bound]:
    """The bounds on a statistic; one that holds in all languages drawn is one line."""
    found: dict[tuple[float, str], set[str]] = {}
    for language, held in in_force.items():
        for rule in held.values():
            if rule["statistic"] == statistic:
                for side in ("minimum", "maximum"):
                    if rule.get(side) is not None:
                        found.setdefault((float(rule[side]), side), set()).add(language)
    drawn = [code for code in series if code in in_force]
    bounds = []
    for (value, side), languages_held in sorted(found.items()):
        if not drawn or set(drawn) <= languages_held:
            bounds.append(Bound(value, side))
        else:
            bounds += [Bound(value, side, code) for code in drawn if code in languages_held]
    return bounds
