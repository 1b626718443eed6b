"""How shares, texts, names and data are written on the pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from components.corpus.language_facts import facts
from components.datacard.corpus import Amount

_SHOWN = 320  # characters of an example


def share(part: float, whole: float) -> float:
    """Percent of the whole, 0 where there is none."""
    return 100 * part / whole if whole else 0.0


def cut(text: str | None, characters: int = _SHOWN) -> str:
    """The beginning of a text."""
    text = (text or "").strip("\n")
    return text if len(text) <= characters else text[:characters].rstrip() + " …"


def tongue(language: str | None) -> Markup:
    """The `lang` attribute of a text, where its language is known."""
    return Markup(' lang="{}"').format(language) if language and language != "und" else Markup("")


def named(rule: str) -> str:
    """A rule's name as a person writes it."""
    return rule.replace("_", " ")


def largest(amounts: Mapping[str, Amount], most: int) -> dict[str, Amount]:
    """The `most` largest amounts, by documents, then by name."""
    order = sorted(amounts, key=lambda name: (-amounts[name].documents, name))
    return {name: amounts[name] for name in order[:most]}


def language_name(code: str) -> str:
    """English name of a language, or its code."""
    return "not told" if code == "und" else facts(code).name


def embedded(value: Any) -> str:
    """JSON that may stand inside a `<script>` element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")  # fmt: skip
