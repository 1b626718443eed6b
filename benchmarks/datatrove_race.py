"""The same curation by datatrove's local executor, as well as it can be set up: what `benchmarks.curation` measures itself against.

    python -m benchmarks.datatrove_race SHARDS WORK --shingle 3

SHARDS is a folder of Parquet files, one a task; the documents that stay are in WORK/kept. What is to datatrove's advantage: words come from a
regular expression (its own segmenter for Chinese is many times slower), the words of a text are found once for all filters (its own
cache), only text and id are read, documents go between its steps as Parquet, writing is in the step that filters, and signatures are read in
large pieces. Completion markers ignore parameters, so WORK has to be new.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.corpus.policy import Rule

if TYPE_CHECKING:
    from datatrove.data import Document

_HAN = "\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")
_SENTENCE = re.compile(r"[^。！？!?.…]*[。！？!?.…]+[”’」』\"')]*|[^。！？!?.…]+\Z")
_BUFFER = 1000  # signatures read at a time; the default is 5


def tokenizer() -> Any:
    """Characters where there are Han characters, words elsewhere; punctuation is no word. An instance of datatrove's class."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Characters(WordTokenizer):  # type: ignore[misc]
        """Pickled by value, as datatrove's executor does."""

        def word_tokenize(self, text: str) -> list[str]:
            """Words."""
            return _WORD.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            """Sentences."""
            return [match.strip() for match in _SENTENCE.findall(text) if match.strip()]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            """Where sentences begin and end."""
            return [match.span() for match in _SENTENCE.finditer(text) if match[0].strip()]

    return Characters()


def filters(rules: Mapping[str, Rule], words: Any) -> list[Any]:
    """datatrove's four filters with the bounds of `rules`; a rule that is not among them is not asked."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    def most(name: str) -> float | None:
        return rules[name].maximum if name in rules else None

    def least(name: str) -> float | None:
        return rules[name].minimum if name in rules else None

    def grams(prefix: str, lengths: range, suffix: str) -> tuple[tuple[int, float], ...]:
        found = ((n, most(f"{prefix}_{n}{suffix}")) for n in lengths)
        return tuple((n, bound) for n, bound in found if bound is not None)

    never = float("inf")
    return [
        GopherRepetitionFilter(
            dup_line_frac=most("duplicate_lines"),
            dup_para_frac=most("duplicate_paragraphs"),
            dup_line_char_frac=most("duplicate_line_characters"),
            dup_para_char_frac=most("duplicate_paragraph_characters"),
            top_n_grams=grams("top", range(2, 5), "gram"),
            dup_n_grams=grams("duplicate", range(5, 11), "grams"),
            language=words,
        ),
        GopherQualityFilter(
            min_doc_words=least("word_count"),
            max_doc_words=most("word_count"),
            min_avg_word_length=None,
            max_avg_word_length=most("word_length"),
            max_symbol_word_ratio=most("hashes_and_ellipses"),
            max_bullet_lines_ratio=most("bullet_lines"),
            max_ellipsis_lines_ratio=most("ellipsis_lines"),
            max_non_alpha_words_ratio=least("alphabetic_words"),
            min_stop_words=None,
            language=words,
        ),
        C4QualityFilter(
            remove_citations=False,
            filter_no_terminal_punct=False,
            min_num_sentences=-1 if least("sentences") is None else int(least("sentences") or 0),
            min_words_per_line=-1,  # it divides at blanks: a line of Chinese is one word
            filter_lorem_ipsum="placeholder_text" in rules,
            filter_curly_bracket="braces" in rules,
            language=words,
        ),
        FineWebQualityFilter(
            line_punct_thr=-1.0 if least("punctuated_lines") is None else least("punctuated_lines"),
            short_line_thr=never,
            char_duplicates_ratio=_or(most("repeated_line_characters"), never),
            new_line_ratio=_or(most("newlines_per_word"), never),
            language=words,
        ),
    ]


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def verdicts(texts: list[str], rules: Mapping[str, Rule]) -> Iterator[tuple[str, list[bool]]]:
    """For every rule by itself, whether datatrove keeps each text."""
    from datatrove.data import Document

    words = tokenizer()
    for name, rule in rules.items():
        alone = filters({name: rule}, words)
        keeps = []
        for text in texts:
            document = Document(text=text, id="")
            keeps.append(all(_keeps(one, document) for one in alone))
        yield name, keeps


def _keeps(one: Any, document: Document) -> bool:
    """An empty text, or one without words, makes some of its filters divide by zero; the filters before them drop it."""
    try:
        verdict = one.filter(document)
    except ZeroDivisionError:
        return False
    return bool(verdict[0] if isinstance(verdict, tuple) else verdict)


def run(shards: Path, work: Path, rules: Mapping[str, Rule], shingle: int, bands: int, rows: int, workers: int) -> None:
    """Filters, MinHash in four stages, exact de-duplication; `work`/kept holds what stays."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    words = tokenizer()
    minhash = MinhashConfig(n_grams=shingle, num_buckets=bands, hashes_per_bucket=rows)
    exact = ExactDedupConfig(content_getter=_text)
    tasks = len(list(shards.glob("*.parquet")))

    def reader(folder: Path) -> Any:
        return ParquetReader(str(folder), read_metadata=False, glob_pattern="*.parquet")

    def writer(name: str) -> Any:
        return ParquetWriter(str(work / name), output_filename="${rank}.parquet")

    def execute(name: str, pipeline: list[Any], count: int) -> None:
        LocalPipelineExecutor(
            pipeline, tasks=count, workers=min(workers, count), logging_dir=str(work / "logs" / name)
        ).run()

    execute(
        "signatures",
        [
            reader(shards),
            *filters(rules, words),
            writer("filtered"),
            MinhashDedupSignature(str(work / "signatures"), config=minhash, language=words),
        ],
        tasks,
    )
    execute(
        "buckets",
        [MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=minhash, lines_to_buffer=_BUFFER)],
        bands,
    )
    execute(
        "clusters",
        [MinhashDedupCluster(str(work / "buckets"), str(work / "removals"), config=minhash, lines_to_buffer=_BUFFER)],
        1,
    )
    execute(
        "near",
        [
            reader(work / "filtered"),
            MinhashDedupFilter(str(work / "removals"), lines_to_buffer=_BUFFER),
            writer("near"),
            ExactDedupSignature(str(work / "exact"), config=exact),
        ],
        tasks,
    )
    execute(
        "twins",
        [ExactFindDedups(str(work / "exact"), str(work / "twins"), config=exact, lines_to_buffer=_BUFFER)],
        1,
    )
    execute("kept", [reader(work / "near"), ExactDedupFilter(str(work / "twins"), config=exact), writer("kept")], tasks)


def _text(document: Document) -> str:
    return str(document.text)


_text.__annotations__["return"] = str  # datatrove looks at the annotation itself, not at its name


def main() -> int:
    """The command line."""
    from loguru import logger

    from components.corpus.policy import load_policy

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.datatrove_race", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("shards", type=Path, help="folder of Parquet files with columns id and text, one a task")
    parser.add_argument("work", type=Path, help="folder that it may fill; what is in it goes")
    parser.add_argument("--policy", default="race", help="components/corpus/policies (default: %(default)s)")
    parser.add_argument("--shingle", type=int, default=3, help="words in an n-gram (default: %(default)s)")
    parser.add_argument("--bands", type=int, default=40, help="MinHash buckets (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=5, help="hashes a bucket (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    shutil.rmtree(arguments.work, ignore_errors=True)
    rules = load_policy(arguments.policy).rules
    run(
        arguments.shards,
        arguments.work,
        rules,
        arguments.shingle,
        arguments.bands,
        arguments.rows,
        arguments.workers,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
