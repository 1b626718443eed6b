"""What must hold of clean documents: of each one, of the split, and of what cleaning dropped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.documents import TRAIN, VALIDATION, batches, clean_schema, read_table, removed_schema
from components.corpus.tagged_documents import tagged_schema
from components.errors import InkwellError
from components.validate.check import Contract, Suite
from components.validate.reading import Columns, controls, keys, lengths, markers, sides

if TYPE_CHECKING:
    import pandas as pd

    from components.configuration import Configuration
    from components.step import Context

_RERUN = "the clean step is at fault or its output was edited: delete data/clean and run `dvc repro validate`"
_PRESENT = ("id", "text", "content", "cluster", "split", "language", "repeats", "topic")


def contract(context: Context) -> Contract:
    """The suite for `data/clean`; InkwellError where it holds no documents."""
    folder = context.inputs["clean"]
    rows = frame(folder / "documents.parquet")
    if not len(rows):
        raise InkwellError(
            f"{folder / 'documents.parquet'} holds no documents: look at data/clean/removed.parquet and loosen `clean`."
        )
    removed = len(read_table(folder / "removed.parquet", removed_schema(), ["id"]))
    read = len(read_table(context.inputs["tagged"] / "documents.parquet", tagged_schema(), ["id"]))
    figures = _figures(rows, removed, read)
    suite = _suite(len(rows), read, removed, float(rows["held_out"].mean()), context.configuration)
    context.metrics.update(
        {
            "documents": len(rows),
            "characters": int(rows["characters"].sum()),
            "dropped_share": removed / max(1, read),
            "validation_share": float(rows["held_out"].mean()),
        }
    )
    return Contract("clean", "clean documents", suite.checks, rows, figures)


def frame(documents: Path) -> pd.DataFrame:
    """One row a document: what is checked, without the texts.

    characters: of the content; held_out: 1 where a document is in validation; cluster_sides, content_sides: how many
    splits the cluster, and the very same content, appear in; marker, control: the passage around the first special
    marker or control character; missing: columns that are null; unequal_repeats: repeats of a held-out document.
    """
    table = Columns()
    columns = [*_PRESENT, "script", "provenance"]
    for batch in batches(documents, clean_schema(), columns):
        content = batch["content"]
        nulls = np.stack([batch[name].is_null().to_numpy(zero_copy_only=False) for name in _PRESENT])
        missing: list[str | None] = [None] * len(batch)
        for row in np.flatnonzero(nulls.any(axis=0)):
            missing[int(row)] = ", ".join(name for name, null in zip(_PRESENT, nulls[:, row], strict=True) if null)
        table.add(
            id=batch["id"],
            split=batch["split"],
            language=batch["language"],
            script=batch["script"],
            source=batch["provenance"].field("source"),
            topic=batch["topic"].cast("float64"),
            repeats=batch["repeats"].cast("float64"),
            characters=lengths(content),
            marker=markers(content),
            control=controls(content),
            missing=missing,
            cluster_key=keys(batch["cluster"]),
            content_key=keys(content),
        )
    rows = table.frame()
    if len(rows):
        rows["held_out"] = (rows["split"] == VALIDATION).astype(int)
        rows["cluster_sides"] = sides(rows.pop("cluster_key").to_numpy(), rows["split"])
        rows["content_sides"] = sides(rows.pop("content_key").to_numpy(), rows["split"])
        rows["repeats_held_out"] = rows["repeats"].where(rows["held_out"] == 1, 1.0)
    return rows


def _figures(rows: pd.DataFrame, removed: int, read: int) -> pd.DataFrame:
    import pandas as pd

    share = removed / max(1, read)
    return pd.DataFrame([{"dropped_share": share, "unaccounted": float(read - removed - len(rows))}])


def share_bounds(documents: int, fraction: float, tolerance: float) -> tuple[float, float]:
    """Between which values the held-out share may lie: `tolerance` relative to `fraction`, and never less room than chance needs.

    Clusters fall to validation independently, so the share of n documents scatters by sqrt(f (1 - f) / n); four times that is
    always allowed. At least one document must be held out, and one left to train on.
    """
    chance = 4 * math.sqrt(fraction * (1 - fraction) / max(1, documents))
    room = max(tolerance * fraction, chance)
    one = 1 / max(1, documents)
    return max(one, fraction - room), min(1 - one, max(fraction + room, one))


def _suite(documents: int, read: int, removed: int, held_out: float, configuration: Configuration) -> Suite:
    import great_expectations.expectations as gx

    clean, validate = configuration.clean, configuration.validate_
    suite = Suite(validate)
    low, high = share_bounds(documents, clean.validation_fraction, validate.validation_share_tolerance)
    smallest, fewest = validate.minimum_documents, validate.minimum_characters
    suite.add("clean_documents", gx.ExpectTableRowCountToBeBetween, "There are enough documents", f"at least {smallest:,}",
        "add documents, cut long ones with tag.maximum_characters, or lower validate.minimum_documents", min_value=smallest)  # fmt: skip
    suite.add("clean_characters", gx.ExpectColumnSumToBeBetween, "There is enough text", f"at least {fewest:,} characters in all",
        "add text or lower validate.minimum_characters", column="characters", min_value=fewest)  # fmt: skip
    suite.add("clean_document_characters", gx.ExpectColumnValuesToBeBetween, "No document is empty or too long",
        f"1 to {validate.maximum_document_characters:,} characters",
        "set tag.maximum_characters or raise validate.maximum_document_characters",
        column="characters", min_value=1, max_value=validate.maximum_document_characters)  # fmt: skip
    suite.add("clean_dropped_share", gx.ExpectColumnMaxToBeBetween, "Cleaning did not drop too much",
        f"at most {validate.maximum_dropped_share:.0%} of the documents",
        "look into data/clean/removed.parquet, loosen the rule of `clean` that dropped most, or raise validate.maximum_dropped_share",
        table="figures", found=f"{removed / max(1, read):.1%}", column="dropped_share", min_value=0.0, max_value=validate.maximum_dropped_share)  # fmt: skip
    suite.add("clean_counts", gx.ExpectColumnMaxToBeBetween, "Every document that was read was kept or dropped",
        f"kept + dropped = {read:,} read", _RERUN, table="figures",
        found=f"{documents:,} kept + {removed:,} dropped = {documents + removed:,}",
        column="unaccounted", min_value=0, max_value=0)  # fmt: skip
    suite.add("clean_validation_share", gx.ExpectColumnMeanToBeBetween, "The share of held-out documents is as asked for",
        f"{low:.2%} to {high:.2%}",
        "change clean.validation_fraction or seed, or raise validate.validation_share_tolerance",
        found=f"{held_out:.2%}", column="held_out", min_value=low, max_value=high)  # fmt: skip
    suite.add("clean_split_values", gx.ExpectColumnValuesToBeInSet, "Every document is in one split", f"{TRAIN} or {VALIDATION}",
        _RERUN, column="split", value_set=[TRAIN, VALIDATION])  # fmt: skip
    suite.add("clean_unique_ids", gx.ExpectColumnValuesToBeUnique, "Ids are unique", "no id twice", _RERUN, column="id")
    suite.add("clean_present", gx.ExpectColumnValuesToBeNull, f"Every document has its {', '.join(_PRESENT)}", "no nulls",
        _RERUN, column="missing")  # fmt: skip
    suite.add("clean_clusters_undivided", gx.ExpectColumnValuesToBeInSet, "Near duplicates are on one side of the split",
        "1 split a cluster", _RERUN, column="cluster_sides", value_set=[1])  # fmt: skip
    suite.add("clean_no_leak", gx.ExpectColumnValuesToBeInSet, "No held-out text is trained on word for word", "1 split a text",
        "let clean.template hold more than {text}, or drop duplicates (clean.exact_duplicates: true)",
        column="content_sides", value_set=[1])  # fmt: skip
    add_text_checks(suite, "clean", "text", _RERUN)
    _add_tags(suite, configuration)
    return suite


def _add_tags(suite: Suite, configuration: Configuration) -> None:
    """What the tags of kept documents must be."""
    import great_expectations.expectations as gx

    languages, topics = configuration.clean.languages, configuration.tag.topics.clusters
    asked: dict[str, Any] = {"value_set": languages} if languages else {"regex": r"^[a-z]{2,3}$"}
    suite.add("clean_languages", gx.ExpectColumnValuesToBeInSet if languages else gx.ExpectColumnValuesToMatchRegex,
        "Every document is in a language that was asked for", ", ".join(languages) if languages else "any, by its ISO 639 code",
        f"change clean.languages; else {_RERUN}", column="language", **asked)  # fmt: skip
    suite.add("clean_repeats", gx.ExpectColumnValuesToBeBetween, "Every document is read at least once an epoch", "1 or more",
        _RERUN, column="repeats", min_value=1)  # fmt: skip
    suite.add("clean_held_out_once", gx.ExpectColumnValuesToBeInSet, "Held-out documents are read once", "1", _RERUN,
        column="repeats_held_out", value_set=[1])  # fmt: skip
    suite.add("clean_topics", gx.ExpectColumnValuesToBeBetween, "Topics are those that tag found",
        f"-1 (none) to {topics - 1}", _RERUN, column="topic", min_value=-1, max_value=topics - 1)  # fmt: skip


def add_text_checks(suite: Suite, contract: str, what: str, mend: str) -> None:
    """Expectations on the columns `marker` and `control`, the same for documents, conversations and pairs."""
    import great_expectations.expectations as gx

    from components.chat.markup import SPECIAL_TEXTS

    suite.add(f"{contract}_no_markers", gx.ExpectColumnValuesToBeNull, f"No {what} holds a special marker of the tokenizer",
        "none of " + " ".join(SPECIAL_TEXTS), mend, column="marker")  # fmt: skip
    suite.add(f"{contract}_no_control_characters", gx.ExpectColumnValuesToBeNull, f"No {what} holds control characters",
        "none but tabs and line ends", mend, column="control")  # fmt: skip
