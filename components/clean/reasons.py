"""One sentence for every removal: what was measured, and what was allowed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.clean.tagged import Tagged
    from components.clean.verdicts import Verdicts
    from components.configuration import Clean
    from components.corpus.policy import Policy

# The parameter that moves each rule which is not of a policy.
PARAMETERS = {
    "denied": "clean.denied",
    "empty": None,
    "language": "clean.languages",
    "contaminated": "clean.contaminated",
    "topic": "clean.topics_dropped",
    "repeated_elsewhere": "clean.substrings",
    "exact_duplicate": "clean.exact_duplicates",
    "near_duplicate": "clean.jaccard",
    "topic_quota": "clean.topic_quota",
    "mixture": "clean.mixture",
}


def parameter(rule: str) -> str | None:
    """The parameter that moves a rule; None where none does."""
    return PARAMETERS.get(rule, f"clean.rules.{rule}")


class Reasons:
    """Words for the verdicts on tagged documents."""

    def __init__(self, tagged: Tagged, verdicts: Verdicts, policy: Policy, settings: Clean) -> None:
        self._tagged, self._verdicts, self._policy, self._settings = tagged, verdicts, policy, settings

    def of(self, row: int, contaminated_by: str | None = None, metadata: str | None = None) -> str:
        """Why the document of that row was removed; its metadata say why a page or mail came without text."""
        verdicts, tagged, settings = self._verdicts, self._tagged, self._settings
        name, value = verdicts.names[verdicts.rule[row]], float(verdicts.value[row])
        language = tagged.language[row]
        if name not in PARAMETERS:
            return self._policy.for_language(language)[name].reason(value)
        if name in ("exact_duplicate", "near_duplicate"):
            row_of_twin = int(verdicts.twin[row])
            twin = tagged.id(row_of_twin) if row_of_twin >= 0 else "an earlier document (a Bloom filter says so)"
            if name == "exact_duplicate":
                return f"its letters and digits equal those of {twin}"
            return (
                f"{value:.0%} of its character n-grams and those of {twin} are shared, at least {settings.jaccard:.0%}"
            )
        if name == "empty":
            return _empty(metadata)
        return {
            "denied": "clean.denied names it",
            "language": f"its language is {language}, and clean.languages has {', '.join(settings.languages)}",
            "contaminated": f"it shares a passage with an evaluation set ({contaminated_by})",
            "topic": f"its topic is number {tagged.topic[row]}, which clean.topics_dropped names",
            "repeated_elsewhere": "all of it stands in earlier documents"
            if value >= 1
            else f"{value:.1%} of it stands in earlier documents, and what is left is too short",
            "topic_quota": f"topic {tagged.topic[row]} has more than {settings.topic_quota:.0%} of the characters, and others are more typical of it",
            "mixture": f"source {tagged.source[row]} is read {value:.3g} times an epoch, and it was not drawn",
        }[name]


def _empty(metadata: str | None) -> str:
    """Ingest keeps a place for every page and mail; where it is empty, it says why."""
    told = json.loads(metadata or "{}")
    if told.get("url_blocked"):
        return f"its address is blocked ({told['url_blocked']})"
    if told.get("extraction"):
        return f"no text could be had from it: {told['extraction']}"
    return "it holds no letter and no digit"
