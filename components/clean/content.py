"""What is trained on: the template around a document's title, author and body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from components.chat.markup import escape

_FIELD = re.compile(r"\{(title|author|text)\}(\n?)")


def render(template: str, fields: Mapping[str, str | None]) -> str:
    """Fill {title}, {author} and {text}; a missing field vanishes together with the line end that follows it."""
    if template == "{text}":
        return fields["text"] or ""  # escaped already
    pieces = []
    for literal, name, line_end in _parsed(template):
        pieces.append(literal)
        value = fields[name] if name else None
        if value:
            pieces += (value, line_end)
    # Escaped once more: a template could put a marker together out of harmless pieces.
    return escape("".join(pieces))


@lru_cache
def _parsed(template: str) -> tuple[tuple[str, str, str], ...]:
    """(what stands before a field, the field's name, the line end behind it); the last has no name."""
    found, start = [], 0
    for match in _FIELD.finditer(template):
        found.append((template[start : match.start()], match[1], match[2]))
        start = match.end()
    return (*found, (template[start:], "", ""))
