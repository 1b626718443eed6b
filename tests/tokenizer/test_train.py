"""Training of the tokenizer: same bytes every time, nothing dropped, refusals in one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from components.configuration import Tokenizer
from components.corpus.documents import TRAIN, VALIDATION, read_contents
from components.errors import InkwellError
from components.step import content_hash
from components.tokenizer.train import SMALLEST_VOCABULARY, Contents, measure, sample_lines, train_tokenizer


@pytest.fixture(scope="module")
def contents(clean_folder: Path) -> list[str]:
    return read_contents(clean_folder / "documents.parquet", TRAIN)


def processor(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_special_tokens_and_symbols_have_the_ids_that_models_rely_on(tokenizer_folder: Path) -> None:
    pieces = [processor(tokenizer_folder).id_to_piece(token) for token in range(10)]
    assert pieces == [
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "<|im_start|>",
        "<|im_end|>",
        "\n",
        "system",
        "user",
        "assistant",
    ]


def test_two_runs_write_the_same_bytes_whatever_the_number_of_threads(tmp_path: Path, contents: list[str]) -> None:
    parameters = Tokenizer(vocabulary=400, character_coverage=1.0)
    train_tokenizer(contents, parameters, 1, tmp_path / "first")
    code = (
        "import sys; from pathlib import Path; from components.configuration import Tokenizer\n"
        "from components.corpus.documents import read_contents; from components.tokenizer.train import train_tokenizer\n"
        "import json; contents = json.load(sys.stdin)\n"
        "train_tokenizer(contents, Tokenizer(vocabulary=400, character_coverage=1.0), 1, Path(sys.argv[1]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", code, str(tmp_path / "second")]
    subprocess.run(command, input=json.dumps(contents), text=True, check=True, env=environment, timeout=120)
    assert content_hash(tmp_path / "first") == content_hash(tmp_path / "second")
    names = {path.name for path in (tmp_path / "first").iterdir()}
    assert names == {
        "tokenizer.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
    assert str(tmp_path).encode() not in (tmp_path / "first" / "tokenizer.model").read_bytes()


def test_vocabulary_that_the_text_does_not_allow_is_refused_with_the_largest_that_works(
    tmp_path: Path, contents: list[str]
) -> None:
    with pytest.raises(InkwellError, match=r"tokenizer\.vocabulary = 60000 .* at most \d+") as caught:
        train_tokenizer(contents, Tokenizer(vocabulary=60_000, character_coverage=1.0), 1, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found
    largest = int(found[1])
    figures = train_tokenizer(contents, Tokenizer(vocabulary=largest, character_coverage=1.0), 1, tmp_path / "largest")
    assert figures["vocabulary"] == largest
    with pytest.raises(InkwellError, match=f"at most {largest}"):
        train_tokenizer(contents, Tokenizer(vocabulary=largest + 1, character_coverage=1.0), 1, tmp_path / "none")


def test_vocabulary_without_room_for_the_characters_is_refused_with_the_smallest_that_works(
    tmp_path: Path, contents: list[str]
) -> None:
    with pytest.raises(InkwellError, match=r"at least \d+, or lower tokenizer\.character_coverage") as caught:
        train_tokenizer(contents, Tokenizer(vocabulary=300, character_coverage=1.0), 1, tmp_path / "none")
    found = re.search(r"at least (\d+)", str(caught.value))
    assert found
    train_tokenizer(contents, Tokenizer(vocabulary=int(found[1]), character_coverage=1.0), 1, tmp_path / "smallest")


@pytest.mark.parametrize("contents", [["a"], ["\n \n"], ["1 2"]])
def test_text_too_small_for_any_tokenizer_says_to_add_documents(tmp_path: Path, contents: list[str]) -> None:
    with pytest.raises(InkwellError, match="add documents"):
        train_tokenizer(contents, Tokenizer(vocabulary=300), 1, tmp_path / "none")


def test_the_smallest_vocabulary_is_the_one_that_the_parameters_allow() -> None:
    assert Tokenizer(vocabulary=SMALLEST_VOCABULARY)
    with pytest.raises(ValueError, match="vocabulary"):
        Tokenizer(vocabulary=SMALLEST_VOCABULARY - 1)


def test_text_of_one_very_long_line_is_learned_from_whole(tmp_path: Path, contents: list[str]) -> None:
    line = "".join(contents).replace("\n", "") * 2 + "ж" * 300
    assert len(line) > 30_000
    train_tokenizer([line], Tokenizer(vocabulary=400, character_coverage=1.0), 1, tmp_path / "long")
    # The letter stands only at the very end: it has a token of its own if nothing was dropped.
    assert processor(tmp_path / "long").piece_to_id("ж") > 0
    assert "".join(sample_lines([line], 10**9, 1)) == line


def test_words_are_not_cut_where_a_long_line_is_divided() -> None:
    line = "слово " * 5000
    assert all(part.strip().split(" ") == ["слово"] * len(part.split()) for part in sample_lines([line], 10**9, 1))


def test_sample_keeps_to_its_limit_and_reaches_every_part_of_the_text() -> None:
    text = "\n".join(f"{number:06}" for number in range(20_000))
    sample = list(sample_lines([text], 12_000, 5))
    assert 10_000 <= sum(map(len, sample)) <= 12_000
    numbers = [int(line) for line in sample]
    assert min(numbers) < 1000
    assert max(numbers) > 15_000
    assert sample == list(sample_lines([text], 12_000, 5))
    assert sample != list(sample_lines([text], 12_000, 6))


def test_contents_are_read_anew_each_time_and_give_the_same_files(
    tmp_path: Path, clean_folder: Path, contents: list[str]
) -> None:
    streamed = Contents(clean_folder / "documents.parquet", TRAIN)
    assert list(streamed) == list(streamed) == contents
    for name, given in (("streamed", streamed), ("held", contents)):
        train_tokenizer(given, Tokenizer(vocabulary=400, character_coverage=1.0), 1, tmp_path / name)
    assert content_hash(tmp_path / "streamed") == content_hash(tmp_path / "held")


def test_lower_coverage_spells_rare_characters_in_bytes(
    tmp_path: Path, contents: list[str], clean_folder: Path
) -> None:
    held_out = read_contents(clean_folder / "documents.parquet", VALIDATION)
    shares = []
    for coverage in (0.98, 1.0):
        train_tokenizer(contents, Tokenizer(vocabulary=400, character_coverage=coverage), 1, tmp_path / str(coverage))
        shares.append(measure(tmp_path / str(coverage), held_out)["characters_covered"])
    assert 0.9 < shares[0] < shares[1] == 1.0
    assert measure(tmp_path / "1.0", ["☃"])["characters_covered"] == 0


def test_command_writes_the_tokenizer_and_its_figures(tmp_path: Path, clean_folder: Path) -> None:
    (tmp_path / "validated").mkdir()
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {enabled: false}\ntokenizer: {vocabulary: 400, character_coverage: 1.0}\n"
    )
    command = [sys.executable, "-m", "components.tokenizer", "--params", str(tmp_path / "params.yaml")]
    command += ["--documents", str(clean_folder), "--validated", str(tmp_path / "validated")]
    command += ["--tokenizer", str(tmp_path / "tokenizer"), "--metrics", str(tmp_path / "metrics.json")]
    command += ["--report", str(tmp_path / "tokenizer.html")]
    subprocess.run([*command, "--set", "tokenizer.sample_characters=9000"], check=True, timeout=180)
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["vocabulary"] == 400
    assert 5000 < figures["sampled_characters"] <= 9000
    assert 0 < figures["tokens_per_character"] < 1
    assert figures["gpt2_tokens_per_character"] > 2
    assert "Tokenizer report" in (tmp_path / "tokenizer.html").read_text(encoding="utf-8")
    refused = subprocess.run(
        [*command, "--set", "tokenizer.vocabulary=90000"], capture_output=True, text=True, timeout=180
    )
    assert refused.returncode == 2
    assert "tokenizer.vocabulary" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
