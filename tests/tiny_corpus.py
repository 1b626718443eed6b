"""A small corpus written for the tests: verse put together from our own phrases, so that no test needs a download."""

from __future__ import annotations

import random
from typing import Any

_OPENINGS = ["春山", "秋水", "寒江", "明月", "白云", "孤舟", "青松", "夜雨", "晓风", "落花", "远帆", "高楼"]
_MIDDLES = ["随", "照", "入", "过", "满", "隔", "映", "度", "绕", "对"]
_ENDINGS = ["故园", "人家", "空城", "古寺", "天涯", "客心", "归路", "野渡", "长亭", "画桥", "石径", "柴门"]
_LONG = ["此时", "何处", "今夜", "万里", "三更", "一曲", "几度", "千年"]
AUTHORS = ["林砚", "周墨", "沈舟", "顾青"]


def poem(rng: random.Random, characters: int, lines: int) -> str:
    """`lines` lines of `characters` (5 or 7) characters, two on a printed line, punctuated as printed verse is."""
    written = []
    for _ in range(lines):
        line = rng.choice(_OPENINGS) + rng.choice(_MIDDLES) + rng.choice(_ENDINGS)
        written.append((rng.choice(_LONG) if characters == 7 else "") + line)
    return "\n".join(f"{a}，{b}。" for a, b in zip(written[::2], written[1::2], strict=True))


def poems(count: int = 400, seed: int = 7) -> list[dict[str, Any]]:
    """`count` records {title, author, paragraphs}, the layout of the default corpus' files."""
    rng = random.Random(seed)
    return [
        {
            "title": rng.choice(_LONG) + rng.choice(_OPENINGS) + rng.choice(["", "怀古", "送别", "即事"]),
            "author": AUTHORS[index % len(AUTHORS)],
            "paragraphs": poem(rng, 5 if index % 2 else 7, rng.choice([4, 8])).split("\n"),
        }
        for index in range(count)
    ]


def clean_rows(count: int = 400, seed: int = 7, validation_every: int = 10) -> list[dict[str, Any]]:
    """The same poems as clean documents (`components.corpus.documents.clean_schema`), every tenth held out."""
    rows = []
    for index, record in enumerate(poems(count, seed)):
        text = "\n".join(record["paragraphs"])
        rows.append(
            {
                "id": f"tiny-{index:04}",
                "text": text,
                "title": record["title"],
                "author": record["author"],
                "metadata": "{}",
                "language": "zh",
                "script": "Hani",
                "topic": -1,
                "repeats": 1,
                "noise": None,
                "content": f"{record['title']}\n{record['author']}\n{text}",
                "cluster": f"tiny-{index:04}",
                "cluster_size": 1,
                "split": "validation" if index % validation_every == 0 else "train",
                "provenance": {"source": "tiny", "origin": "tests/tiny_corpus.py", "member": "poems", "row": index},
            }
        )
    return rows
