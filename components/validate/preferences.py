"""What must hold of preference pairs: of both answers, and of the documents they were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from components.corpus.conversations import PREFERENCES_FILE, preference_schema
from components.corpus.documents import TRAIN, batches
from components.validate.check import Contract, Suite
from components.validate.clean import add_text_checks
from components.validate.conversations import join_turns
from components.validate.reading import Columns, blank, controls, keys, markers, splits_of_documents

if TYPE_CHECKING:
    import pandas as pd

    from components.configuration import Validate
    from components.step import Context

_RERUN = "the align step is at fault or its output was edited: delete data/preferences and run `dvc repro align`"
_TURNS = "^(system )?user( assistant user)*$"
_MADE = "^(corrupted|sampled): .+"
_COLUMNS = "id split roles blank_turns blank_answers same made marker control document longer key"
_FEW_PAIRS = 20  # among fewer, one length may win by chance


def contract(context: Context) -> Contract:
    """The suite for `data/preferences`."""
    import pandas as pd

    rows = _frame(context)
    unequal = rows[rows["longer"] != 0]["longer"]
    longer = float((unequal > 0).mean()) if len(unequal) else 0.5
    figures = {
        "pairs": len(rows),
        "repeated_share": float(rows["key"].duplicated().mean()) if len(rows) else 0.0,
        "chosen_longer_share": longer,
        "lopsided": max(longer, 1 - longer) if len(unequal) >= _FEW_PAIRS else 0.5,
    }
    suite = _suite(longer, figures["repeated_share"], context.configuration.validate_)
    context.metrics.update({name: figures[name] for name in ("pairs", "repeated_share", "chosen_longer_share")})
    return Contract("preferences", "preference pairs", suite.checks, rows.drop(columns="key"), pd.DataFrame([figures]))


def _frame(context: Context) -> pd.DataFrame:
    """One row a pair.

    roles: the prompt's roles with blanks between; blank_turns, blank_answers: how many say nothing; same: 1 where the two
    answers are one; document: split of the pair's document, null where there is no such; longer: characters that the chosen
    answer has more than the rejected one.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    splits = splits_of_documents(context)
    table = Columns()
    path = context.inputs["preferences"] / PREFERENCES_FILE
    for batch in batches(path, preference_schema(), preference_schema().names):
        prompts, roles, blanks = join_turns(batch["prompt"])
        chosen, rejected = (pc.fill_null(batch[name], "") for name in ("chosen", "rejected"))
        texts = pc.binary_join_element_wise(prompts, chosen, rejected, pa.scalar("\n"))
        more = pc.subtract(pc.utf8_length(chosen), pc.utf8_length(rejected))
        table.add(
            id=batch["id"],
            roles=roles,
            blank_turns=blanks,
            blank_answers=blank(chosen).astype(int) + blank(rejected),
            same=pc.equal(chosen, rejected).cast("int8").to_numpy(zero_copy_only=False),
            made=batch["made"],
            marker=markers(texts),
            control=controls(texts),
            document=splits.reindex(batch["document_id"].to_pandas()).to_numpy(),
            longer=more.to_numpy().astype(np.int64),
            key=keys(texts),
        )
    rows = table.frame()
    return rows if rows.columns.size else pd.DataFrame({name: [] for name in _COLUMNS.split()})


def _suite(longer: float, repeated: float, validate: Validate) -> Suite:
    import great_expectations.expectations as gx

    suite = Suite(validate)
    suite.add("preferences_enough", gx.ExpectColumnMaxToBeBetween, "There are pairs", "at least 2", "raise align.pairs",
        table="figures", column="pairs", min_value=2)  # fmt: skip
    suite.add(
        "preferences_unique_ids", gx.ExpectColumnValuesToBeUnique, "Ids are unique", "no id twice", _RERUN, column="id"
    )
    suite.add("preferences_roles", gx.ExpectColumnValuesToMatchRegex, "The prompt ends with a user's turn",
        "a system's turn at most at the beginning, then user and assistant by turns", _RERUN, column="roles", regex=_TURNS)  # fmt: skip
    suite.add("preferences_turns", gx.ExpectColumnValuesToBeInSet, "Every turn of the prompt says something", "no empty turn",
        _RERUN, column="blank_turns", value_set=[0])  # fmt: skip
    suite.add("preferences_answers", gx.ExpectColumnValuesToBeInSet, "Both answers say something", "none empty", _RERUN,
        column="blank_answers", value_set=[0])  # fmt: skip
    suite.add("preferences_differ", gx.ExpectColumnValuesToBeInSet, "The two answers differ", "no pair of equals", _RERUN,
        column="same", value_set=[0])  # fmt: skip
    suite.add("preferences_made", gx.ExpectColumnValuesToMatchRegex, "Every pair says how its rejected answer came about",
        "corrupted: ... or sampled: ...", _RERUN, column="made", regex=_MADE)  # fmt: skip
    add_text_checks(suite, "preferences", "pair", _RERUN)
    suite.add("preferences_documents", gx.ExpectColumnValuesToNotBeNull, "Every pair was made of a clean document", "none without",
        _RERUN, column="document")  # fmt: skip
    suite.add("preferences_splits", gx.ExpectColumnValuesToBeInSet, "No held-out document is trained on", TRAIN, _RERUN,
        column="document", value_set=[TRAIN])  # fmt: skip
    most = validate.maximum_length_preference
    suite.add("preferences_length", gx.ExpectColumnMaxToBeBetween, "Length alone does not tell the chosen answer",
        f"the longer one, or the shorter one, is chosen in at most {most:.0%} of the pairs",
        "set align.rejected: both, or raise validate.maximum_length_preference", table="figures",
        found=f"the longer one in {longer:.1%}", column="lopsided", min_value=0, max_value=most)  # fmt: skip
    suite.add("preferences_repeated", gx.ExpectColumnMaxToBeBetween, "Few pairs repeat an earlier one",
        f"at most {validate.maximum_repeated_share:.0%}", "lower align.pairs or raise validate.maximum_repeated_share",
        table="figures", found=f"{repeated:.1%}", column="repeated_share", min_value=0, max_value=validate.maximum_repeated_share)  # fmt: skip
    return suite
