"""Encoding into shards: exact, in order, the same for any number of processes, whole or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Tokenize
from components.corpus.documents import TRAIN, VALIDATION, clean_schema, read_contents, write_documents
from components.corpus.packed import TokenShards
from components.errors import InkwellError
from components.model.folders import load_tokenizer
from components.step import content_hash
from components.tokenize import encode
from components.tokenize.encode import encode_corpus
from tests.tiny_corpus import clean_rows


def documents(folder: Path, rows: list[dict[str, Any]]) -> Path:
    write_documents(folder / "documents.parquet", rows, clean_schema())
    return folder / "documents.parquet"


def changed(content: str, at: int = 5) -> list[dict[str, Any]]:
    rows = clean_rows(20)
    rows[at]["content"] = content
    return rows


def test_every_document_decodes_to_itself_in_the_order_of_the_file(
    token_folder: Path, clean_folder: Path, tokenizer_folder: Path
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    for split in (TRAIN, VALIDATION):
        contents = read_contents(clean_folder / "documents.parquet", split)
        shards = TokenShards(token_folder, split)
        assert len(shards) == len(contents)
        for index, content in enumerate(contents):
            ids = shards.document(index).tolist()
            assert (ids[0], ids[-1]) == (1, 2)
            assert tokenizer.decode(ids[1:-1], skip_special_tokens=False) == content
        assert shards.characters == sum(map(len, contents))


def test_figures_count_what_was_written(tmp_path: Path, clean_folder: Path, tokenizer_folder: Path) -> None:
    path = clean_folder / "documents.parquet"
    figures = encode_corpus(path, tokenizer_folder, tmp_path / "tokens", Tokenize(workers=1))
    shards = TokenShards(tmp_path / "tokens", TRAIN)
    assert figures["train_documents"] == 360 == len(shards)
    assert figures["train_tokens"] == shards.tokens == sum(len(shards.document(i)) for i in range(len(shards)))
    assert figures["train_longest_document_tokens"] == shards.lengths.max()
    assert figures["vocabulary"] == 512 == shards.vocabulary


def test_files_are_the_same_for_any_number_of_processes(
    tmp_path: Path, clean_folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 37)  # several batches a process
    for workers in (1, 3):
        parameters = Tokenize(workers=workers, shard_tokens=2000)
        encode_corpus(clean_folder / "documents.parquet", tokenizer_folder, tmp_path / str(workers), parameters)
    assert content_hash(tmp_path / "1") == content_hash(tmp_path / "3")
    assert len(list((tmp_path / "1").glob("train-*.bin"))) > 3


def test_document_that_does_not_survive_is_named(tmp_path: Path, tokenizer_folder: Path) -> None:
    # U+2581 is what SentencePiece writes for a space: it cannot tell the two apart.
    path = documents(tmp_path, changed("春山\u2581秋水"))
    with pytest.raises(InkwellError, match=r"tiny-0005 .* character 2 is U\+2581 and comes back as U\+0020"):
        encode_corpus(path, tokenizer_folder, tmp_path / "tokens", Tokenize(workers=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["documents.parquet"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("marker", ["<s>", "</s>", "<|im_end|>"])
def test_document_with_a_literal_marker_is_refused(
    tmp_path: Path, tokenizer_folder: Path, marker: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 4)
    path = documents(tmp_path, changed(f"春山{marker}秋水"))
    with pytest.raises(InkwellError, match=r"tiny-0005 holds the marker"):
        encode_corpus(path, tokenizer_folder, tmp_path / "tokens", Tokenize(workers=workers))


def test_text_of_any_script_and_an_empty_text_are_encoded(tmp_path: Path, tokenizer_folder: Path) -> None:
    odd = [
        "",
        " ",
        "\n\n",
        "  два  слова\t",
        "👨‍👩‍👧 e\u0301 \u3000\u00a0\r\n",
        "\0",
        "a" * 50_000,
        "\u2585\ufffd\ufeff",
    ]
    rows = clean_rows(20)
    for row, content in zip(rows[1:], odd, strict=False):
        row.update(content=content, split="train")
    encode_corpus(documents(tmp_path, rows), tokenizer_folder, tmp_path / "tokens", Tokenize(workers=1))
    shards = TokenShards(tmp_path / "tokens", TRAIN)
    tokenizer = load_tokenizer(tokenizer_folder)
    decoded = [tokenizer.decode(shards.document(i)[1:-1], skip_special_tokens=False) for i in range(len(shards))]
    assert decoded[: len(odd)] == odd


def test_split_without_documents_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    path = documents(tmp_path, [{**row, "split": TRAIN} for row in clean_rows(10)])
    with pytest.raises(InkwellError, match=r"no validation documents.*clean\.validation_fraction"):
        encode_corpus(path, tokenizer_folder, tmp_path / "tokens", Tokenize(workers=1))


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path, clean_folder: Path) -> None:
    with pytest.raises(InkwellError, match="run the tokenizer step first"):
        encode_corpus(clean_folder / "documents.parquet", tmp_path, tmp_path / "tokens", Tokenize(workers=1))


def test_killed_command_leaves_no_process_and_runs_again(
    tmp_path: Path, clean_folder: Path, tokenizer_folder: Path
) -> None:
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {enabled: false}\n"
    )
    many = clean_rows(400) * 30
    path = documents(tmp_path / "clean", [{**row, "id": str(index)} for index, row in enumerate(many)])
    command = [sys.executable, "-m", "components.tokenize", "--params", str(tmp_path / "params.yaml")]
    command += ["--documents", str(path.parent), "--tokenizer", str(tokenizer_folder)]
    command += ["--tokens", str(tmp_path / "tokens"), "--metrics", str(tmp_path / "metrics.json")]
    command += ["--set", "tokenize.workers=2", "--set", "tokenize.shard_tokens=50000"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".tokens.*/*.bin")):  # work has begun
            assert process.poll() is None, "the command ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
        while _group_alive(process.pid):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.05)
    finally:
        if _group_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "tokens").exists()
    subprocess.run(command, check=True, timeout=180)
    assert len(TokenShards(tmp_path / "tokens", TRAIN)) == 10_800
    assert json.loads((tmp_path / "metrics.json").read_text())["train_documents"] == 10_800


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_an_epoch_reads_several_times_is_written_as_often(tmp_path: Path, tokenizer_folder: Path) -> None:
    rows = clean_rows(40)
    for number, row in enumerate(rows):
        row["repeats"] = 1 + number % 3 if row["split"] == TRAIN else 1
    figures = encode_corpus(documents(tmp_path, rows), tokenizer_folder, tmp_path / "tokens", Tokenize(workers=1))
    for split in (TRAIN, VALIDATION):
        shards, tokenizer = TokenShards(tmp_path / "tokens", split), load_tokenizer(tokenizer_folder)
        written = [
            tokenizer.decode(shards.document(at).tolist()[1:-1], skip_special_tokens=False) for at in range(len(shards))
        ]
        assert written == [row["content"] for row in rows if row["split"] == split for _ in range(row["repeats"])]
        assert figures[f"{split}_documents"] == len(written)
        assert figures[f"{split}_characters"] == sum(map(len, written))
