"""Hyper-parameters for a shape and a number of tokens, carried over from one shape at which they were tuned.

Across widths: Muon's rate stays (its updates have a spectral norm fixed by the matrix' shape, the condition of Yang et al.
2023, arXiv 2310.17813), that of AdamW for the head falls as 1 / width and that of embeddings stays, as in muP (Yang et
al. 2022, arXiv 2203.03466). AdamW on matrices falls as 1 / width too; where it moves everything (`optimizer: adamw`) there
is one rate, with which that of embeddings falls. `python -m benchmarks.width_transfer` measures how far this holds.
Across tokens: the batch grows as tokens^0.571 (Li et al. 2025, "Step Law", arXiv 2503.04715), which does not depend on the
model, from a batch at which time, not tokens, was well spent: an optimizer step has its cost. Muon's rate falls as the root
of a batch that is smaller than that and stays for larger ones, where it has served unchanged up to half a million tokens.
Across passes over the same text: weight decay and dropout rise (`regularised`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from components.configuration import Pretrain


@dataclass(frozen=True)
class Tuned:
    """The shape and work at which the recipe was tuned (the Tang poems, docs/log.md), and what was found."""

    width: int = 256
    batch_tokens: int = 4096
    tokens: int = 2_500_000
    matrix_learning_rate: float = 0.03
    embedding_learning_rate: float = 0.2
    learning_rate: float = 0.01  # of AdamW beside Muon: head and norms
    adamw_learning_rate: float = 0.003  # of AdamW for everything, embeddings too
    weight_decay: float = 0.1
    warmup_share: float = 1 / 60
    decay_fraction: float = 0.6


TUNED = Tuned()
RATES = ("matrix_learning_rate", "embedding_learning_rate", "learning_rate")
BATCH_EXPONENT = 0.571
MICRO_TOKENS = 4096  # tokens a forward pass at most: more no longer makes a CPU faster, and takes memory
_SMALLEST_BATCH = 1024
_STEPS_OF_LITTLE = 32  # an epoch, where even the smallest batch is a large part of the corpus
_STEPS_AN_EPOCH = 8  # at least: with fewer, a batch is no sample of the corpus any more
_FRESH_PASSES, _STALE_PASSES = 4.0, 16.0  # repeated tokens are as good as fresh up to the first (arXiv 2305.16264)
_HIGHEST_DECAY, _HIGHEST_DROPOUT = 8.0, 0.1


def learning_rates(optimizer: str, width: int, batch_tokens: int = TUNED.batch_tokens) -> dict[str, float]:
    """Peak rates of `pretrain` for a model of that width."""
    narrow = TUNED.width / width
    small = min(1.0, sqrt(batch_tokens / TUNED.batch_tokens))
    base = TUNED.learning_rate if optimizer == "muon" else TUNED.adamw_learning_rate
    return {
        "matrix_learning_rate": round(TUNED.matrix_learning_rate * small, 7),
        "embedding_learning_rate": TUNED.embedding_learning_rate,
        "learning_rate": round(base * narrow, 7),
    }


def batches(block: int, unique: int) -> list[tuple[int, int]]:
    """(tokens of a batch, fewest tokens of a run it is for), both rising: rows of `block` in powers of two.

    Each serves the runs for which it is the nearest to the law. The second is a multiple of the first, so that a run
    whose tokens are cut to whole steps never has fewer when its budget grows.
    """
    largest = max(block, unique // _STEPS_AN_EPOCH)
    found: list[tuple[int, int]] = []
    rows = 1
    while rows * block <= largest:
        size = rows * block
        fewest = TUNED.tokens * (size / TUNED.batch_tokens / sqrt(2)) ** (1 / BATCH_EXPONENT)
        if size >= min(_SMALLEST_BATCH, unique // _STEPS_OF_LITTLE) or 2 * size > largest:
            found.append((size, round(fewest / size) * size if found else 0))
        rows *= 2
    return found


def batch_of(sizes: Sequence[tuple[int, int]], tokens: float) -> int:
    """Tokens of a batch of a run over so many, out of what `batches` found."""
    return max(size for size, fewest in sizes if fewest <= tokens)


def micro_batch(block: int, rows: int) -> int:
    """Rows a forward pass: a divisor of the `rows` of a batch."""
    micro = rows
    while micro * block > MICRO_TOKENS and micro % 2 == 0:
        micro //= 2
    return micro


def regularised(epochs: float) -> dict[str, float]:
    """Weight decay and dropout for so many passes over the same text."""
    stale = min(1.0, max(0.0, log(max(epochs, 1e-9) / _FRESH_PASSES) / log(_STALE_PASSES / _FRESH_PASSES)))
    return {
        "weight_decay": round(TUNED.weight_decay * _HIGHEST_DECAY**stale, 3),
        "residual_dropout": round(_HIGHEST_DROPOUT * stale, 3),
        "dropout": 0.0,
    }


def course(steps: int) -> dict[str, object]:
    """Warm-up, decay and how often a run of so many steps is looked at."""
    every = max(1, round(steps / 10))
    return {
        "warmup_steps": min(max(10, round(steps * TUNED.warmup_share)), steps // 4, 1000),
        "decay_fraction": TUNED.decay_fraction,
        "validation_every": every,
        "sample_every": every,
    }


def settings(
    parameters: Pretrain, *, batch_tokens: int, steps: int, unique: int, mean_tokens: float
) -> dict[str, object]:
    """All that follows from a shape (in `parameters`), a batch and a number of steps over `unique` tokens."""
    tokens = batch_tokens * steps
    return {
        **learning_rates(parameters.optimizer, parameters.hidden_size, batch_tokens),
        **regularised(tokens / unique),
        **course(steps),
        "validation_documents": _validation_documents(tokens, mean_tokens),
    }


def recipe(parameters: Pretrain, tokens: int, *, unique: int, mean_tokens: float) -> dict[str, object]:
    """Batch, steps and all that `settings` tells, of a run of that shape over about so many tokens, cut to whole batches."""
    size = batch_of(batches(parameters.block, unique), tokens)
    rows = size // parameters.block
    micro = micro_batch(parameters.block, rows)
    steps = max(1, tokens // size)
    return {
        "micro_batch": micro,
        "accumulation": rows // micro,
        "steps": steps,
        **settings(parameters, batch_tokens=size, steps=steps, unique=unique, mean_tokens=mean_tokens),
    }


def _validation_documents(tokens: int, mean_tokens: float) -> int:
    """So many that ten validations of a run cost about 3 % of it (a forward pass is a third of the work)."""
    return int(min(400, max(20, 0.03 * tokens * 3 / 10 / mean_tokens)))
