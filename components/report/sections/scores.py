"""The scores of the evaluation, with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.figures import FORMS, figure
from components.report import pictures
from components.report.evidence import MODELS, Evidence, Row

if TYPE_CHECKING:
    from markupsafe import Markup

# Scores of the evaluation: name, what it says, form, whether more is better (None: neither).
_SCORES: dict[str, tuple[str, str, str, bool | None]] = {
    "five_char_lines": ("Five characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "seven_char_lines": ("Seven characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "six_char_lines": ("Six characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "four_char_lines": ("Four characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "line_count": ("The asked number of lines", "no more, no less, and ended by itself", "percent", True),
    "title_overlap": ("The asked title", "share of its characters (or longer words) that the text takes up", "percent", True),
    "title_overlap_by_chance": ("Another's title", "the same against the title asked for before: what chance gives", "percent", None),
    "next_line": ("The next line", "the real one picked among lines of other documents", "percent", True),
    "bits_per_char": ("Bits per character", "plain held-out text; chat models pay here for what they learnt", "bits", False),
    "ended": ("Ended by itself", "before the token limit cut it", "percent", True),
    "verbatim_share": ("Copied word for word", "share of generated characters in long runs of the training text", "percent", False),
    "distinct_lines": ("Distinct lines", "different lines among all that were written", "percent", None),
}  # fmt: skip


def shown(key: str, score: Row, part: str, form: str) -> Markup | None:
    """One part of a score as a figure that says where it was read."""
    return figure(score.get(part), form, f"data/evaluation/results.json: {key} {part}")


def interval(key: str, score: Row, form: str = "percent") -> list[Markup | None] | None:
    """The two ends of a score's interval, where it has one."""
    return [shown(key, score, part, form) for part in ("low", "high")] if "low" in score else None


def evaluation(evidence: Evidence) -> Row | None:
    """A picture and a row a score, and what was left out and why."""
    scores = evidence.results.get("scores", {})
    if not scores:
        return None
    names = list(dict.fromkeys(key.split(".", 1)[1] for key in scores))
    names.sort(key=lambda name: list(_SCORES).index(name) if name in _SCORES else len(_SCORES))
    chance = evidence.results.get("chance", {})
    found: list[Row] = []
    for name in names:
        said, meaning, form, better = _SCORES.get(name, (name.replace("_", " ").capitalize(), "", "number", None))
        judged = {model: scores[f"{model}.{name}"] for model in MODELS if f"{model}.{name}" in scores}
        if name == "verbatim_share" and "verbatim_run" in evidence.results:
            meaning = f"share of generated characters in runs of {evidence.results['verbatim_run']} or more that stand in the training text"
        level = (chance[name], "chance") if name in chance else None
        drawn = [(model, score["value"], score.get("low"), score.get("high")) for model, score in judged.items()]
        alternative = f"{said}: " + ", ".join(
            f"{model} {FORMS[form](score['value'])}" for model, score in judged.items()
        )
        found.append(
            {
                "name": name,
                "said": said,
                "meaning": meaning,
                "better": {True: "higher is better", False: "lower is better", None: ""}[better],
                "picture": pictures.picture(
                    f"score-{len(found)}",
                    alternative,
                    pictures.intervals(drawn, FORMS[form], form == "percent", level),
                    height=0.45 + 0.3 * len(drawn),
                ),
                "rows": [
                    {
                        "model": model,
                        "value": shown(f"{model}.{name}", score, "value", form),
                        "interval": interval(f"{model}.{name}", score, form),
                        "n": shown(f"{model}.{name}", score, "n", "count"),
                    }
                    for model, score in judged.items()
                ],
            }
        )
    return {
        "scores": found,
        "left_out": sorted(evidence.results.get("left_out", {}).items()),
        "sampling": evidence.results.get("sampling", {}),
        "questions": {
            name: figure(value, "count", f"data/evaluation/results.json: questions.{name}")
            for name, value in evidence.results.get("questions", {}).items()
        },
    }
