"""The report card tells what the files say, harms nobody, and asks nothing of the network."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from components.report.__main__ import STEP
from components.step import main
from tests.report.conftest import HOSTILE, write_json

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags with their attributes, `<data>` elements with their shown text, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: list[tuple[str, float, str]] = []  # where it comes from, value, what is shown
        self.words: list[str] = []
        self._open: dict[str, str] | None = None
        self.source = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self._open = found if tag == "data" else None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._open is not None:
            self.figures.append((self._open["title"], float(self._open["value"]), data))
            self._open = None

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def make(workspace: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str] = ()) -> int:
    monkeypatch.chdir(workspace)
    return main(STEP, list(arguments))


def read(workspace: Path) -> Page:
    return Page((workspace / "reports/index.html").read_text(encoding="utf-8"))


@pytest.fixture
def page(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    assert make(workspace, monkeypatch) == 0
    return read(workspace)


def test_every_figure_is_the_one_in_its_file(page: Page, workspace: Path) -> None:
    checked = set()
    for origin, value, _ in page.figures:
        if found := re.fullmatch(r"metrics/(\w+)\.json: (\S+)", origin):
            assert value == json.loads((workspace / f"metrics/{found[1]}.json").read_text())[found[2]], origin
            checked.add(origin)
        elif found := re.fullmatch(r"data/evaluation/results\.json: (\S+) (value|low|high|n)", origin):
            assert (
                value
                == json.loads((workspace / "data/evaluation/results.json").read_text())["scores"][found[1]][found[2]]
            )
            checked.add(origin)
    assert len(checked) > 60
    by_origin = {origin: (value, shown) for origin, value, shown in page.figures}
    assert by_origin["sum of seconds in metrics/*.json"][0] == pytest.approx(
        3.5 + 13.25 + 4 + 2 + 1.5 + 600 + 5 + 60 + 30 + 45 + 20
    )
    assert by_origin["metrics/pretrain.json: val_bits_per_char / metrics/clean.json: kneser_ney_bits_per_char"][
        1
    ].startswith("75.0")
    assert by_origin["metrics/clean.json: documents_in"][1] == "421"
    assert by_origin["metrics/pretrain.json: model_flops_utilisation"][1].startswith("57.1")
    assert by_origin["data/curves/pretrain.csv: sum of tokens up to step 600"][0] == 600 * 15


def test_what_the_model_began_with_is_said_on_top(page: Page, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "parameters, trained from nothing on 360 documents" in page.text
    record = {
        "model": f"their-7b {HOSTILE}",
        "sha256": "b" * 64,
        "vocabulary": 500,
        "added_tokens": 12,
        "license": "mit",
    }
    write_json(workspace / "models/tokenizer/initial.json", record)
    assert make(workspace, monkeypatch) == 0
    lead = read(workspace).text
    assert "trained from nothing" not in lead
    told = f"trained further from their-7b {HOSTILE} (sha256 {'b' * 64}, licence mit), with 12 further tokens on 360"
    assert f"parameters, {told} documents" in lead


def test_pictures_show_the_figures_of_the_files(page: Page, workspace: Path) -> None:
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert "Bits per character on held-out text: 5-gram Kneser-Ney 7.250, this model 5.438" in labels
    assert any("sft 93.8" in label for label in labels)
    with (workspace / "data/curves/pretrain.csv").open() as handle:
        last = float(list(csv.DictReader(handle))[-1]["validation_bits_per_char"])
    assert any(label.startswith("Held-out bits") and label.endswith(f"to {last:.3g}") for label in labels)
    picture = re.search(r"<svg[^>]*Bits per character on held-out.*?</svg>", page.source, re.DOTALL)
    assert picture is not None
    assert ">7.250</text>" in picture[0]
    assert ">5.438</text>" in picture[0]


def test_a_title_that_is_markup_stays_a_title(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "form"}
    assert "<b>odd</b>" not in page.source
    assert page.source.count(html.escape(HOSTILE).replace("&#x27;", "&#39;")) > 20
    assert HOSTILE in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_nothing_in_the_page_points_outside(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"):
            where = attributes.get(name, "#")
            assert where.startswith(("#", "data:,", "data_docs/")), f"<{tag} {name}={where}>"
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert any(attributes.get("content", "").startswith("default-src 'none'") for _, attributes in page.tags)


def test_ids_of_the_pictures_are_unique_and_all_that_is_used_is_there(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', page.source)
    assert set(used) <= set(ids)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_loads_nothing_beside_the_page(page: Page, workspace: Path, tmp_path: Path) -> None:
    # The page forbids itself to load anything; that is taken out here, so that an attempt would show.
    telling = "<pre id='seen'></pre><script>onload = () => document.getElementById('seen').textContent = 'LOADED:' + performance.getEntriesByType('resource').map(e => e.name).join(' ') + ':END'</script></body>"
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.source)
    picture = '<img src="http://127.0.0.1:9/outside.png">'
    seen = {}
    for name, text in (("page", free), ("control", free.replace("<main", f"{picture}<main", 1))):
        file = tmp_path / f"{name}.html"
        file.write_text(text.replace("</body>", telling), encoding="utf-8")
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
        command = [str(CHROMIUM), *flags.split(), "--host-resolver-rules=MAP * 127.0.0.1:9", f"--user-data-dir={tmp_path / f'{name}-profile'}", "--dump-dom", file.as_uri()]  # fmt: skip
        dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        found = re.search(r"LOADED:(.*?):END</pre>", dumped, re.DOTALL)
        assert found is not None
        seen[name] = found[1]
    assert seen == {"page": "", "control": "http://127.0.0.1:9/outside.png"}


def test_hashes_are_computed_again_and_a_difference_shows(page: Page) -> None:
    lineage = page.source[page.source.index('id="lineage"') :]
    links = {
        re.sub(r"<[^>]+>", "", what): check
        for what, check in re.findall(
            r"<li><span><b>(.*?)</b>.*?<span class=\"check[^>]*>(.*?)</span>", lineage, re.DOTALL
        )
    }
    assert links["data/clean"] == links["data/tokens"] == links["tiny-q8_0.gguf"] == "✓ computed again"
    assert links["data/raw"] == "✗ differs now"
    assert links["models/aligned"] == "as recorded"
    assert links[html.escape(f"source/{HOSTILE}").replace("&#x27;", "&#39;")] == "✓ as ingest recorded"


def test_each_model_answers_the_same_title_beside_the_original(page: Page, workspace: Path) -> None:
    from components.corpus.documents import clean_schema, iterate

    articles = re.findall(r'<article class="asked">.*?</article>', page.source, re.DOTALL)
    assert len(articles) == 6
    rows = iterate(workspace / "data/clean/documents.parquet", clean_schema())
    held_out = [row for row in rows if row["split"] == "validation"]
    for article in articles:
        assert re.findall(r'<div class="column (\w+)">', article) == ["base", "sft", "aligned", "original"]
        assert any(f">{row['title']} &lt;script" in article and row["text"] in article for row in held_out)
        assert article.count("✓ form 5·5·5·5") == 2


def test_a_tokenized_text_is_shown_whole(page: Page, workspace: Path) -> None:
    from components.corpus.documents import VALIDATION, read_contents

    shown = re.search(r'<p class="cut"[^>]*>(.*?)</p>', page.source, re.DOTALL)
    assert shown is not None
    text = html.unescape(re.sub(r"<[^>]+>", "", shown[1])).replace("↵", "")
    assert text == read_contents(workspace / "data/clean/documents.parquet", VALIDATION)[0]


def test_the_same_files_give_the_same_bytes_whatever_the_report_took(
    page: Page, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(workspace / "metrics/report.json", {"seconds": 1, "peak_gib": 2})
    assert make(workspace, monkeypatch) == 0
    assert read(workspace).source == page.source
    assert str(workspace) not in page.source


def test_what_is_absent_is_left_out_and_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for gone in ("data/evaluation", "models/export", "models/tokenizer", "data/curves", "data/samples", "data/tokens"):
        shutil.rmtree(workspace / gone)
    for stage in ("tokenizer", "tokenize", "pretrain", "instruct", "sft", "align", "evaluate", "export"):
        (workspace / f"metrics/{stage}.json").unlink()
    assert make(workspace, monkeypatch) == 0
    page = read(workspace)
    assert "A corpus of 400 documents, ready for training." in page.text
    for said in (
        "There is no tokenizer yet",
        "No model has been trained",
        "have not been evaluated",
        "Nothing has been exported",
    ):
        assert said in page.text
    assert page.text.count("has not run") == 9
    assert "None" not in page.text


def test_prose_without_titles_authors_and_form_is_reported(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = workspace / "data/evaluation/generations.parquet"
    rows = [
        {**row, "title": None, "form": None, "task": "answers", "prompt": "Продолжи: Всё смешалось"}
        for row in pq.read_table(file).to_pylist()
    ]
    schema = pq.read_schema(file).set(4, pa.field("title", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    results = json.loads((workspace / "data/evaluation/results.json").read_text())
    del results["scores"]["sft.five_char_lines"]
    results["left_out"] = {"form": "the held-out documents are not verse counted in characters"}
    write_json(workspace / "data/evaluation/results.json", results)
    summary = json.loads((workspace / "data/clean/summary.json").read_text())
    write_json(workspace / "data/clean/summary.json", {**summary, "authors": {"distinct": 0, "most": []}})
    assert make(workspace, monkeypatch) == 0
    page = read(workspace)
    assert "Продолжи: Всё смешалось" in page.text
    assert "form: the held-out documents are not verse" in page.text
    assert "of next lines recognised (base)" in page.text
    assert "✓ form" not in page.text
    assert "five-character" not in page.text
    assert "Who wrote most of it" not in page.text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics/clean.json", "{"),
        ("metrics/sft.json", '{"seconds": "long"}'),
        ("data/evaluation/generations.parquet", "no table"),
        ("data/curves/sft.csv", "step,loss\n1,low\n"),
        ("data/samples/pretrain.jsonl", '{"step": 1'),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(
    file: str, content: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / file).write_text(content)
    assert make(workspace, monkeypatch) == 2
    said = capsys.readouterr().err.strip()
    assert file in said
    assert "\n" not in said
    assert not (workspace / "reports/index.html").exists()


def test_a_folder_given_by_hand_must_exist(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(workspace, monkeypatch, ["--evaluation", "data/evalution"]) == 2
    assert "data/evalution" in capsys.readouterr().err


def test_the_title_and_the_number_of_samples_are_parameters(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(workspace, monkeypatch, ["--set", "report.title=$Poems$ & more", "--set", "report.samples=1"]) == 0
    page = read(workspace)
    assert "<h1>$Poems$ &amp; more</h1>" in page.source
    assert page.source.count('<article class="asked">') == 1


def test_the_newest_run_log_is_shown_and_cut_in_its_middle(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, lines in (
        ("old", ["an older run"]),
        ("new", [f"2026-11-22 10:00:{at:02}  <b>line {at}</b>" for at in range(300)]),
    ):
        log = workspace / ".inkwell/runs/pretrain" / name / "run.log"
        log.parent.mkdir(parents=True)
        lines[1:2] = ["2026-11-22 10:00:01  started again after it was killed"] if len(lines) > 1 else []
        log.write_text("\n".join(lines), encoding="utf-8")
        os.utime(log, (1, 1 if name == "old" else 2))
    assert make(workspace, monkeypatch) == 0
    page = read(workspace)
    assert "The log of the last pretrain on this machine, started again once" in page.text
    assert "<b>line 0</b>" in page.text
    assert "<b>line 299</b>" in page.text
    assert "(100 lines more)" in page.text
    assert "<b>line 150</b>" not in page.text
    assert "an older run" not in page.text
