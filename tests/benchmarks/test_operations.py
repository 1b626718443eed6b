"""The benchmark of operations in miniature: real faults on a real pipeline of the first stages, and what it judges by."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.chaos import trials as chaos
from benchmarks.chaos.faults import FAULTS, corrupt_cache
from benchmarks.chaos.services import listens
from benchmarks.chaos.soundness import MARK, end_all_in, half_written, hashes, orphans
from benchmarks.operations import main
from tests.tiny_corpus import poems


def test_the_trials_follow_from_the_seed_and_meet_every_fault() -> None:
    planned = chaos.trials(50, 1, FAULTS, 10)
    assert planned == chaos.trials(50, 1, FAULTS, 10)
    assert [trial.number for trial in planned if trial.smoke] == [9, 19, 29, 39, 49]
    assert {trial.fault for trial in planned} == set(FAULTS)
    assert planned[:3] == chaos.trials(3, 1, FAULTS, 10)
    assert planned[0].seed != chaos.trials(1, 2, FAULTS, 10)[0].seed


def test_half_written_outputs_and_processes_left_behind_are_seen(tmp_path: Path) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "documents.parquet").write_bytes(b"whole")
    assert half_written(tmp_path) == []
    assert set(hashes(tmp_path)) == {"data/raw"}
    (tmp_path / "data" / f".clean.{os.getpid()}.x1").mkdir()
    assert half_written(tmp_path) == [f"data/.clean.{os.getpid()}.x1"]
    assert orphans(tmp_path, patience=0) == []
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], cwd=tmp_path, env={**os.environ, MARK: "1"}
    )
    try:
        assert len(orphans(tmp_path, patience=0)) == 1
        end_all_in(tmp_path)
        sleeper.wait(10)
        assert orphans(tmp_path, patience=0) == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_server_of_the_trials_ends_with_the_benchmark_and_can_be_killed_and_started_again(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from benchmarks.chaos.services import object_store\n"
        "service, address = object_store(Path(sys.argv[1]))\n"
        "service.start()\n"
        "service.kill()\n"
        "service.start()\n"
        "print(address.rpartition(':')[2], flush=True)\n"
        "time.sleep(120)\n"
    )
    benchmark = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert benchmark.stdout is not None
        port = int(benchmark.stdout.readline())
        assert listens(port)
    finally:
        benchmark.kill()
        benchmark.wait()
        assert benchmark.stdout is not None
        benchmark.stdout.close()
    deadline = time.monotonic() + 20
    while listens(port):
        assert time.monotonic() < deadline, "the server has outlived the benchmark"
        time.sleep(0.2)


def test_a_reference_of_other_code_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(poem, ensure_ascii=False) + "\n" for poem in poems(20)), encoding="utf-8")
    source = f"{{name: tiny, kind: path, location: {corpus}, format: jsonl, text_field: paragraphs}}"
    tiny = ("corpus=tang", "size=smoke", f"ingest.sources=[{source}]", "tracking.enabled=false")
    monkeypatch.setattr(chaos, "TINY", tiny)
    monkeypatch.setattr(chaos, "TINY_TARGETS", ("ingest",))
    with chaos.Grounds(tmp_path / "chaos") as grounds:
        first = grounds.undisturbed(smoke=False)
        assert grounds.undisturbed(smoke=False) == first
        monkeypatch.setattr(chaos, "TINY", (*tiny, "ingest.limit=5"))
        assert grounds.undisturbed(smoke=False) != first


def test_a_corrupted_cache_file_keeps_name_size_and_protection(tmp_path: Path) -> None:
    kept = tmp_path / ".dvc" / "cache" / "files" / "md5" / "ab" / "cdef01234567"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"0123456789")
    kept.chmod(0o444)
    assert "abcdef01" in corrupt_cache(tmp_path, random.Random(1))
    assert kept.read_bytes() != b"0123456789"
    assert len(kept.read_bytes()) == 10
    assert kept.stat().st_mode & 0o777 == 0o444


def test_a_run_with_a_killed_stage_and_one_with_a_full_disk_come_out_as_if_nothing_had_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(poem, ensure_ascii=False) + "\n" for poem in poems(60)), encoding="utf-8")
    source = f"{{name: tiny, kind: path, location: {corpus}, format: jsonl, text_field: paragraphs}}"
    monkeypatch.setattr(
        chaos, "TINY", ("corpus=tang", "size=smoke", f"ingest.sources=[{source}]", "tracking.enabled=false")
    )
    monkeypatch.setattr(chaos, "TINY_TARGETS", ("ingest",))
    arguments = ["--only", "chaos", "--runs", "2", "--smoke-every", "0", "--faults", "stage,disk"]
    assert main([*arguments, "--workspace", str(tmp_path / "operations")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["chaos_runs"] == 2
    assert found["chaos_lost"] == 0
    # Finished runs are kept, so a second call reads them.
    assert main([*arguments, "--workspace", str(tmp_path / "operations")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "nothing"], "known are noop, pages, screens, chaos"),
        (["--only", "screens", "--finished", "nowhere"], "nothing has run there"),
        (["--faults", "rain"], "known are stage"),
        (["--runs", "0"], "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*arguments, "--workspace", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
