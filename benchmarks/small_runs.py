"""Small pretrainings for benchmarks: each by the step's own command line, once; a killed benchmark goes on where it was.

All share the training split of the workspace's `data/tokens` and a part of its validation split: scoring all of it would
take longer than a small training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_folder
from components.errors import InkwellError
from flows.experiments.proxy import Bench

if TYPE_CHECKING:
    from components.corpus.packed import TokenShards

_QUIET = {
    "tracking.enabled": False,
    "pretrain.dial": {"minutes": None, "parameters": None, "keep": []},
    "pretrain.checkpoints.minutes": 60,
    "pretrain.validation_every": 1_000_000,
    "pretrain.validation_documents": 1,
    "pretrain.sample_every": 1_000_000,
}


class SmallRuns:
    """Runs below `.inkwell/benchmarks/<name>` of a workspace that has been tokenized."""

    def __init__(self, workspace: Path, name: str, validation_documents: int = 300) -> None:
        tokens = workspace / "data" / "tokens"
        if not (tokens / "meta.json").exists() or not (workspace / "models" / "tokenizer").exists():
            raise InkwellError(
                f"{workspace} has no data/tokens and models/tokenizer: run `dvc repro tokenize` there first, or give --workspace."
            )
        self._bench = Bench(workspace)
        self._folder = Path(".inkwell") / "benchmarks" / name
        self._source = tokens
        self._validation = validation_documents

    def train(
        self, label: str, parameters: Mapping[str, Any], *, seed: int, train_tokens: int | None = None
    ) -> dict[str, float]:
        """The metrics of a pretraining with these parameters of `pretrain`, trained now or in an earlier run.

        train_tokens: see only so many tokens of the corpus, the same documents whatever the seed.
        """
        tokens = self._tokens(train_tokens)
        place = self._folder / label
        values = {**_QUIET, **{f"pretrain.{name}": value for name, value in parameters.items()}, "seed": seed}
        return self._bench.step(
            "pretrain",
            {"tokens": tokens},
            {"model": place / "model", "curve": place / "curve.csv", "samples": place / "samples.jsonl"},
            [f"{name}={_yaml(value)}" for name, value in values.items()],
            label,
        )

    def shards(self, split: str, train_tokens: int | None = None) -> TokenShards:
        """What the runs read."""
        from components.corpus.packed import TokenShards

        return TokenShards(self._bench.folder / self._tokens(train_tokens), split)

    def _tokens(self, train_tokens: int | None) -> Path:
        import numpy as np

        from components.corpus.packed import META, ShardWriter, TokenShards, token_type, write_meta

        place = self._folder / ("tokens" if train_tokens is None else f"tokens-{train_tokens}")
        folder = self._bench.folder / place
        train, validation = TokenShards(self._source, "train"), TokenShards(self._source, "validation")
        if train_tokens is not None and train_tokens > train.tokens:
            raise InkwellError(
                f"{self._source} has {train.tokens:,} training tokens, and {train_tokens:,} were asked for."
            )
        origin = folder / "origin"
        if origin.exists() and origin.read_text() == train.fingerprint + validation.fingerprint:
            return place
        shutil.rmtree(folder, ignore_errors=True)
        order = np.random.default_rng(0).permutation(len(train))
        sizes = np.cumsum(train.lengths[order])
        taken = len(order) if train_tokens is None else int(np.searchsorted(sizes, train_tokens)) + 1
        shown = np.unique(np.linspace(0, len(validation) - 1, min(self._validation, len(validation))).astype(int))
        with atomic_folder(folder) as temporary:
            splits = {}
            for name, shards, picked in (("train", train, np.sort(order[:taken])), ("validation", validation, shown)):
                characters = shards.characters / shards.tokens  # of a token, on average: exact counts are in the texts
                writer = ShardWriter(temporary, name, token_type(shards.vocabulary), 100_000_000)
                for index in picked:
                    document = shards.document(int(index))
                    writer.add(document, round(len(document) * characters))
                splits[name] = writer.close()
            write_meta(temporary, train.vocabulary, train.tokenizer_sha256, splits)
            assert (temporary / META).exists()
            (temporary / "origin").write_text(train.fingerprint + validation.fingerprint)
        return place


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value)
