"""What must hold of conversations: of their turns, and of the documents they were made of."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from components.corpus.conversations import CONVERSATIONS_FILE, KINDS, REFUSAL, WHO_WROTE, conversation_schema
from components.corpus.documents import TRAIN, VALIDATION, batches
from components.validate.check import Contract, Suite
from components.validate.clean import add_text_checks
from components.validate.reading import (
    Columns,
    blank,
    controls,
    keys,
    lengths,
    markers,
    sides,
    splits_of_documents,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

    from components.configuration import Configuration
    from components.step import Context

_RERUN = "the instruct step is at fault or its output was edited: delete data/instruct and run `dvc repro instruct`"
# A conversation may open with a system's turn; then a user and an assistant speak by turns, the assistant last.
_TURNS = "^(system )?user assistant( user assistant)*$"


def contract(context: Context) -> Contract:
    """The suite for `data/instruct`."""
    import pandas as pd

    rows = _frame(context)
    train = rows[rows["split"] == TRAIN]
    figures = {
        "train": len(train),
        "held_out": int((rows["split"] == VALIDATION).sum()),
        "repeated_share": float(rows["key"].duplicated().mean()) if len(rows) else 0.0,
        "kinds_absent": len(_absent(train["kind"], context.configuration)),
    }
    suite = _suite(figures, _absent(train["kind"], context.configuration), context.configuration)
    context.metrics.update(
        {
            "conversations": len(rows),
            "conversations_train": figures["train"],
            "conversations_validation": figures["held_out"],
            "repeated_share": figures["repeated_share"],
        }
    )
    return Contract("conversations", "conversations", suite.checks, rows.drop(columns="key"), pd.DataFrame([figures]))


def _frame(context: Context) -> pd.DataFrame:
    """One row a conversation.

    roles: the turns' roles with blanks between; blank_turns: turns that say nothing; answer: characters of the
    last turn; document: split of its document, null where there is no such; same_split: 1 where that is its own;
    repeated_sides: in how many splits the very same turns appear.
    """
    splits = splits_of_documents(context)
    table = Columns()
    path = context.inputs["instruct"] / CONVERSATIONS_FILE
    names = conversation_schema().names
    for batch in batches(path, conversation_schema(), names):
        texts, roles, blanks = join_turns(batch["messages"])
        last = last_turns(batch["messages"])
        table.add(
            id=batch["id"],
            kind=batch["kind"],
            split=batch["split"],
            roles=roles,
            blank_turns=blanks,
            answer=lengths(last),
            marker=markers(texts),
            control=controls(texts),
            key=keys(texts),
            document=splits.reindex(batch["document_id"].to_pandas()).to_numpy(),
        )
    rows = table.frame()
    if not rows.columns.size:
        return table_of_none()
    rows["same_split"] = ((rows["document"] == rows["split"]) | rows["document"].isna()).astype(int)
    rows["repeated_sides"] = sides(rows["key"].to_numpy(), rows["split"])
    return rows


def table_of_none() -> pd.DataFrame:
    """The frame of a file without rows."""
    import pandas as pd

    names = "id kind split roles blank_turns answer marker control key document same_split repeated_sides"
    return pd.DataFrame({name: [] for name in names.split()})


def join_turns(messages: pa.Array) -> tuple[pa.Array, list[str], list[int]]:
    """Of each conversation: its turns as one text, its roles in a row, and how many turns say nothing."""
    import numpy as np
    import pyarrow as pa

    flat = messages.flatten()
    counts = [0 if n is None else n for n in messages.value_lengths().to_pylist()]
    ends = np.cumsum([0, *counts])
    roles, contents = (flat.field(name).to_pylist() for name in ("role", "content"))
    empty = blank(flat.field("content"))
    spans = list(pairwise(ends))
    texts = ["\n".join(text or "" for text in contents[a:b]) for a, b in spans]
    return (
        pa.array(texts, pa.string()),
        [" ".join(role or "?" for role in roles[a:b]) for a, b in spans],
        [int(empty[a:b].sum()) for a, b in spans],
    )


def last_turns(messages: pa.Array) -> pa.Array:
    """The content of each conversation's last turn, null where there is none."""
    import pyarrow as pa

    return pa.array([turns[-1]["content"] if turns else None for turns in messages.to_pylist()], pa.string())


def _absent(kinds: pd.Series[str], configuration: Configuration) -> list[str]:
    """Kinds with a weight of which there is no conversation; a refusal stands for a question about an author."""
    settings = configuration.instruct
    weights = {
        "write": settings.write,
        "write_in_style": settings.write_in_style,
        "continue": settings.continue_text,
        WHO_WROTE: settings.who_wrote,
    }
    found = {WHO_WROTE if kind == REFUSAL else kind for kind in kinds.unique()}
    return [kind for kind, weight in weights.items() if weight > 0 and kind not in found]


def _suite(figures: dict[str, float], absent: Sequence[str], configuration: Configuration) -> Suite:
    import great_expectations.expectations as gx

    validate, repeated = configuration.validate_, figures["repeated_share"]
    suite = Suite(validate)
    suite.add("conversations_enough", gx.ExpectColumnMaxToBeBetween, "There are enough conversations to train on",
        f"at least {validate.minimum_conversations:,}",
        "raise instruct.conversations_per_document, add documents, or lower validate.minimum_conversations",
        table="figures", column="train", min_value=validate.minimum_conversations)  # fmt: skip
    suite.add("conversations_held_out", gx.ExpectColumnMaxToBeBetween, "Some conversations are held out", "at least 1",
        "raise instruct.conversations_per_document or clean.validation_fraction", table="figures", column="held_out", min_value=1)  # fmt: skip
    suite.add(
        "conversations_unique_ids",
        gx.ExpectColumnValuesToBeUnique,
        "Ids are unique",
        "no id twice",
        _RERUN,
        column="id",
    )
    suite.add("conversations_kinds", gx.ExpectColumnValuesToBeInSet, "Every conversation is of a known kind", ", ".join(KINDS),
        _RERUN, column="kind", value_set=list(KINDS))  # fmt: skip
    suite.add("conversations_kinds_present", gx.ExpectColumnMaxToBeBetween, "Every kind that has a weight occurs in training",
        "none without", "the documents have no such field (title, author): set the kind's weight under instruct to 0",
        table="figures", found=", ".join(absent) or "none without", column="kinds_absent", min_value=0, max_value=0)  # fmt: skip
    suite.add("conversations_roles", gx.ExpectColumnValuesToMatchRegex, "A user and an assistant speak by turns",
        "a system's turn at most at the beginning, the assistant last", _RERUN, column="roles", regex=_TURNS)  # fmt: skip
    suite.add("conversations_turns", gx.ExpectColumnValuesToBeInSet, "Every turn says something", "no empty turn",
        _RERUN, column="blank_turns", value_set=[0])  # fmt: skip
    suite.add("conversations_lengths", gx.ExpectColumnValuesToBeBetween, "No answer is empty or too long",
        f"1 to {validate.maximum_document_characters:,} characters",
        "lower instruct.maximum_characters or raise validate.maximum_document_characters",
        column="answer", min_value=1, max_value=validate.maximum_document_characters)  # fmt: skip
    add_text_checks(suite, "conversations", "conversation", _RERUN)
    suite.add("conversations_documents", gx.ExpectColumnValuesToNotBeNull, "Every conversation was made of a clean document",
        "none without", _RERUN, column="document")  # fmt: skip
    suite.add("conversations_splits", gx.ExpectColumnValuesToBeInSet, "Every conversation is in its document's split",
        "the same", _RERUN, column="same_split", value_set=[1])  # fmt: skip
    suite.add("conversations_no_leak", gx.ExpectColumnValuesToBeInSet, "No held-out conversation is trained on word for word",
        "1 split a conversation", "drop near duplicates (clean.near_duplicates: true), or show more of a text (instruct.maximum_characters)",
        column="repeated_sides", value_set=[1])  # fmt: skip
    suite.add("conversations_repeated", gx.ExpectColumnMaxToBeBetween, "Few conversations repeat an earlier one",
        f"at most {validate.maximum_repeated_share:.0%}",
        "lower instruct.conversations_per_document or raise validate.maximum_repeated_share",
        table="figures", found=f"{repeated:.1%}", column="repeated_share", min_value=0, max_value=validate.maximum_repeated_share)  # fmt: skip
    return suite
