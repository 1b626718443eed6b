"""The map shows every document where tag put it, answers mouse, finger and keyboard, and keeps to itself."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.corpus.documents import iterate, removed_schema
from components.corpus.tagged_documents import tagged_schema
from components.datacard.__main__ import STEP
from components.datacard.map import points_of
from components.step import main
from tests.datacard.browser import CHROMIUM, open_page
from tests.datacard.conftest import HOSTILE

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def made(curated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "work"
    shutil.copytree(curated_folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(STEP, []) == 0
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    return (made / "reports/corpus_map.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def points(page: str) -> dict[str, Any]:
    found: dict[str, Any] = points_of(page)
    return found


def test_every_point_is_a_document_at_its_place(points: dict[str, Any], made: Path) -> None:
    import pyarrow.parquet as pq

    placed = pq.read_table(made / "data/tagged/map.parquet").to_pylist()
    tagged = list(iterate(made / "data/tagged/documents.parquet", tagged_schema()))
    dropped = {row["id"]: row["rule"] for row in iterate(made / "data/clean/removed.parquet", removed_schema())}
    assert len(placed) == len(points["x"]) == 240
    for number, row in enumerate(placed):
        document = tagged[row["row"]]
        assert points["id"][number] == document["id"]
        assert points["x"][number] == pytest.approx(row["x"] * 9999, abs=0.6)
        assert points["topic"][number] == document["topic"]
        assert points["sources"][points["source"][number]] == document["provenance"]["source"]
        rule = points["rules"][points["rule"][number]]
        assert rule == dropped.get(document["id"], "kept").replace("_", " ")
        begin = points["text"][number].removesuffix(" …")
        assert document["text"].strip("\n").startswith(begin)
        assert len(begin) >= min(20, len(document["text"]) - 12)


def test_shares_before_and_after_are_those_of_the_files(page: str, made: Path) -> None:
    summary = json.loads((made / "data/tagged/summary.json").read_text())
    characters: dict[int, int] = {}
    for row in iterate(made / "data/tagged/documents.parquet", tagged_schema()):
        characters[row["topic"]] = characters.get(row["topic"], 0) + len(row["text"])
    legend = re.findall(r'data-topic="(-?\d+)".*?<b>(.*?)</b>.*?<b>(.*?)</b>', page, re.DOTALL)
    assert {int(number) for number, *_ in legend} == set(characters)
    for number, before, _ in legend:
        share = 100 * characters[int(number)] / sum(characters.values())
        assert html.unescape(before).startswith(f"{share:.1f}" if share >= 0.1 else "< 0.1")
    for topic in summary["topics"]:
        assert html.escape(topic["terms"][0]) in page


def test_hostile_text_cannot_end_the_data(page: str) -> None:
    assert HOSTILE not in page
    assert page.count("<script") == 2
    assert any(HOSTILE in title for title in points_of(page)["title"])


@needs_browser
def test_the_script_runs_under_the_page_s_own_rules(page: str, tmp_path: Path) -> None:
    """The policy allows the one script by its hash; a canvas that was drawn has lost the default size."""
    document, console, _ = open_page(page, tmp_path)
    assert console == []
    canvas = re.search(r"<canvas[^>]*>", document)
    assert canvas is not None
    assert int(re.search(r'width="(\d+)"', canvas[0])[1]) > 300  # type: ignore[index]
    changed = page.replace('"use strict";', '"use strict"; let other;', 1)
    document, console, _ = open_page(changed, tmp_path / "control")
    assert any("Content Security Policy" in line for line in console)
    assert "width=" not in re.search(r"<canvas[^>]*>", document)[0]  # type: ignore[index]


_TOOLS = """
const $ = (name) => document.getElementById(name), canvas = $("canvas"), tick = () => new Promise((done) => setTimeout(done, 20));
const key = (name, on = canvas) => on.dispatchEvent(new KeyboardEvent("keydown", { key: name, cancelable: true, bubbles: true }));
const ink = () => { const copy = document.createElement("canvas"); [copy.width, copy.height] = [canvas.width, canvas.height];
  const on = copy.getContext("2d"); on.drawImage(canvas, 0, 0);
  return on.getImageData(0, 0, copy.width, copy.height).data.filter((value, i) => i % 4 === 3 && value > 0).length; };
const shown = () => ($("document").hidden ? null : $("document").innerText);
const find = async (text) => { $("search").value = text; $("search").dispatchEvent(new Event("input")); await tick(); };
const point = (type, x, y, more = {}) => { const box = canvas.getBoundingClientRect(); canvas.dispatchEvent(new PointerEvent(type,
  { clientX: box.left + x, clientY: box.top + y, pointerId: 1, pointerType: "mouse", bubbles: true, ...more })); };
canvas.setPointerCapture = () => {};
await tick();
"""


@needs_browser
def test_search_finds_documents_in_any_script_and_enter_walks_through_them(
    page: str, points: dict[str, Any], tmp_path: Path
) -> None:
    title = next(title for title in points["title"] if title.strip() and "<" not in title and "·" in title)
    asked = title.split(" · ")[0]
    script = f"""{_TOOLS}
    const seen = [];
    for (const text of [{json.dumps(asked)}, "ТОЛСТОЙ", "<script>", "no such words"]) {{
      await find(text);
      key("Enter", $("search")); await tick();
      const first = shown();
      key("Enter", $("search")); await tick();
      seen.push([$("found").textContent, first, shown()]);
    }}
    return [seen, performance.getEntriesByType("resource").length];"""
    _, console, (seen, loaded) = open_page(page, tmp_path, script)
    assert console == []
    assert loaded == 0
    words = [f"{title}\n{text}\n{name}".lower() for title, text, name in zip(points["title"], points["text"], points["id"], strict=True)]  # fmt: skip
    for asked_for, (told, first, second) in zip((asked, "толстой", "<script>"), seen, strict=False):
        found = sum(asked_for in text for text in words)
        assert told == f"{found} found"
        assert asked_for in first.lower()
        assert found == 1 or first != second
    assert seen[3] == ["0 found", None, None]


@needs_browser
def test_mouse_touch_keyboard_and_legend_work(page: str, points: dict[str, Any], tmp_path: Path) -> None:
    script = f"""{_TOOLS}
    const out = {{}};
    out.drawn = ink();
    key("ArrowRight"); await tick(); out.first = shown(); out.said = $("said").textContent;
    key("ArrowRight"); await tick(); out.second = shown();
    key("ArrowLeft"); await tick(); out.back = shown();
    key("Escape"); await tick(); out.gone = shown();
    key("+"); key("+"); key("+"); await tick(); out.zoomed = ink();
    key("0"); await tick(); out.whole = ink();
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const data = JSON.parse($("points").textContent), i = data.topic.findIndex((t) => t === 0);
    const x = width / 2 + data.x[i] / 9999 * (width / 2 - 18), y = height / 2 - data.y[i] / 9999 * (height / 2 - 18);
    point("pointermove", x, y); await tick(); out.hovered = shown();
    point("pointerleave", x, y); await tick(); out.left = shown();
    point("pointerdown", x, y, {{ pointerType: "touch" }}); point("pointerup", x, y, {{ pointerType: "touch" }}); await tick(); out.tapped = shown();
    document.querySelector('[data-topic="0"]').click(); await tick();
    out.pressed = document.querySelector('[data-topic="0"]').getAttribute("aria-pressed"); out.toggled = ink(); out.closed = shown();
    $("none").click(); await tick(); out.none = ink();
    $("all").click(); await tick(); out.all = ink();
    $("names").click(); await tick(); const bare = ink();
    $("dropped").click(); await tick(); out.without = bare - ink();
    return out;"""
    _, console, out = open_page(page, tmp_path, script)
    assert console == []
    assert isinstance(out, dict), out
    assert out["drawn"] > 2000
    assert out["first"]
    assert out["said"]
    assert out["second"] not in (None, out["first"])
    assert out["gone"] is None
    assert out["zoomed"] != out["drawn"] == out["whole"]
    assert "topic 0:" in out["hovered"]
    assert out["left"] is None
    assert "topic 0:" in out["tapped"]
    assert (out["pressed"], out["closed"]) == ("false", None)
    assert out["none"] == 0 < out["toggled"] < out["all"] == out["drawn"]
    assert out["without"] > 0
