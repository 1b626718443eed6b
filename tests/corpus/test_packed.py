"""The packed corpus: what is read is what was written, and damage is told in one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.corpus.packed import ShardWriter, TokenShards, token_type, write_meta
from components.errors import InkwellError


def written(folder: Path, documents: list[list[int]], vocabulary: int = 500, shard_tokens: int = 20) -> Path:
    folder.mkdir(parents=True)
    writer = ShardWriter(folder, "train", token_type(vocabulary), shard_tokens)
    for document in documents:
        writer.add(np.array(document, dtype=token_type(vocabulary)), characters=len(document) - 2)
    write_meta(folder, vocabulary, "0" * 64, {"train": writer.close()})
    return folder


DOCUMENTS = [[1, *range(10, 10 + length), 2] for length in (3, 0, 9, 30, 1, 1, 7, 5)]


def test_documents_come_back_across_shards_and_none_is_cut(tmp_path: Path) -> None:
    shards = TokenShards(written(tmp_path / "tokens", DOCUMENTS), "train")
    assert [shards.document(i).tolist() for i in range(len(shards))] == DOCUMENTS
    assert shards.lengths.tolist() == [len(document) for document in DOCUMENTS]
    assert shards.tokens == sum(map(len, DOCUMENTS))
    assert len(list((tmp_path / "tokens").glob("*.bin"))) > 2
    for index in (-1, len(DOCUMENTS)):
        with pytest.raises(IndexError):
            shards.document(index)


@pytest.mark.parametrize(("vocabulary", "size"), [(65_535, 2), (65_536, 4), (200_000, 4)])
def test_ids_take_four_bytes_from_a_vocabulary_of_65536(tmp_path: Path, vocabulary: int, size: int) -> None:
    folder = written(tmp_path / "tokens", [[1, vocabulary - 1, 2]], vocabulary)
    assert (folder / "train-00000.bin").stat().st_size == 3 * size
    assert TokenShards(folder, "train").document(0).tolist() == [1, vocabulary - 1, 2]


def test_a_pickle_holds_the_path_and_not_the_tokens(tmp_path: Path) -> None:
    shards = TokenShards(written(tmp_path / "tokens", DOCUMENTS * 200, shard_tokens=1000), "train")
    data = pickle.dumps(shards)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.fingerprint == shards.fingerprint
    assert again.document(1001).tolist() == shards.document(1001).tolist()


def test_documents_are_views_of_the_file_that_cannot_be_written(tmp_path: Path) -> None:
    shards = TokenShards(written(tmp_path / "tokens", DOCUMENTS), "train")
    with pytest.raises(ValueError, match="read-only"):
        shards.document(0)[0] = 5


def test_fingerprint_changes_with_a_token_or_a_boundary_and_not_with_the_place(tmp_path: Path) -> None:
    first = TokenShards(written(tmp_path / "a", [[1, 7, 2], [1, 2]]), "train").fingerprint
    assert TokenShards(written(tmp_path / "b", [[1, 7, 2], [1, 2]]), "train").fingerprint == first
    assert TokenShards(written(tmp_path / "c", [[1, 8, 2], [1, 2]]), "train").fingerprint != first
    assert TokenShards(written(tmp_path / "d", [[1, 7], [2, 1, 2]]), "train").fingerprint != first


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _other_boundaries(path: Path) -> None:
    np.save(path, np.array([0, 99]))


def _no_vocabulary(path: Path) -> None:
    meta = json.loads(path.read_text())
    del meta["vocabulary"]
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("meta.json", Path.unlink, "does not exist: run the tokenize step"),
        ("meta.json", _shorten, None),
        ("meta.json", _no_vocabulary, "is damaged"),
        ("train-00001.bin", Path.unlink, "is missing"),
        ("train-00001.bin", _shorten, "bytes instead of"),
        ("train-00000.offsets.npy", Path.unlink, "is missing"),
        ("train-00000.offsets.npy", _shorten, "is damaged"),
        ("train-00000.offsets.npy", _other_boundaries, "does not fit its shard"),
    ],
)
def test_damage_is_told_in_one_sentence_that_names_the_file(
    tmp_path: Path, name: str, damage: Callable[[Path], None], sentence: str | None
) -> None:
    folder = written(tmp_path / "tokens", DOCUMENTS)
    damage(folder / name)
    if sentence is None:  # the last byte of meta.json is a line end: still whole
        assert len(TokenShards(folder, "train")) == len(DOCUMENTS)
        return
    with pytest.raises(InkwellError, match=sentence) as caught:
        TokenShards(folder, "train")
    assert name in str(caught.value)


def test_verify_finds_a_changed_token(tmp_path: Path) -> None:
    folder = written(tmp_path / "tokens", DOCUMENTS)
    TokenShards(folder, "train").verify()
    data = bytearray((folder / "train-00001.bin").read_bytes())
    data[2] ^= 1
    (folder / "train-00001.bin").write_bytes(data)
    with pytest.raises(InkwellError, match=r"train-00001\.bin was changed"):
        TokenShards(folder, "train").verify()


def test_missing_split_and_missing_folder_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "tokens", DOCUMENTS)
    with pytest.raises(InkwellError, match="no split 'validation'"):
        TokenShards(folder, "validation")
    shutil.rmtree(folder)
    with pytest.raises(InkwellError, match="run the tokenize step first"):
        TokenShards(folder, "train")
