"""What the benchmarks of training are run on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL = {
    "hidden_size": 64,
    "layers": 2,
    "heads": 2,
    "key_value_heads": 2,
    "feed_forward_size": 128,
    "steps": 12,
    "warmup_steps": 2,
    "block": 64,
    "micro_batch": 4,
    "accumulation": 1,
    "validation_every": 4,
    "validation_documents": 8,
    "sample_every": 100,
}


@pytest.fixture
def workspace(tmp_path: Path, token_folder: Path, tokenizer_folder: Path) -> Path:
    """What `make run` leaves, as far as training needs it."""
    folder = tmp_path / "workspace"
    shutil.copytree(token_folder, folder / "data" / "tokens")
    shutil.copytree(tokenizer_folder, folder / "models" / "tokenizer")
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    parameters["pretrain"] |= SMALL
    parameters["machine"] |= {"compile": "off", "calibrate": False}
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters, allow_unicode=True), encoding="utf-8")
    return folder
