"""The data card says what the files say, in three languages, harms nobody, and asks nothing of the network."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.corpus.documents import clean_schema, iterate, removed_schema
from components.corpus.tagged_documents import tagged_schema
from components.datacard.__main__ import STEP
from components.step import main
from tests.datacard.browser import CHROMIUM, open_page, without_policy
from tests.datacard.conftest import HOSTILE


class Page(HTMLParser):
    """Tags with their attributes, `<data>` elements with what they show, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: dict[str, set[float]] = {}
        self.words: list[str] = []
        self._hidden = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self._hidden = tag in ("script", "style")
        if tag == "data":
            self.figures.setdefault(found["title"], set()).add(float(found["value"]))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def section(self, name: str) -> Page:
        """One section by its id."""
        begin = self.source.index(f'<section id="{name}">')
        return Page(self.source[begin : self.source.index("</section>", begin)])


def make(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(workspace)
    return main(STEP, [])


@pytest.fixture(scope="module")
def made(curated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace where the step has run; tests only read it."""
    folder = tmp_path_factory.mktemp("made") / "work"
    shutil.copytree(curated_folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        assert make(folder, patch) == 0
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page((made / "reports/data_card.html").read_text(encoding="utf-8"))


def rows(made: Path, name: str) -> list[dict[str, Any]]:
    schema = {"tagged/documents": tagged_schema, "clean/documents": clean_schema, "clean/removed": removed_schema}[
        name
    ]()
    return list(iterate(made / "data" / f"{name}.parquet", schema))


def test_what_came_in_is_what_was_kept_and_what_was_dropped(page: Page, made: Path) -> None:
    tagged, kept, removed = (rows(made, name) for name in ("tagged/documents", "clean/documents", "clean/removed"))
    assert page.figures["data/tagged/documents.parquet: rows"] == {len(tagged)} == {240.0}
    assert page.figures["data/clean/documents.parquet: rows"] == {len(kept)}
    assert page.figures["data/clean/removed.parquet: rows"] == {len(removed)}
    for name, found in (("tagged/documents", tagged), ("clean/documents", kept), ("clean/removed", removed)):
        assert page.figures[f"data/{name}.parquet: text"] >= {float(sum(len(row["text"]) for row in found))}
    metrics = json.loads((made / "metrics/datacard.json").read_text())
    assert metrics["documents_in"] == 240
    assert metrics["documents_kept"] == len(kept)
    assert metrics["characters_kept"] == sum(len(row["text"]) for row in kept)


def test_every_rule_has_its_documents_by_language_and_source(page: Page, made: Path) -> None:
    removed = Counter(row["rule"] for row in rows(made, "clean/removed"))
    assert {"too_short", "repeated_lines", "empty", "near_duplicate", "contaminated"} <= set(removed)
    section = page.section("rules")
    for rule, count in removed.items():
        assert section.figures[f"data/clean/removed.parquet: rule {rule}"] == {count}
    table = section.source[section.source.index("<tbody>") : section.source.index("</tbody>")]
    [cells] = re.findall(r"<tr><td><b>near duplicate</b>.*?</tr>", table, re.DOTALL)
    shares = re.findall(r'class="n (?:heat|zero)"[^>]*>(.*?)</td>', cells)
    headings = re.findall(r'<th class="n">(.*?)</th>', section.source)[3:]
    by_heading = dict(zip((re.sub("<[^>]+>", "", html.unescape(name)) for name in headings), shares, strict=True))
    assert set(by_heading) >= {"Chinese", "Russian", "English", "tang", "война", re.sub("<[^>]+>", "", HOSTILE)}
    tang = sum(row["rule"] == "near_duplicate" and row["provenance"]["source"] == "tang" for row in rows(made, "clean/removed"))  # fmt: skip
    assert html.unescape(by_heading["tang"]).startswith(f"{100 * tang / 143:.1f}")
    assert by_heading["Russian"] == "·"
    assert "at least 5" in section.text  # clean.rules in force, not what the policy's file says


def test_examples_stand_on_both_sides_of_a_bound_with_value_and_threshold(page: Page) -> None:
    section = page.section("rules")
    [details] = re.findall(
        r'<details class="rule"[^>]*><summary><b>too short</b>.*?</details>', section.source, re.DOTALL
    )
    dropped, kept = details.split("<h4>Kept</h4>")
    assert "短。" in dropped
    assert "its number of characters is 2, less than 5" in dropped
    assert re.search(r"<b>\d+</b> against 5", kept)


def test_bounds_are_drawn_into_what_was_measured(page: Page) -> None:
    section = page.section("statistics")
    figures = re.findall(
        r"<figcaption>([^<]+)<small>.*?</small></figcaption>(<svg.*?</svg>)", section.source, re.DOTALL
    )
    pictures = dict(figures)
    assert {"characters", "symbols", "words", "regular lines", "perplexity"} <= set(pictures)
    assert '<text class="mark"' in pictures["characters"]
    assert re.search(r'class="mark"[^>]*>5</text>', pictures["characters"])
    assert 'class="cut-off"' in pictures["symbols"]
    assert 'class="bound' not in pictures["words"]
    # A language has the same colour everywhere, also where another has no value.
    key = dict(re.findall(r'<i class="(\w+)"></i>(\w+)', section.source))
    assert list(key.values()) == ["Chinese", "Russian", "English"]
    for colour, name in key.items():
        code = {"Chinese": "zh", "Russian": "ru", "English": "en"}[name]
        assert re.search(rf'class="{colour} outline"[^>]*><title>{code}</title>', pictures["characters"])


def test_duplicates_stand_side_by_side_with_their_differences_marked(page: Page, made: Path) -> None:
    section = page.section("duplicates")
    twins = re.findall(r'<article class="twins">.*?</article>', section.source, re.DOTALL)
    assert twins
    texts = {row["text"] for row in rows(made, "tagged/documents")}
    for article in twins:
        both = [
            html.unescape(re.sub("<[^>]+>", "", text))
            for text in re.findall(r'<p class="text"[^>]*>(.*?)</p>', article, re.DOTALL)
        ]
        assert len(both) == 2
        assert set(both) <= texts
        marked = [
            re.sub(r"<mark>.*?</mark>", "", text)
            for text in re.findall(r'<p class="text"[^>]*>(.*?)</p>', article, re.DOTALL)
        ]
        assert marked[0] == marked[1]  # what is not marked is common to both
        assert "<mark>" in article
    assert "dropped: near duplicate" in section.text


def test_personal_data_contamination_and_scores_are_told(page: Page, made: Path) -> None:
    tagged = rows(made, "tagged/documents")
    emails = sum(row["tags"]["pii_emails"] for row in tagged)
    assert emails == 47
    assert "47 e-mail addresses replaced in 47 documents" in page.section("personal").text
    assert "example.org" not in page.source
    hits = [row for row in tagged if row["contaminated_by"]]
    assert hits
    section = page.section("contamination")
    assert "exam/question-7" in section.text
    assert hits[0]["contaminated_by"].partition(": ")[2] in section.text
    assert "dropped: contaminated" in section.text
    values = sorted((row["tags"]["perplexity"], row["text"]) for row in tagged if row["tags"]["perplexity"] is not None)
    best, worst = page.section("scores").source.split("<h4>Worst</h4>")
    assert f"<b>{values[0][0]:.3g}</b>" in best
    assert f"<b>{values[-1][0]:.3g}</b>" in worst


def test_sources_have_licences_hashes_encodings_roles_and_weights(page: Page) -> None:
    section = page.section("sources")
    for said in (
        "MIT",
        "public domain",
        "not stated",
        "windows-1251",
        "a" * 64,
        "evaluation",
        "not trained on",
        "2.0.1",
    ):
        assert said in section.text
    [tang] = re.findall(r"<tr><td><b><bdi>tang</bdi>.*?</tr>", section.source, re.DOTALL)
    assert "× <data" in tang
    assert 'value="2.0"' in tang


def test_text_that_is_markup_stays_text(page: Page) -> None:
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/ld+json"}]
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "form"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text
    assert HOSTILE not in page.source
    languages = {attributes.get("lang") for tag, attributes in page.tags if tag in ("p", "td")}
    assert {"zh", "ru", "en"} <= languages


def test_the_description_for_machines_is_whole_and_cannot_end_its_element(page: Page, made: Path) -> None:
    [text] = re.findall(r'<script type="application/ld\+json">(.*?)</script>', page.source, re.DOTALL)
    assert "<" not in text
    found = json.loads(text)
    assert found["@type"] == "sc:Dataset"
    assert found["name"] == f"tang, война, {HOSTILE}"
    assert found["license"] == ["MIT", "public domain"]  # not that of the evaluation set
    assert set(found["inLanguage"]) == {"zh", "ru", "en"}
    file = found["distribution"][0]
    assert file["sha256"] == hashlib.sha256((made / file["contentUrl"]).read_bytes()).hexdigest()
    columns = {field["source"]["extract"]["column"] for field in found["recordSet"][0]["field"]}
    assert columns <= set(clean_schema().names)


def test_nothing_points_outside(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            where = attributes.get(name, "#")
            assert where.startswith(("#", "data:,")) or where == "corpus_map.html", f"<{tag} {name}={where}>"
    assert not re.search(r"@import|url\(", page.source)
    assert any(attributes.get("content", "").startswith("default-src 'none'") for _, attributes in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for _, attributes in page.tags if attributes.get("href", "").startswith("#")} <= set(
        ids
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_loads_nothing_and_has_nothing_to_complain_of(page: Page, tmp_path: Path) -> None:
    seen = "return [performance.getEntriesByType('resource').map(e => e.name), document.documentElement.scrollWidth <= innerWidth]"
    for width in (1200, 500):
        _, console, found = open_page(page.source, tmp_path / f"page-{width}", seen, width)
        assert (console, found) == ([], [[], True])
    spoilt = '<img src="http://127.0.0.1:9/outside.png"><div style="width:3000px">wide</div><script>nothing()</script>'
    broken = without_policy(page.source).replace("<main", f"{spoilt}<main", 1)
    _, console, found = open_page(broken, tmp_path / "control", seen)
    assert found == [["http://127.0.0.1:9/outside.png"], False]
    assert "nothing is not defined" in console[0]


def test_the_same_files_give_the_same_bytes(made: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(workspace, monkeypatch) == 0
    for name in ("data_card.html", "corpus_map.html"):
        assert (workspace / "reports" / name).read_bytes() == (made / "reports" / name).read_bytes()
        assert str(workspace) not in (workspace / "reports" / name).read_text(encoding="utf-8")


def test_without_topics_evaluation_sets_and_reviews_the_card_says_so(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "data/tagged/map.parquet").unlink()
    (workspace / "data/clean/review.jsonl").unlink()
    summary = json.loads((workspace / "data/tagged/summary.json").read_text())
    del summary["topics"]
    (workspace / "data/tagged/summary.json").write_text(json.dumps(summary))
    assert make(workspace, monkeypatch) == 0
    page = Page((workspace / "reports/data_card.html").read_text(encoding="utf-8"))
    assert "No topics were looked for" in page.text
    assert "On either side of each bound" not in page.text
    assert "None" not in page.text
    chart = (workspace / "reports/corpus_map.html").read_text(encoding="utf-8")
    assert "There is no map" in chart
    assert "<canvas" not in chart


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data/raw/sources.json", "["),
        ("data/tagged/documents.parquet", "no table"),
        ("data/tagged/map.parquet", "no table"),
        ("data/clean/summary.json", "{"),
        ("data/clean/review.jsonl", '{"rule": '),
        ("data/clean/removed.parquet", None),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(
    file: str, content: str | None, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        (workspace / file).unlink()
    else:
        (workspace / file).write_text(content)
    assert make(workspace, monkeypatch) == 2
    said = capsys.readouterr().err.strip()
    assert file in said
    assert "\n" not in said
    assert not (workspace / "reports").exists()


def test_files_of_different_runs_are_refused(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    file = workspace / "data/clean/removed.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    assert make(workspace, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "run clean again" in said
    assert "240" in said
