"""Fixtures that several folders of tests share: small, real, made once a session."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import setuptools  # noqa: F401 - before a test imports pip, after which it can no longer be imported, and TorchInductor does

from components.step import quiet_environment
from tests.tiny_corpus import clean_rows

quiet_environment()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Each recorded step starts a process that speaks with MLflow; the tests of tracking switch it on again.
os.environ["INKWELL_TRACKING"] = "off"

ARCHIVE = "0123456789abcdef" * 4  # the hash that `raw_folder` says of its source
SHARED_WAR_AND_PEACE = Path(__file__).parents[2] / "shared" / "data" / "war-and-peace"


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/clean` of the tiny corpus."""
    from components.corpus.documents import clean_schema, write_documents

    folder = tmp_path_factory.mktemp("clean")
    write_documents(folder / "documents.parquet", clean_rows(), clean_schema())
    return folder


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory: pytest.TempPathFactory, clean_folder: Path) -> Path:
    """`data/raw` of the tiny corpus, as far as the export reads it."""
    folder = tmp_path_factory.mktemp("raw")
    shutil.copyfile(clean_folder / "documents.parquet", folder / "documents.parquet")
    source = {
        "name": "tiny",
        "kind": "npm",
        "location": "tiny-poems",
        "version": "1.0.0",
        "license": "MIT",
        "sha256": ARCHIVE,
    }
    (folder / "sources.json").write_text(json.dumps([source]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, clean_folder: Path) -> Path:
    """A tokenizer trained on the tiny corpus."""
    from components.configuration import Tokenizer
    from components.corpus.documents import TRAIN, read_contents
    from components.tokenizer.train import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tokenizer"
    contents = read_contents(clean_folder / "documents.parquet", TRAIN)
    train_tokenizer(contents, Tokenizer(vocabulary=512, character_coverage=1.0), seed=1, folder=folder)
    return folder


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory: pytest.TempPathFactory, clean_folder: Path, tokenizer_folder: Path) -> Path:
    """`data/tokens` of the tiny corpus."""
    from components.configuration import Tokenize
    from components.tokenize.encode import encode_corpus

    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    encode_corpus(clean_folder / "documents.parquet", tokenizer_folder, folder, Tokenize(workers=1))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """An untrained model folder: 2 layers, 256 wide, the tiny tokenizer; fast to load and to run."""
    import torch

    from components.model.architectures import new_model
    from components.model.folders import load_tokenizer, save_model

    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    model = new_model(
        "qwen3",
        vocab_size=len(load_tokenizer(tokenizer_folder)),
        hidden_size=256,
        num_hidden_layers=2,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=256,
    )
    save_model(model, tokenizer_folder, folder, card="# Tiny\n")
    return folder
