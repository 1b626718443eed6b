"""The chain as a drawing: one row a step of descent, lines from what was made to what it was made of.

Layers, places and bends by the method of Sugiyama, Tagawa and Toda (1981), in its simplest form: a link's layer is its
longest way down, a line that crosses layers gets a place in each, and a few sweeps put neighbours above one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.lineage.backward import Chain, Link, reduced
from flows.lineage.words import duration

if TYPE_CHECKING:
    from markupsafe import Markup

_WIDTH, _HEIGHT, _GAP, _DROP, _BEND = 236, 54, 24, 30, 24  # pixels: a box, between boxes, between rows, of a bend
_SWEEPS = 8


def draw(chain: Chain) -> Markup:
    """An `<svg>` element; each box leads to the link's section of the page (`#link-1`, ...)."""
    from markupsafe import Markup, escape

    edges = reduced(chain)
    links = {link.key: link for link in chain.links}
    rows = _rows(chain, edges)
    widths = [sum(_WIDTH if name in links else _BEND for name in row) + _GAP * (len(row) - 1) for row in rows]
    width, height = max(widths) + 2, len(rows) * (_HEIGHT + _DROP) - _DROP + 2
    middle: dict[str, float] = {}
    top: dict[str, float] = {}
    for number, (row, taken) in enumerate(zip(rows, widths, strict=True)):
        x = (width - taken) / 2
        for name in row:
            own = _WIDTH if name in links else _BEND
            middle[name], top[name] = x + own / 2, 1 + number * (_HEIGHT + _DROP)
            x += own + _GAP
    parts = []
    for key, parents in edges.items():
        for parent in parents:
            parts.append(
                _line(
                    [key, *(n for row in rows for n in row if n == _bend(key, parent, rows.index(row))), parent],
                    middle,
                    top,
                )
            )
    for number, link in enumerate(chain.links, 1):
        said = [_short(link.path), _small(link)]
        kind = "missing" if link.missing else link.kind
        x, y = middle[link.key] - _WIDTH / 2, top[link.key]
        champion = any("champion" in version.aliases for version in link.versions)
        parts.append(
            f'<a href="#link-{number}"><g class="box {escape(kind)}{" champion" * champion}">'
            f"<title>{escape(link.path)} {escape(link.digest)}</title>"
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="4"/>'
            f'<text class="name" x="{x + 14:.0f}" y="{y + 23:.0f}">{escape(said[0])}</text>'
            f'<text class="small" x="{x + 14:.0f}" y="{y + 41:.0f}">{escape(said[1])}</text></g></a>'
        )
    label = escape(f"{chain.asked} and the {len(chain.links) - 1} things it came from")
    return Markup(
        f'<svg class="chain" role="img" aria-label="{label}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width: {width:.0f}px">{"".join(parts)}</svg>'
    )


def _rows(chain: Chain, edges: dict[str, list[str]]) -> list[list[str]]:
    layer: dict[str, int] = {}
    for link in chain.links:  # made things come before what they were made of
        layer.setdefault(link.key, 0)
        for parent in edges[link.key]:
            layer[parent] = max(layer.get(parent, 0), layer[link.key] + 1)
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for link in chain.links:
        rows[layer[link.key]].append(link.key)
    near: dict[str, list[str]] = {}
    for key, parents in edges.items():
        for parent in parents:
            last = key
            for number in range(layer[key] + 1, layer[parent] + 1):
                name = parent if number == layer[parent] else _bend(key, parent, number)
                if name != parent:
                    rows[number].append(name)
                near.setdefault(last, []).append(name)
                near.setdefault(name, []).append(last)
                last = name
    for sweep in range(_SWEEPS):
        step = 1 if sweep % 2 == 0 else -1
        for number in range(len(rows))[::step]:
            if 0 <= number - step < len(rows):
                rows[number] = _above_one_another(rows[number], rows[number - step], near)
    return rows


def _above_one_another(row: list[str], beside: list[str], near: dict[str, list[str]]) -> list[str]:
    """The row in the order of its neighbours' places in the row beside it."""
    place = {name: (at + 0.5) / len(beside) for at, name in enumerate(beside)}
    wanted = {}
    for at, name in enumerate(row):
        places = [place[other] for other in near.get(name, []) if other in place]
        wanted[name] = sum(places) / len(places) if places else (at + 0.5) / len(row)
    return sorted(row, key=wanted.__getitem__)


def _bend(key: str, parent: str, row: int) -> str:
    return f"{key} > {parent} @ {row}"


def _line(names: list[str], middle: dict[str, float], top: dict[str, float]) -> str:
    path = f"M{middle[names[0]]:.0f} {top[names[0]] + _HEIGHT:.0f}"
    y = top[names[0]] + _HEIGHT
    for name in names[1:]:
        x, below = middle[name], top[name]
        half = (y + below) / 2
        path += f" C{middle[names[names.index(name) - 1]]:.0f} {half:.0f} {x:.0f} {half:.0f} {x:.0f} {below:.0f}"
        y = below
        if name != names[-1]:  # straight down past the row
            path += f" V{below + _HEIGHT:.0f}"
            y = below + _HEIGHT
    return f'<path d="{path}"/>'


def _short(path: str) -> str:
    name = path if len(path) <= 26 else path.rsplit("/", 1)[-1]
    return name if len(name) <= 26 else f"{name[:12]}…{name[-12:]}"


def _small(link: Link) -> str:
    if link.missing and link.run is None and link.kind != "source":
        return "no run on record"
    if link.versions:
        return min(link.versions, key=lambda version: not version.aliases).title[:36]
    if link.kind in ("source", "initial"):
        return " · ".join(part for part in (link.digest[:8], link.facts.get("license", "no licence stated")) if part)
    if link.run is None:
        return link.digest[:8]
    parts = [link.digest[:8], *([] if link.kind == "file" else [link.run.stage, duration(link.run.seconds) or ""])]
    return " · ".join(part for part in parts if part)
