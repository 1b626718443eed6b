"""Steps killed with `kill -9`, at several moments: nothing half-written stands, and the same command finishes the work.

Training and ingest have tests of this kind of their own (tests/pretrain, tests/ingest), and so has the first pass of tag
(tests/tag/test_stage.py).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from components.step import Step, content_hash, main
from tests.tiny_corpus import poems

ROOT = Path(__file__).parents[2]
_TIMINGS = {"seconds", "peak_gib"}
_PATIENCE = 300  # seconds: the machine may be busy

_PARAMS = {
    "language": "zh",
    "ingest": {
        "sources": [
            {
                "name": "tiny",
                "kind": "path",
                "location": "poems.json",
                "text_field": "paragraphs",
                "title_field": "title",
                "author_field": "author",
            }
        ]
    },
    "tag": {
        "workers": 1,
        "families": ["shape", "words", "verse"],
        "topics": {"clusters": 3, "sample": 300},
        "perplexity": {"order": 3, "characters": 10_000},
        "duplicates": {"substring_characters": 40},
    },
    "clean": {"template": "{title}\n{author}\n{text}", "validation_fraction": 0.2},
    "validate": {"minimum_characters": 100},
    "instruct": {"probe_documents": 20},
    "export": {"comparison_documents": 2, "comparison_prompts": 2, "comparison_tokens": 4, "formats": ["q8_0"]},
    "tracking": {"enabled": False},
}

# What each step reads of a small run: option to path.
_READS = {
    "tag": {"raw": "data/raw"},
    "clean": {"tagged": "data/tagged"},
    "datacard": {"raw": "data/raw", "tagged": "data/tagged", "clean": "data/clean"},
    "validate": {"raw": "data/raw", "tagged": "data/tagged", "clean": "data/clean"},
    "instruct": {"clean": "data/clean", "base": "models/base"},
    "export": {
        "raw": "data/raw",
        "clean": "data/clean",
        "tokens": "data/tokens",
        "base": "models/base",
        "sft": "models/base",
        "aligned": "models/base",
    },
    "report": {
        "raw": "data/raw",
        "clean": "data/clean",
        "tokens": "data/tokens",
        "tokenizer": "models/tokenizer",
        "pretrain-curve": "data/curves/pretrain.csv",
        "stage-metrics": "metrics",
    },
}


def _step(name: str) -> Step:
    step: Step = import_module(f"components.{name}.__main__").STEP
    return step


@pytest.fixture(scope="session")
def small_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tokenizer_folder: Path, token_folder: Path
) -> Path:
    """A folder with what ingest, tag and clean make of the tiny corpus, and what training leaves."""
    folder = tmp_path_factory.mktemp("small-run")
    (folder / "poems.json").write_text(json.dumps(poems(300), ensure_ascii=False), encoding="utf-8")
    (folder / "params.yaml").write_text(yaml.safe_dump(_PARAMS), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("ingest", "tag", "clean"):
            assert main(_step(name), []) == 0
    finally:
        os.chdir(before)
    (folder / "models").mkdir()
    for link, target in (
        ("models/base", tiny_model),
        ("models/tokenizer", tokenizer_folder),
        ("data/tokens", token_folder),
    ):
        (folder / link).symlink_to(target)
    (folder / "data/curves").mkdir()
    rows = "".join(f"{step},100,{8 - step / 10}\n" for step in range(1, 41))
    (folder / "data/curves/pretrain.csv").write_text("step,tokens,loss\n" + rows, encoding="utf-8")
    return folder


@dataclass
class Attempt:
    """One step's command in a folder of its own, in a process group of its own."""

    step: Step
    inputs: Path
    folder: Path

    def outputs(self) -> dict[str, Path]:
        return {name: self.folder / path for name, path in self.step.outputs.items()}

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        options = [
            part
            for name, path in _READS[self.step.name].items()
            for part in (f"--{name}", os.path.relpath(self.inputs / path, self.folder))
        ]
        command = [sys.executable, "-m", f"components.{self.step.name}", *options]
        return subprocess.Popen(
            [*command, "--params", str(self.inputs / "params.yaml")],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr").open("ab"),
            start_new_session=True,
        )

    def is_writing(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether an output of that process stands under its temporary name."""
        return any(
            found.name.startswith(f".{path.name}.{process.pid}.")
            for path in self.outputs().values()
            if path.parent.is_dir()
            for found in path.parent.iterdir()
        )

    def finish(self) -> tuple[float, float]:
        """Run to the end; returns how many seconds it took to begin writing, and from there to the end."""
        started = time.monotonic()
        process = self.start()
        began: float | None = None
        while process.poll() is None:
            if began is None and self.is_writing(process):
                began = time.monotonic()
            assert time.monotonic() - started < _PATIENCE
            time.sleep(0.002)
        ended = time.monotonic()
        assert process.returncode == 0, (self.folder / "stderr").read_text()
        began = began or ended
        return began - started, ended - began

    def kill(self, after: float, writing: bool) -> bool:
        """SIGKILL to all its processes that many seconds after the start, or after it began to write; whether it was still running."""
        process = self.start()
        moment = time.monotonic()
        while writing and process.poll() is None and not self.is_writing(process):
            assert time.monotonic() - moment < _PATIENCE
            time.sleep(0.002)
        moment = (time.monotonic() if writing else moment) + after
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.002)
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert running or process.returncode == 0, (self.folder / "stderr").read_text()
        return running


def _hashes(attempt: Attempt) -> dict[str, str]:
    return {name: content_hash(path) for name, path in attempt.outputs().items() if path.exists()}


@pytest.mark.parametrize("name", list(_READS))
def test_nothing_half_written_stands_and_the_same_command_finishes(name: str, small_run: Path, tmp_path: Path) -> None:
    whole = Attempt(_step(name), small_run, tmp_path / "whole")
    killed = Attempt(_step(name), small_run, tmp_path / "killed")
    before, writing = whole.finish()
    wanted = _hashes(whole)
    assert list(wanted) == list(whole.step.outputs)
    if all(path.is_dir() for path in whole.outputs().values()):
        moments = [(0.0, True), (0.5 * writing, True)]
    else:  # a file is written too fast to be met at it
        moments = [(0.2 * (before + writing), False), (0.6 * (before + writing), False)]
    landed = 0
    for after, when in [*moments, moments[0]]:
        if landed < 2:  # the machine may have been busier before, and one of them have come too late
            landed += killed.kill(after, when)
            found = _hashes(killed)
            assert found == {output: wanted[output] for output in found}, "what stands is whole"
            metrics = killed.folder / f"metrics/{name}.json"
            assert not metrics.exists() or json.loads(metrics.read_text(encoding="utf-8"))
    assert landed, "it ended before it could be killed"
    killed.finish()
    assert _hashes(killed) == wanted
    figures = [
        {
            key: value
            for key, value in json.loads((attempt.folder / f"metrics/{name}.json").read_text()).items()
            if key not in _TIMINGS
        }
        for attempt in (whole, killed)
    ]
    assert figures[0] == figures[1]
    left = [path for path in killed.folder.rglob(".*") if re.match(r"\.[\w.]+\.\d+\.", path.name)]
    assert not left, "what the killed ones left behind is removed"


def test_an_earlier_output_is_never_half_removed(tmp_path: Path) -> None:
    """Killed at the very moment when it begins to remove the earlier output."""
    (tmp_path / "out").mkdir()
    for number in range(3):
        (tmp_path / f"out/{number}").touch()
    code = (
        "import os, shutil, signal; from pathlib import Path; from components.atomic import atomic_folder\n"
        "shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with atomic_folder(Path('out')) as folder: (folder / 'new').touch()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.glob("out/*")) == ["new"]
