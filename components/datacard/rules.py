"""What each rule dropped, by language and source, with examples on either side of its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.corpus.statistics import STATISTICS
from components.datacard.corpus import Amount, Corpus, Row
from components.datacard.wording import cut, language_name, largest, named, share

EXAMPLES = 3  # of a rule on each side, of a score at each end
_COLUMNS = 6  # languages, and sources, that have a column in the table of rules
_LEAST_COLUMN = 0.005  # share of the documents from which one has
# What rules say that are not of a policy; a policy's rule says which statistic it bounds.
_SAID = {
    "empty": "no letter and no digit in it",
    "language": "a language that was not asked for",
    "contaminated": "a passage of an evaluation set in it",
    "topic": "a topic that was switched off",
    "repeated_elsewhere": "all of it stands in earlier documents",
    "exact_duplicate": "its letters and digits equal another's",
    "near_duplicate": "most of its character n-grams are another's too",
    "topic_quota": "its topic had more than its share, and others are more typical of it",
    "mixture": "its source is read less than once an epoch, and it was not drawn",
}


def rule_columns(corpus: Corpus) -> list[Row]:
    """Languages and sources that have a column of their own in the table of rules."""
    found = []
    least = _LEAST_COLUMN * corpus.before.total().documents
    for kind in ("language", "source"):
        amounts = {name: amount for name, amount in corpus.before.by(kind).items() if amount.documents > least}
        if len(amounts) > 1:
            for name, amount in largest(amounts, _COLUMNS).items():
                said = language_name(name) if kind == "language" else name
                found.append({"kind": kind, "key": name, "name": said, "documents": amount.documents})
    return found


def rules(corpus: Corpus) -> list[Row]:
    """Every rule: what it bounds, what it dropped of each language and source, and texts on either side of its bound."""
    by_rule = corpus.removed.by("mark")
    cells = {kind: corpus.removed.by("mark", kind) for kind in ("language", "source")}
    whole = corpus.before.total()
    in_force = corpus.clean.get("policy", {}).get("rules", {})
    parameters = corpus.clean.get("parameters", {})
    names = {*by_rule, *parameters, *(name for found in in_force.values() for name in found)}
    order = sorted(names, key=lambda name: (-by_rule.get(name, Amount()).documents, name))
    columns = rule_columns(corpus)
    review: dict[tuple[str, str], list[Row]] = {}
    for row in corpus.review:
        review.setdefault((str(row.get("rule")), str(row.get("side"))), []).append(row)
    found = []
    for name in order:
        amount = by_rule.get(name, Amount())
        statistic = next((held[name]["statistic"] for held in in_force.values() if name in held), None)
        found.append(
            {
                "key": name,
                "name": named(name),
                "said": STATISTICS[statistic].phrase if statistic in STATISTICS else _SAID.get(name, ""),
                "bounds": _bounds_in_words(name, in_force),
                "parameter": parameters.get(name),
                "amount": amount,
                "share": share(amount.documents, whole.documents),
                "cells": [
                    share(cells[column["kind"]].get((name, column["key"]), Amount()).documents, column["documents"])
                    for column in columns
                ],
                "dropped": _examples(review.get((name, "dropped"), []), statistic),
                "kept": _examples(review.get((name, "kept"), []), statistic),
            }
        )
    return found


def _bounds_in_words(rule: str, in_force: Mapping[str, Mapping[str, Row]]) -> str:
    """ "at least 10", or by language where they differ."""
    said: dict[str, list[str]] = {}
    for language, held in sorted(in_force.items()):
        if rule in held:
            show = STATISTICS[held[rule]["statistic"]].show
            bounds = ((held[rule].get("minimum"), "at least"), (held[rule].get("maximum"), "at most"))
            words = " and ".join(f"{word} {show(bound)}" for bound, word in bounds if bound is not None)
        else:
            words = "not asked"
        said.setdefault(words, []).append(language)
    if set(said) == {"not asked"}:
        return ""
    return next(iter(said)) if len(said) == 1 else "; ".join(f"{', '.join(codes)}: {words}" for words, codes in said.items())  # fmt: skip


def _examples(rows: Sequence[Row], statistic: str | None) -> list[Row]:
    """Some of a rule's documents, the nearest to its bound first (as clean wrote them)."""

    def shown(value: Any) -> str | None:
        if not isinstance(value, int | float):
            return None
        return STATISTICS[statistic].show(value) if statistic in STATISTICS else f"{value:.3g}"

    return [
        {
            **row,
            "value": shown(row.get("value")),
            "threshold": shown(row.get("threshold")),
            "text": cut(row.get("text")),
        }
        for row in rows[:EXAMPLES]
    ]
