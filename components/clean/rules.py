"""Rules in turn: what is empty, of another language, contaminated, of an unwanted topic, or out of a policy's bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.clean.reasons import PARAMETERS
from components.clean.verdicts import Verdicts
from components.corpus.policy import Policy
from components.corpus.statistics import STATISTICS
from components.errors import InkwellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.clean.tagged import Tagged
    from components.configuration import Clean

_FILLED_BY = {
    "pii": "set one of tag.pii",
    "duplicates": "set tag.duplicates.substring_characters",
    "perplexity": "set tag.perplexity.order",
    "quality": "give sources of roles good and bad",
    "judge": "set tag.judge.address",
    "topics": "set tag.topics.clusters",
    "language": "run tag again",
    # These two belong to a family and are measured by something else.
    "lines_taken_out": "set one of tag.lines",
    "mojibake_repaired": "set tag.mojibake",
}


def apply_rules(tagged: Tagged, policy: Policy, settings: Clean, verdicts: Verdicts) -> None:
    """Remove what no choice in `clean`, and no rule of the policy, lets stay.

    The policy comes last, so that what it removes, and noise brings back, is objectionable in no other way.
    """
    if settings.denied:
        verdicts.remove("denied", _denied(tagged, settings.denied))
    verdicts.remove("empty", tagged.statistic("letters") == 0, np.zeros(len(tagged)), 1.0)
    if settings.languages:
        asked_for = [tagged.language.are(language) for language in settings.languages]
        verdicts.remove("language", ~np.any(asked_for, axis=0))
    if settings.contaminated == "drop":
        verdicts.remove("contaminated", tagged.contaminated)
    if settings.topics_dropped:
        topics = set(np.unique(tagged.topic).tolist()) - {-1}
        if unknown := sorted(set(settings.topics_dropped) - topics):
            there = f"they are 0 to {max(topics)}" if topics else "there are none; set tag.topics.clusters"
            raise InkwellError(f"clean.topics_dropped: no document is of a topic {unknown[0]}; {there}.")
        verdicts.remove("topic", np.isin(tagged.topic, settings.topics_dropped))
    _check_names(policy)
    _check_measured(tagged, policy)
    by_language = {language: tagged.language.are(language) for language in tagged.language.names}
    for name in _names(policy):
        verdicts.declare(name)
        rules = [(here, policy.for_language(language).get(name)) for language, here in by_language.items()]
        for statistic in sorted({rule.statistic for _, rule in rules if rule}):
            value = tagged.statistic(statistic)
            minimum, maximum = np.full(len(tagged), np.nan), np.full(len(tagged), np.nan)
            for here, rule in rules:
                if rule and rule.statistic == statistic:
                    for bounds, bound in ((minimum, rule.minimum), (maximum, rule.maximum)):
                        if bound is not None:
                            bounds[here] = bound
            # What was not measured, or has no bound, is NaN: neither less nor greater than anything.
            verdicts.remove(name, value < minimum, value, minimum)
            verdicts.remove(name, value > maximum, value, maximum)


def _denied(tagged: Tagged, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Where the denied documents are; InkwellError for an id of none: a list with a slip would let a document through."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.is_in(tagged.ids, value_set=pa.array(ids, tagged.ids.type)).to_numpy(
        zero_copy_only=False
    )
    if found.sum() < len(set(ids)):
        there = set(tagged.ids.filter(pa.array(found)).to_pylist())
        unknown = [name for name in ids if name not in there]
        raise InkwellError(
            f"clean.denied: no document has the id {unknown[0]!r}"
            + (f" ({len(unknown)} of the {len(set(ids))} ids are of none)" if len(unknown) > 1 else "")
            + "; mend it, or take it out of the list where the document has left the sources."
        )
    return found


def keep_noise(verdicts: Verdicts, settings: Clean, policy: Policy, draws: NDArray[np.float64]) -> NDArray[np.int16]:
    """Take a share of what the policy's rules removed back in; returns for each document the rule it was let off, or -1.

    `draws`: a number in [0, 1) for each document. What is empty, contaminated or of a language nobody asked for stays out.
    """
    let_off = np.full(verdicts.size, -1, dtype=np.int16)
    if settings.keep_noise:
        back = verdicts.removed_by(*_names(policy)) & (draws < settings.keep_noise)
        let_off[back] = verdicts.rule[back]
        verdicts.restore(back)
    return let_off


def _names(policy: Policy) -> list[str]:
    """Every rule, in the order of the general ones, then those that only some language has."""
    found = dict.fromkeys(policy.rules)
    for rules in policy.by_language.values():
        found |= dict.fromkeys(rules)
    return list(found)


def _check_names(policy: Policy) -> None:
    for name in _names(policy):
        if name in PARAMETERS:
            raise InkwellError(
                f"policy {policy.name!r} calls a rule {name!r}, which is the name of a decision of clean: give it another name."
            )


def _check_measured(tagged: Tagged, policy: Policy) -> None:
    measured = tagged.measured()
    if "words" in measured:
        measured.add("stop_words")  # measured, though in no document where none of its language are known
    for language in tagged.language.names:
        for rule in policy.for_language(language).values():
            if rule.statistic not in measured:
                family = STATISTICS[rule.statistic].family
                mend = _FILLED_BY.get(rule.statistic) or _FILLED_BY.get(family) or f"add {family} to tag.families"
                raise InkwellError(
                    f"policy {policy.name!r}, rule {rule.name!r}: {rule.statistic} was not measured; {mend}, or switch the rule off "
                    f"with clean.rules: {{{rule.name}: {{off: true}}}}."
                )
