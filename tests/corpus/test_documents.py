"""Reading documents piece by piece: the same rows as at once, and one sentence for a file that is damaged within."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.corpus.documents import batches, iterate, raw_schema, read_table, write_documents
from components.errors import InkwellError


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{number:016x}",
            "text": f"第{number}首。Глава {number}.",
            "title": None,
            "author": None,
            "metadata": "{}",
            "provenance": {"source": "tiny", "origin": "sha256:0", "member": "a", "row": number},
        }
        for number in range(count)
    ]


def test_rows_come_in_order_and_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    write_documents(path, rows(2500), raw_schema(), batch=700)
    assert list(iterate(path, raw_schema())) == read_table(path, raw_schema()).to_pylist() == rows(2500)
    sizes = [len(batch) for batch in batches(path, raw_schema(), ["text"], rows=400)]
    assert sum(sizes) == 2500
    assert max(sizes) == 400


def test_damage_within_the_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    write_documents(path, rows(2500), raw_schema())
    data = bytearray(path.read_bytes())
    data[200:2000] = b"\xee" * 1800
    path.write_bytes(data)
    for read in (lambda: list(iterate(path, raw_schema())), lambda: read_table(path, raw_schema())):
        with pytest.raises(InkwellError, match=r"documents\.parquet is no readable Parquet file"):
            read()
