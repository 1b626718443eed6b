"""Policies: which statistics are bounded, and where the bounds lie in each language. A policy is a file of data.

    summary: one sentence
    extends: base                  # optional: another policy, or a list of them, whose rules come first
    rules:
      <rule>: {statistic: <name of components.corpus.statistics>, minimum: 3, maximum: 10}
    languages:                     # optional: other bounds for a language; `null` switches a rule off there
      zh:
        <rule>: {maximum: 2}
        <rule>: null

A rule drops what lies outside its bounds; a statistic that was not measured for a document (a judge that was asked about a
sample only) drops nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.corpus.statistics import STATISTICS
from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Bound

FOLDER = Path(__file__).parent / "policies"


@dataclass(frozen=True)
class Rule:
    """One rule: a statistic and its bounds; `minimum` or `maximum` is None where that side is open."""

    name: str
    statistic: str
    minimum: float | None = None
    maximum: float | None = None

    def reason(self, value: float) -> str:
        """One sentence on a document that is outside the bounds."""
        statistic = STATISTICS[self.statistic]
        if self.minimum is not None and value < self.minimum:
            side, bound = "less", self.minimum
        else:
            assert self.maximum is not None
            side, bound = "more", self.maximum
        return f"its {statistic.phrase} is {statistic.show(value)}, {side} than {statistic.show(bound)}"

    def bound(self, value: float) -> float | None:
        """The bound that `value` is outside of, None when it is within."""
        if self.minimum is not None and value < self.minimum:
            return self.minimum
        if self.maximum is not None and value > self.maximum:
            return self.maximum
        return None


@dataclass(frozen=True)
class Policy:
    """Rules in the order in which they are asked, for languages in general and by language."""

    name: str
    summary: str
    rules: Mapping[str, Rule]
    by_language: Mapping[str, Mapping[str, Rule]] = field(default_factory=dict)

    def for_language(self, language: str) -> Mapping[str, Rule]:
        """The rules that a document of that language is held to."""
        return self.by_language.get(language, self.rules)

    def statistics(self) -> set[str]:
        """Every statistic that some rule looks at."""
        return {rule.statistic for rules in (self.rules, *self.by_language.values()) for rule in rules.values()}

    def changed(self, bounds: Mapping[str, Bound]) -> Policy:
        """With the changes of `clean.rules`, for every language; InkwellError for a rule that the policy does not have."""
        for name in bounds:
            if name not in self.rules and not any(name in rules for rules in self.by_language.values()):
                close = difflib.get_close_matches(name, self.rules, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(self.rules)}."
                raise InkwellError(f"clean.rules: policy {self.name!r} has no rule {name!r}; {hint}")

        def apply(rules: Mapping[str, Rule]) -> dict[str, Rule]:
            found = {}
            for name, rule in rules.items():
                bound = bounds.get(name)
                if bound is None:
                    found[name] = rule
                elif not bound.off:
                    given = bound.model_dump(include={"minimum", "maximum"}, exclude_unset=True)
                    changed = found[name] = replace(rule, **given)
                    if (
                        changed.minimum is not None
                        and changed.maximum is not None
                        and changed.minimum > changed.maximum
                    ):
                        raise InkwellError(
                            f"clean.rules.{name} would drop everything: its minimum {changed.minimum} exceeds its maximum {changed.maximum} "
                            f"(what is left out stays as policy {self.name!r} has it)."
                        )
            return found

        by_language = {language: apply(rules) for language, rules in self.by_language.items()}
        return replace(self, rules=apply(self.rules), by_language=by_language)


def names() -> list[str]:
    """The policies that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_policy(name: str) -> Policy:
    """Read `components/corpus/policies/<name>.yaml` and what it extends; InkwellError naming file and mistake."""
    return _load(name, ())


def _load(name: str, above: tuple[str, ...]) -> Policy:
    path = FOLDER / f"{name}.yaml"
    if name in above:
        raise InkwellError(f"components/corpus/policies/{name}.yaml extends itself ({' > '.join((*above, name))}).")
    if not path.exists():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names())}."
        raise InkwellError(f"there is no policy {name!r} in components/corpus/policies; {hint}")
    where = f"components/corpus/policies/{path.name}"
    content = _read(path, where)
    extended = content.get("extends") or []
    bases = [_load(base, (*above, name)) for base in ([extended] if isinstance(extended, str) else extended)]
    base = _together(bases) if bases else None
    rules = _merged(base.rules if base else {}, content.get("rules") or {}, where)
    changes: dict[str, Mapping[str, Any]] = {
        code: found or {} for code, found in (content.get("languages") or {}).items()
    }
    languages = {}
    for language in sorted({*(base.by_language if base else ()), *changes}):
        # A language has the general rules, then what the extended policy says of it, then what this one says.
        inherited = _inherited(rules, base, language)
        languages[language] = _merged(inherited, changes.get(language, {}), f"{where}, language {language}")
    return Policy(name, content.get("summary", ""), rules, languages)


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InkwellError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error
    known = ("summary", "extends", "rules", "languages", "sources")
    if not isinstance(content, dict):
        raise InkwellError(f"{where} must be a table of {', '.join(known)}.")
    for key, value in content.items():
        if key not in known:
            raise InkwellError(f"{where}: unknown key {key!r}; there are {', '.join(known)}.")
        if key in ("rules", "languages") and not isinstance(value, dict | None):
            raise InkwellError(f"{where}: {key} must be a table, not {value!r}.")
        if key == "extends" and not all(
            isinstance(part, str) for part in (value if isinstance(value, list) else [value or ""])
        ):
            raise InkwellError(f"{where}: extends must be the name of a policy or a list of such names, not {value!r}.")
    for code, rules in (content.get("languages") or {}).items():
        if not isinstance(code, str):  # YAML reads Norwegian's code as false
            raise InkwellError(f"{where}: {code!r} is no language; write codes such as no or on in quotation marks.")
        if not isinstance(rules, dict | None):
            raise InkwellError(f"{where}, language {code}: the rules must be a table, not {rules!r}.")
    return content


def _together(policies: Sequence[Policy]) -> Policy:
    """Several policies as one: a rule of the same name is the last one's."""
    rules: dict[str, Rule] = {}
    for policy in policies:
        rules |= policy.rules
    languages = {language for policy in policies for language in policy.by_language}
    by_language = {}
    for language in languages:
        found: dict[str, Rule] = {}
        for policy in policies:
            # What a later policy switches off, or bounds otherwise, is so, although an earlier one has it.
            found = {name: rule for name, rule in found.items() if name not in policy.rules}
            found |= policy.for_language(language)
        by_language[language] = found
    return Policy("", "", rules, by_language)


def _inherited(rules: Mapping[str, Rule], base: Policy | None, language: str) -> dict[str, Rule]:
    if base is None or language not in base.by_language:
        return dict(rules)
    own = base.by_language[language]
    found = {}
    for name, rule in rules.items():
        if base.rules.get(name) == rule:  # this policy says nothing new of it: the language's own bound stands
            if name in own:
                found[name] = own[name]
        else:
            found[name] = rule
    return found | {name: rule for name, rule in own.items() if name not in rules}


def _merged(rules: Mapping[str, Rule], changes: Mapping[str, Any], where: str) -> dict[str, Rule]:
    merged = dict(rules)
    for name, change in changes.items():
        if change is None:
            if name not in merged:
                close = difflib.get_close_matches(str(name), merged, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                raise InkwellError(f"{where}: {name!r} is switched off, but there is no such rule{hint}")
            del merged[name]
            continue
        if not isinstance(change, dict) or set(change) - {"statistic", "minimum", "maximum"}:
            raise InkwellError(f"{where}: rule {name!r} is written as {{statistic: ..., minimum: ..., maximum: ...}}.")
        statistic = change.get("statistic", merged[name].statistic if name in merged else name)
        if statistic not in STATISTICS:
            close = difflib.get_close_matches(str(statistic), STATISTICS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InkwellError(f"{where}: rule {name!r} bounds {statistic!r}, which nobody measures{hint}")
        before = merged.get(name, Rule(name, statistic))
        bounds = {side: change[side] for side in ("minimum", "maximum") if side in change}
        if not all(
            value is None or (isinstance(value, int | float) and value is not True and value is not False)
            for value in bounds.values()
        ):
            raise InkwellError(f"{where}: the bounds of rule {name!r} are numbers.")
        rule = merged[name] = replace(before, statistic=statistic, **bounds)
        if rule.minimum is None and rule.maximum is None:
            raise InkwellError(f"{where}: rule {name!r} has neither minimum nor maximum.")
        if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
            raise InkwellError(
                f"{where}: rule {name!r} would drop everything, its minimum {rule.minimum} exceeds its maximum {rule.maximum}."
            )
    return merged
