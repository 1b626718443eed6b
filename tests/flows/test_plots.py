"""`dvc plots` and `dvc metrics` with the project's own settings and definitions, where no other host answers."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.processes import environment
from tests.datacard.browser import CHROMIUM, open_page
from tests.processes import ROOT

CURVES = ("data/curves/pretrain.csv", "data/curves/sft.csv")
TRAIN = """
import json, os, yaml
steps = yaml.safe_load(open('params.yaml'))['pretrain']['steps']
for folder in ('metrics', 'data/curves'):
    os.makedirs(folder, exist_ok=True)
with open('data/curves/pretrain.csv', 'w') as file:
    file.write('step,loss,validation_bits_per_char\\n')
    for step in range(1, 11):
        file.write(f'{step},{9 - step * steps / 1e4:.4f},{8 - step * steps / 1e4 if step % 2 == 0 else ""}\\n')
with open('data/curves/sft.csv', 'w') as file:
    file.write('step,loss\\n')
    for step in range(1, 6):
        file.write(f'{step},{3 - step * steps / 1e4:.4f}\\n')
json.dump({'val_bits_per_char': 6 - steps / 1e4}, open('metrics/pretrain.json', 'w'))
"""
# What the page may name. Nothing of it is asked: the first are names of dialects, of whom a licence is, of what an error is about;
# the last is in the library's menu, where the page leaves it out.
NAMED = (
    "http://www.w3.org/",
    "https://vega.github.io/schema/",
    "https://github.com/Starcounter-Jack/JSON-Patch",
    "https://github.com/vega/vega-lite/issues/",
    "https://vega.github.io/editor/",
)


def _run(folder: Path, *command: str) -> str:
    dead = "http://127.0.0.1:9"  # nobody listens at the discard port: who asks for another host gets no answer
    env = {**environment(), "HTTP_PROXY": dead, "HTTPS_PROXY": dead, "http_proxy": dead, "https_proxy": dead}
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _dvc(folder: Path, *arguments: str) -> str:
    return _run(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the project's plots, settings and page, and two commits: 100 steps, then 2,000."""
    folder = tmp_path_factory.mktemp("plots")
    pretrain = {
        "cmd": "python train.py",
        "deps": ["train.py"],
        "params": ["pretrain.steps"],
        "outs": list(CURVES),
        "metrics": [{"metrics/pretrain.json": {"cache": False}}],
    }
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"pretrain": pretrain}, "plots": plots}), "utf-8")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    (folder / ".gitignore").write_text("/data/\n", encoding="utf-8")
    shutil.copytree(ROOT / "conf/dvc-plots", folder / "conf/dvc-plots")
    _run(folder, "git", "init", "-q")
    _dvc(folder, "init", "-q")
    shutil.copyfile(ROOT / ".dvc/config", folder / ".dvc/config")
    for steps in (100, 2000):
        (folder / "params.yaml").write_text(f"pretrain: {{steps: {steps}}}\n", encoding="utf-8")
        _dvc(folder, "repro", "-q")
        _run(folder, "git", "add", "--all")
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
        _run(folder, "git", *identity, "commit", "-q", "-m", f"{steps} steps")
    return folder


def _drawings(page: str) -> list[dict[str, Any]]:
    """The drawings that the page's scripts are given."""
    found = []
    for match in re.finditer(r"var spec = (?=\{)", page):
        drawing, _ = json.JSONDecoder().raw_decode(page, match.end())
        found.append(drawing)
    return found


def _points(page: str) -> list[dict[str, Any]]:
    return [point for drawing in _drawings(page) for point in drawing["data"]["values"]]


def _asks_nobody(page: str) -> None:
    strange = [found for found in re.findall(r"https?://[^\s\"'`<>)\\]+", page) if not found.startswith(NAMED)]
    assert not strange, strange
    # the markup alone: the libraries' text speaks of `src` and `href` too
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.search(r"\ssrc\s*=|@import|url\(", markup)
    assert re.findall(r"\shref\s*=\s*\"([^\"]*)\"", markup) == ["data:,"]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none';")
    assert "connect-src" not in policy[1], "without one of its own, default-src holds: no connection at all"
    assert "http" not in policy[1]
    assert "editor: false" in page


def test_a_page_of_plots_asks_nobody_and_holds_all_of_the_curves(history: Path, tmp_path: Path) -> None:
    _dvc(history, "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text(encoding="utf-8")
    _asks_nobody(page)
    assert len(_drawings(page)) == 2
    assert all(name not in page for name in ("{plot_divs}", "{refresh_tag}")), "a part of the page was not filled"
    for curve in CURVES:
        with (history / curve).open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for column in ("loss", "validation_bits_per_char"):
            wanted = {(float(row["step"]), float(row[column])) for row in rows if row.get(column)}
            drawn = {(float(point["step"]), float(point[column])) for point in _points(page) if point.get(column)}
            assert wanted <= drawn, f"{curve}: {column}"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_an_empty_cell_is_not_drawn_at_zero(history: Path, tmp_path: Path) -> None:
    _dvc(history, "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text(encoding="utf-8")
    (held_out,) = (drawing for drawing in _drawings(page) if drawing["title"]["text"] == "Held-out text")
    column = "validation_bits_per_char"
    assert [point[column] for point in held_out["data"]["values"]].count("") == 5
    script = (
        "addEventListener('load', async () => { const seen = document.createElement('pre'); seen.id = 'seen'; try {"
        f" const drawing = {json.dumps(held_out)}; const place = document.body.appendChild(document.createElement('div'));"
        " const drawn = await vegaEmbed(place, drawing); seen.textContent = 'SEEN' + JSON.stringify("
        f"[drawn.view.scale('y').domain(), drawn.spec.data.values.map(row => row.{column})]) + 'END';"
        " } catch (error) { seen.textContent = 'FAILED ' + error; } document.body.append(seen); });"
    )
    before, _, after = page.rpartition("</body>")  # the libraries speak of one too
    document, _, _ = open_page(f"{before}<script>{script}</script></body>{after}", tmp_path / "browser")
    found = re.search(r'<pre id="seen">(?:SEEN(.*?)END|FAILED.*?)</pre>', document, re.DOTALL)
    assert found
    assert found[1], found[0]
    (low, high), cells = json.loads(found[1])
    assert [float(cell) for cell in cells] == pytest.approx([7.6, 7.2, 6.8, 6.4, 6.0])
    assert 5 < low < high < 9


def test_two_commits_are_drawn_and_told_apart_without_another_host(history: Path, tmp_path: Path) -> None:
    _dvc(history, "plots", "diff", "HEAD~1", "HEAD", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text(encoding="utf-8")
    _asks_nobody(page)
    assert {point["rev"] for point in _points(page)} == {"HEAD~1", "HEAD"}
    losses = {(point["rev"], float(point["loss"])) for point in _points(page) if point.get("loss")}
    assert {("HEAD~1", 8.9), ("HEAD", 7.0), ("HEAD~1", 2.95), ("HEAD", 2.0)} <= losses
    told = json.loads(_dvc(history, "metrics", "diff", "HEAD~1", "HEAD", "--json"))
    assert told["metrics/pretrain.json"]["val_bits_per_char"]["diff"] == pytest.approx(-0.19)


def test_the_curves_that_are_plotted_are_written_by_the_pipeline() -> None:
    """Files and columns of dvc.yaml's `plots` are outputs of its stages and columns of their curves."""
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    outputs = {out for stage in written["stages"].values() for out in stage["outs"] if isinstance(out, str)}
    plotted = {file for plot in written["plots"] for one in plot.values() for file in one["y"]}
    assert plotted == set(CURVES)
    assert plotted <= outputs
