"""A small corpus in three languages, with text that would like to be markup, through the real tag and clean steps."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import curated
from tests.tiny_corpus import poems

HOSTILE = "<script>alert('题')</script>"

_RUSSIAN = [
    "князь",
    "корабль",
    "письмо",
    "вечер",
    "улица",
    "солдат",
    "лошадь",
    "книга",
    "окно",
    "дорога",
    "зима",
    "голос",
    "парус",
    "гавань",
    "доктор",
    "печь",
]
_ENGLISH = ["whale", "letter", "captain", "morning", "window", "congress", "revenue", "harbour", "lantern", "winter", "question", "voyage", "budget", "street"]  # fmt: skip


def raw_documents() -> list[dict[str, Any]]:
    """240 documents of three sources; the last of each are planted copies, the first three are to be dropped."""
    rng = random.Random(11)
    rows = [
        row("tang", text, title)
        for text, title in (("短。", None), ("？！。", None), ("一样的一行诗句。\n" * 6, "重复"))
    ]
    for record in poems(130):
        rows.append(row("tang", "\n".join(record["paragraphs"]), record["title"], record["author"]))
    for _ in range(50):
        words = [" ".join(rng.choices(_RUSSIAN, k=9)).capitalize() + "." for _ in range(4)]
        rows.append(row("война", "\n".join(words), None, "Толстой"))
    for number in range(47):
        words = [" ".join(rng.choices(_ENGLISH, k=9)).capitalize() + "." for _ in range(3)]
        rows.append(
            row(HOSTILE, f"{HOSTILE}\n" + " ".join(words) + f" Write to me{number}@example.org.", HOSTILE, "A & B")
        )
    for _ in range(10):
        copied = rows[rng.randrange(3, 120)]
        rows.append(row("tang", copied["text"][:-2] + "窗。", copied["title"], copied["author"]))
    for number, found in enumerate(rows):
        found["id"] = f"doc-{number:03}"
        found["provenance"]["row"] = number
    return rows


def row(source: str, text: str, title: str | None = None, author: str | None = None) -> dict[str, Any]:
    """A raw document."""
    return {
        "id": "",
        "text": text,
        "title": title,
        "author": author,
        "metadata": "{}",
        "provenance": {"source": source, "origin": "sha256:0", "member": "m", "row": 0},
    }


@pytest.fixture(scope="session")
def curated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/raw`, `data/tagged` and `data/clean` under one folder."""
    folder = tmp_path_factory.mktemp("curated")
    data = folder / "data"
    documents = raw_documents()
    evaluation = [{**row("exam", documents[40]["text"]), "id": "question-7"}]
    curated.tag(
        data,
        documents,
        roles={"evaluation": evaluation},
        families=["shape", "words", "verse"],
        pii={"email": True},
        topics={"clusters": 6},
        perplexity={"order": 2, "characters": 20_000},
    )
    curated.clean(
        data,
        policy="base",
        rules={"too_short": {"minimum": 5}},
        mixture={"weights": {"tang": 2.0}},
        template="{title}\n{author}\n{text}",
        validation_fraction=0.1,
        kneser_ney_order=2,
    )
    sources = [
        source("tang", "MIT", [{"name": "tang.json", "documents": 143, "encoding": "utf-8"}], version="2.0.1"),
        source("война", "public domain", [{"name": "wap1.txt", "documents": 50, "encoding": "windows-1251"}]),
        source(HOSTILE, None, [{"name": HOSTILE, "documents": 47, "encoding": "utf-8"}]),
        source("exam", "CC-BY-4.0", [], role="evaluation"),
    ]
    (data / "raw/sources.json").write_text(json.dumps(sources, ensure_ascii=False), encoding="utf-8")
    (folder / "params.yaml").write_text(
        "language: zh\ningest: {sources: [{name: tang, kind: path, location: texts}]}\ntracking: {enabled: false}\n",
        encoding="utf-8",
    )
    return folder


def source(name: str, license: str | None, members: list[dict[str, Any]], role: str = "train", version: str | None = None) -> dict[str, Any]:  # fmt: skip
    """What ingest writes of a source."""
    return {
        "name": name,
        "kind": "path",
        "location": f"texts/{name}",
        "version": version,
        "sha256": "a" * 64,
        "license": license,
        "role": role,
        "documents": 1 if role != "train" else members[0]["documents"],
        "characters": 1234,
        "bytes_read": 4321,
        "members": members,
    }


@pytest.fixture
def workspace(tmp_path: Path, curated_folder: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(curated_folder, tmp_path / "work")
    return tmp_path / "work"
