"""Fixtures of the export step's tests: folders as earlier steps leave them, and GGUF files of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.configuration import Sampling
from components.export.gguf_file import FORMATS, Description, write_gguf
from components.export.llama_cpp import LlamaCpp

DESCRIPTION = Description("tiny", "zh", "MIT", Sampling())


@pytest.fixture(scope="session")
def gguf_files(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """The tiny model in every format."""
    folder = tmp_path_factory.mktemp("gguf")
    files = {format: folder / f"tiny-{format}.gguf" for format in FORMATS}
    with LlamaCpp() as quantizer:
        for format, path in files.items():
            write_gguf(tiny_model, path, format, DESCRIPTION, quantizer)
    return files
