"""The clean step: tagged documents in; clean ones, removed ones, a sample to read and a summary out; the books must balance.

Nothing is measured here, so a change of a threshold costs seconds: what was measured is in `data/tagged`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from components.atomic import atomic_folder
from components.clean.books import Books
from components.clean.duplicates import drop_duplicates, preference
from components.clean.leakage import drop_resembling
from components.clean.mixture import apply_mixture, drop_unread
from components.clean.passages import drop_repeated, lengths
from components.clean.quota import apply_quota
from components.clean.reasons import Reasons, parameter
from components.clean.review import sample
from components.clean.rules import apply_rules, keep_noise
from components.clean.split import Split
from components.clean.tables import write_tables
from components.clean.tagged import Labels, Tagged, open_tagged
from components.clean.verdicts import Verdicts
from components.corpus.documents import TRAIN, VALIDATION
from components.corpus.policy import Policy, load_policy
from components.errors import InkwellError
from components.model.kneser_ney import bits_per_character

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.configuration import Clean
    from components.step import Context


def run(context: Context) -> None:
    """Write `documents.parquet`, `removed.parquet`, `review.jsonl` and `summary.json` into the output folder, atomically."""
    settings = context.configuration.clean
    policy = load_policy(settings.policy).changed(settings.rules)
    tagged = open_tagged(context.inputs["tagged"])
    floor = tagged.summary["floor"]
    if settings.jaccard < floor:
        raise InkwellError(
            f"clean.jaccard = {settings.jaccard} is below tag.duplicates.floor = {floor}: pairs less similar than that were not recorded; "
            "raise the one or lower the other."
        )
    noise_draws, mixture_draws = _draws(tagged, context.seed)
    split = Split(tagged, settings.validation_fraction, context.seed)
    verdicts = Verdicts(len(tagged))
    apply_rules(tagged, policy, settings, verdicts)
    # Noise is for training alone: nothing is measured by it.
    trained_on = split.train(np.arange(len(tagged)))
    noise = keep_noise(verdicts, settings, policy, np.where(trained_on, noise_draws, 1.0))
    drop_unread(tagged, settings, verdicts)
    drop_repeated(tagged, settings, policy, verdicts)
    order = preference(tagged, settings, noise >= 0)
    drop_duplicates(tagged, settings, verdicts, order)
    apply_quota(tagged, settings, verdicts)
    repeats, factors = apply_mixture(tagged, settings, verdicts, mixture_draws, order)
    _check_any_left(tagged, verdicts, policy, settings)
    noisy = np.unique(tagged.cluster[verdicts.kept & (noise >= 0)])
    train = split.train(np.flatnonzero(verdicts.kept & ~np.isin(tagged.cluster, noisy)))
    leaking = drop_resembling(tagged, settings, verdicts, train, order)
    repeats[~train] = 1  # an epoch's proportions are no business of validation
    of_clusters = verdicts.kept | verdicts.removed_by("exact_duplicate", "near_duplicate")
    sizes = np.bincount(tagged.cluster[of_clusters], minlength=len(tagged))
    reasons = Reasons(tagged, verdicts, policy, settings)
    books = Books(_every(tagged, settings, verdicts, train))
    with atomic_folder(context.outputs["clean"]) as folder:
        written = write_tables(folder, tagged, settings, verdicts, reasons, train, repeats, noise, sizes, books)
        if written != (int(verdicts.kept.sum()), int((~verdicts.kept).sum())) or sum(written) != len(tagged):
            raise AssertionError(f"{len(tagged)} documents in, {written[0]} kept and {written[1]} dropped were written")
        print(
            f"  {written[0]:,} of {len(tagged):,} documents kept, {books.documents[VALIDATION]:,} of them held out; scoring a Kneser-Ney model",
            flush=True,
        )
        bar_to_beat = bits_per_character(books.counted, books.held_out, settings.kneser_ney_order)
        context.metrics.update(
            {
                "documents_in": len(tagged),
                "documents_kept": written[0],
                "documents_dropped": written[1],
                **{f"dropped_{rule}": count for rule, count in verdicts.counts().items()},
                "kept_as_noise": int((noise[verdicts.kept] >= 0).sum()),
                **books.figures(),
                "held_out_resembling_training": leaking,
                "kneser_ney_bits_per_char": bar_to_beat,
                "kneser_ney_order": settings.kneser_ney_order,
                "kneser_ney_characters": sum(map(len, books.counted)),
            }
        )
        with (folder / "review.jsonl").open("w", encoding="utf-8") as lines:
            for row in sample(tagged, verdicts, policy, reasons, settings.review_sample, noise_draws):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        summary = {
            "metrics": dict(context.metrics),
            "policy": {"name": policy.name, "summary": policy.summary, "rules": _described(policy, tagged)},
            "parameters": {name: parameter(name) for name in verdicts.names},
            "by_source": _by(tagged.source, verdicts, repeats),
            "by_language": _by(tagged.language, verdicts, repeats),
            "by_topic": _by(_topics(tagged), verdicts, repeats),
            "read_per_epoch": factors,
            "cluster_size_histogram": sorted(map(list, Counter(sizes[sizes > 0].tolist()).items())),
            "characters_taken_out": tagged.summary.get("taken_out", {}),
            **books.summary(),
        }
        (folder / "summary.json").write_text(
            json.dumps(summary, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
    context.recorder.dataset("clean", context.outputs["clean"] / "documents.parquet", "training")


def _draws(tagged: Tagged, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two numbers in [0, 1) for each document, that depend on nothing but the seed and its id."""
    prefix = hashlib.blake2b(f"{seed}:".encode(), digest_size=16)
    digests = bytearray()
    for name in tagged.names_of(np.arange(len(tagged))):
        digest = prefix.copy()
        digest.update(name.encode())
        digests += digest.digest()
    both = np.frombuffer(digests, dtype="<u8").reshape(-1, 2) >> np.uint64(11)
    numbers = both.astype(np.float64) / 2**53
    return numbers[:, 0], numbers[:, 1]


def _check_any_left(tagged: Tagged, verdicts: Verdicts, policy: Policy, settings: Clean) -> None:
    if verdicts.kept.any():
        return
    rule, count = max(verdicts.counts().items(), key=lambda item: item[1])
    row = int(np.flatnonzero(verdicts.rule == verdicts.names.index(rule))[0])
    moves = parameter(rule)
    mend = f"change {moves}" if moves else "give sources that hold text"
    reason = Reasons(tagged, verdicts, policy, settings).of(row)
    raise InkwellError(
        f"all {len(tagged)} documents of {tagged.path} were dropped, {count} of them by the rule {rule} "
        f"(for example {tagged.id(row)}: {reason}): {mend}."
    )


def _every(tagged: Tagged, settings: Clean, verdicts: Verdicts, train: NDArray[np.bool_]) -> dict[str, int]:
    """By split: every k-th document is for the n-gram model, so that they hold about as many characters as it may read."""
    limit = settings.kneser_ney_characters
    characters = lengths(tagged, settings)
    sides = {TRAIN: verdicts.kept & train, VALIDATION: verdicts.kept & ~train}
    return {
        split: 1 if limit is None else max(1, int(-(-float(characters[side].sum()) // limit)))
        for split, side in sides.items()
    }


def _described(policy: Policy, tagged: Tagged) -> dict[str, Any]:
    """The bounds by language, as they were in force."""
    return {
        language: {
            name: {"statistic": rule.statistic, "minimum": rule.minimum, "maximum": rule.maximum}
            for name, rule in policy.for_language(language).items()
        }
        for language in tagged.language.names
    }


def _by(labels: Labels, verdicts: Verdicts, repeats: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """For each label: documents kept, documents read an epoch, and documents that each rule dropped."""
    size = len(labels.names)
    kept = np.bincount(labels.numbers[verdicts.kept], minlength=size)
    read = np.bincount(labels.numbers[verdicts.kept], weights=repeats[verdicts.kept], minlength=size)
    found = {name: {"kept": int(kept[number]), "read": int(read[number])} for number, name in enumerate(labels.names)}
    for number, rule in enumerate(verdicts.names):
        counts = np.bincount(labels.numbers[verdicts.rule == number], minlength=size)
        for position in np.flatnonzero(counts):
            found[labels.names[position]][f"dropped_{rule}"] = int(counts[position])
    return found


def _topics(tagged: Tagged) -> Labels:
    topics, numbers = np.unique(tagged.topic, return_inverse=True)
    return Labels([str(topic) for topic in topics.tolist()], numbers)
