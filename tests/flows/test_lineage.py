"""`python -m flows.lineage` over a real MLflow database: back to the archives, and forward from a document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.registry_pages import multiply
from components.errors import InkwellError
from components.step import content_hash
from flows.lineage.__main__ import main
from flows.lineage.backward import Chain, lead_back, reduced
from flows.lineage.records import Records
from tests.flows import small_history as history

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class History:
    folder: Path
    first: str  # sha256 of what the first pipeline exported
    second: str
    documents: dict[str, list[str]]  # ids by split
    text: str  # of the first training document
    client: Any

    @property
    def records(self) -> Records:
        return Records(history.uri())


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, clean_folder: Path, tokenizer_folder: Path, token_folder: Path
) -> Iterator[History]:
    """Two pipelines, the second of which skipped what was unchanged; the first one's export is the champion."""
    from mlflow.tracking import MlflowClient

    from components.corpus.documents import clean_schema, iterate

    folder = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("INKWELL_TRACKING", "on")
        patch.setenv(
            "MLFLOW_TRACKING_URI", history.uri()
        )  # the registry asks there for models, whatever its client says
        patch.setenv("INKWELL_PIPELINE", "1" * 32)
        first = history.first_pipeline(clean_folder, tokenizer_folder, token_folder)
        exported = content_hash(Path("models/export"))[:32]
        patch.setenv("INKWELL_PIPELINE", "2" * 32)
        second = history.second_pipeline()
        history.deliver()
        client = MlflowClient(history.uri(), registry_uri=history.uri())
        history.register(client, content_hash(Path("models/export"))[:32], "challenger")
        history.register(client, exported, "champion")
        documents: dict[str, list[str]] = {}
        rows = list(iterate(clean_folder / "documents.parquet", clean_schema()))
        for row in rows:
            documents.setdefault(row["split"], []).append(row["id"])
        text = next(row["text"] for row in rows if row["split"] == "train")
        yield History(folder, first, second, documents, text, client)


@pytest.fixture(autouse=True)
def here(recorded: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recorded.folder)


def _paths(chain: Chain) -> list[str]:
    return [link.path for link in chain.links]


def test_an_exported_files_hash_leads_back_to_the_archive(
    recorded: History, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([recorded.first]) == 0
    said = capsys.readouterr().out
    chain = lead_back(recorded.records, recorded.first)
    assert _paths(chain)[:4] == ["models/export/tiny.gguf", "models/export", "models/sft", "models/base"]
    assert _paths(chain)[-2:] == ["data/raw", "source/tiny"]
    assert set(_paths(chain)) >= {"data/tokens", "models/tokenizer", "data/clean"}
    assert not chain.missing
    assert chain.links[-1].facts["sha256"] == history.ARCHIVE
    assert "MIT" in said
    for name in ("commit:", "tree:", "requirements.lock:", "machine:", "python:", "seed:", "took:"):
        assert name in said
    assert "clean.jaccard = 0.75" in said
    assert "sft.steps = 7" in said
    assert "poet/2 (champion)" in said
    assert "2 % fewer bits per character" in said
    assert "a gate" in said


def test_every_name_of_a_thing_leads_to_the_same_chain(recorded: History) -> None:
    expected = _paths(lead_back(recorded.records, recorded.second))
    assert _paths(lead_back(recorded.records, "models/export/tiny.gguf")) == expected
    for asked in ("models/export", content_hash(Path("models/export"))[:32], "poet/1", "poet@challenger"):
        assert _paths(lead_back(recorded.records, asked)) == expected[1:], asked


def test_a_skipped_stage_leads_to_the_run_that_made_its_output(recorded: History) -> None:
    (pipeline,) = [
        run for run in recorded.records.by_tag("inkwell.pipeline", "2" * 32) if "unchanged.pretrain" in run.tags
    ]
    chain = lead_back(recorded.records, pipeline.id)
    base = next(link for link in chain.links if link.path == "models/base")
    assert base.run is not None
    assert base.run.tags["inkwell.pipeline"] == "1" * 32
    assert pipeline.tags["unchanged.pretrain"] == base.run.id
    assert chain.links[0].run is not None
    assert chain.links[0].run.tags["inkwell.pipeline"] == "2" * 32


def test_the_drawing_leaves_out_what_another_way_implies(recorded: History) -> None:
    edges = reduced(lead_back(recorded.records, recorded.first))
    plain = {key.split()[0]: [parent.split()[0] for parent in parents] for key, parents in edges.items()}
    assert plain["models/export"] == ["models/sft"]
    assert plain["models/base"] == ["data/tokens"]
    assert plain["data/tokens"] == ["models/tokenizer"]


def test_what_is_not_on_record_is_told_in_a_sentence(recorded: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["f" * 64]) == 2
    assert "known to no run" in capsys.readouterr().err
    assert main(["nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["poet/9"]) == 2
    assert "poet" in capsys.readouterr().err
    assert main(["--document", "x", "--index"]) == 2
    (sft, *_) = [run for run in recorded.records.of_stage("sft") if run.tags["inkwell.pipeline"] == "1" * 32]
    recorded.client.delete_run(sft.id)
    try:
        chain = lead_back(recorded.records, recorded.first)
        # what stood behind the fine-tuned model alone is out of sight; the rest leads on from the export itself
        told = {"models/export/tiny.gguf", "models/export", "models/sft", "models/tokenizer"}
        assert set(_paths(chain)) == told | {"data/tokens", "data/clean", "data/raw", "source/tiny"}
        (sentence,) = chain.missing
        assert "deleted" in sentence
        assert sft.id in sentence
        with pytest.raises(InkwellError, match="was deleted"):
            lead_back(recorded.records, next(d.digest for d in sft.of_role("file") if d.path.endswith("safetensors")))
    finally:
        recorded.client.restore_run(sft.id)


def test_the_page_opens_offline_and_shows_every_link(recorded: History, tmp_path: Path) -> None:
    from tests.datacard.browser import CHROMIUM, open_page

    page = tmp_path / "page.html"
    assert main([recorded.first, "--html", str(page)]) == 0
    written = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/)", written)
    assert "2 % fewer bits per character" in written
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the page was written and not opened")
    script = (
        "const boxes = [...document.querySelectorAll('.chain rect')].map(r => r.getBoundingClientRect());"
        "const apart = boxes.every((a, i) => boxes.every((b, j) => i >= j || a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top));"
        "const targets = [...document.querySelectorAll('.chain a')].every(a => document.querySelector(a.getAttribute('href')));"
        "return [boxes.length, document.querySelectorAll('article').length, apart, targets, document.documentElement.scrollWidth <= innerWidth];"
    )
    _, console, seen = open_page(written, tmp_path / "browser", script)
    links = len(lead_back(recorded.records, recorded.first).links)
    assert seen == [links, links, True, True, True]
    assert not console


def test_json_holds_the_chain(recorded: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([recorded.first, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    export = next(link for link in said["links"] if link["what"] == "models/export")
    assert export["versions"][0]["promotion"]["by"] == "a gate"
    assert len(export["run"]["lock"]) == 64
    assert said["links"][-1]["facts"]["license"] == "MIT"


def test_a_document_leads_to_every_model_that_saw_it(recorded: History, capsys: pytest.CaptureFixture[str]) -> None:
    seen, held_out = recorded.documents["train"][0], recorded.documents["validation"][0]
    assert main(["--document", seen, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # the exports first, champion before challenger; then base and both fine-tuned models
    assert [row["versions"][0]["aliases"] for row in said["models"][:2]] == [["champion"], ["challenger"]]
    assert sorted(row["what"] for row in said["models"]) == ["models/base", "models/export", "models/export", "models/sft", "models/sft"]  # fmt: skip
    assert main(["--document", held_out]) == 0
    assert "held out for validation" in (text := capsys.readouterr().out)
    assert "No model on record was trained on it" in text
    assert main(["--document", "twin"]) == 0
    assert f"its duplicate {seen} stayed" in capsys.readouterr().out
    Path("poem.txt").write_text(recorded.text.replace("\n", "\n\n  "), encoding="utf-8")
    assert main(["--text-file", "poem.txt"]) == 0
    assert f"{seen}:" in capsys.readouterr().out


def test_the_page_of_a_document_opens_offline_and_names_the_models(
    recorded: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.datacard.browser import CHROMIUM, open_page

    seen, held_out = recorded.documents["train"][0], recorded.documents["validation"][0]
    page = tmp_path / "page.html"
    assert main(["--document", seen, "--document", held_out, "--html", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    written = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/)", written)
    assert written.count("<tr><td>") == 5
    assert written.index("poet/2 (champion)") < written.index("poet/1 (challenger)")
    assert "5 models saw it in training" in written
    assert "held out for validation" in written
    assert f"--document {seen} --document {held_out}" in written
    assert main(["--document", "<b>nobody", "--html", str(page)]) == 0
    unknown = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;nobody" in unknown
    assert "not in any of the 1 versions" in unknown
    assert "<table" not in unknown
    assert main(["--removal", "ids.txt", "--html", str(page)]) == 2
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the page was written and not opened")
    script = "return [document.querySelectorAll('article').length, document.documentElement.scrollWidth <= innerWidth];"
    _, console, shown = open_page(written, tmp_path / "browser", script)
    assert shown == [2, True]
    assert not console


def test_the_index_comes_from_mlflow_where_the_workspace_has_none(
    recorded: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--document", recorded.documents["train"][0], "--workspace", str(tmp_path), "--uri", history.uri(), "--json"]) == 0  # fmt: skip
    assert len(json.loads(capsys.readouterr().out)["models"]) == 5
    assert main(["--index"]) == 0
    assert "kept with run" in capsys.readouterr().out


def test_a_removal_names_models_and_lines_and_the_duplicates(
    recorded: History, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ids.txt").write_text(f"# by request\n{recorded.documents['train'][0]}\nnobody\n\n", encoding="utf-8")
    assert main(["--removal", "ids.txt"]) == 0
    said = capsys.readouterr().out
    models = said[said.index("Models to retrain") :].splitlines()
    assert "champion" in models[1]
    assert f'    - "{recorded.documents["train"][0]}"' in said
    assert '    - "twin"' in said
    assert '"nobody"' not in said
    assert "not in any of the 1 versions" in said
    Path("none.txt").write_text("# nothing\n", encoding="utf-8")
    assert main(["--removal", "none.txt"]) == 2


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from flows.lineage.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\nsys.exit(any(n in sys.modules for n in ('mlflow', 'prefect', 'pyarrow', 'torch')))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0


def test_a_champion_is_named_whichever_run_made_the_same_bytes(recorded: History, tmp_path: Path) -> None:
    import shutil

    from flows.lineage.forward import who_saw

    database = tmp_path / "copies.db"
    shutil.copyfile(recorded.folder / ".inkwell/mlflow.db", database)
    multiply(database, 100, 1)
    records = Records(f"sqlite:///{database}")
    assert len(records.made("models/export", content_hash(Path("models/export"))[:32])) > 1
    titles = [version.title for version in lead_back(records, recorded.first).links[1].versions]
    assert "poet/2 (champion)" in titles
    assert len(titles) == len(set(titles)) > 1
    answer = who_saw(records, recorded.folder, [recorded.documents["train"][0]])
    assert "poet/2 (champion)" in [version.title for version in answer.models[0].versions]


def test_a_local_database_is_answered_without_mlflow(recorded: History, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for arguments in ([recorded.first, "--html", str(page)], ["--document", recorded.documents["train"][0]]):
        code = f"import sys; from flows.lineage.__main__ import main\nassert main({arguments!r}) == 0\nsys.exit('mlflow' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


def test_five_hundred_runs_and_a_hundred_versions_take_under_two_seconds(recorded: History, tmp_path: Path) -> None:
    """The processor's time of the answer and of the page; whole commands are timed by `benchmarks.registry_pages`."""
    import shutil
    import time

    from flows.lineage.forward import who_saw
    from flows.lineage.page import write_page

    database = tmp_path / "many.db"
    shutil.copyfile(recorded.folder / ".inkwell/mlflow.db", database)
    runs, versions = multiply(database, 500, 100)
    began = time.process_time()
    records = Records(f"sqlite:///{database}")
    chain = lead_back(records, recorded.first)
    write_page(chain, tmp_path / "page.html")
    back = time.process_time() - began
    began = time.process_time()
    answer = who_saw(Records(f"sqlite:///{database}"), recorded.folder, [recorded.documents["train"][0]])
    forward = time.process_time() - began
    print(f"back and page {back:.2f} s, forward {forward:.2f} s")
    assert len(records.versions) == versions >= 100
    assert runs >= 500
    assert _paths(chain)[-1] == "source/tiny"
    assert answer.models[0].rank[0] == 0
    assert back < 2
    assert forward < 2
