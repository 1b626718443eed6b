"""What must hold of raw documents, before anything is measured or dropped."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.documents import batches, raw_schema
from components.validate.check import Contract, Suite
from components.validate.reading import Columns, lengths, wordless

if TYPE_CHECKING:
    import pandas as pd

    from components.step import Context

_INGEST = "the ingest step is at fault or its output was edited: delete data/raw and run `dvc repro ingest`"
_NOTHING_READ = "\ufffd"  # what a decoder writes for bytes that it cannot read


def contract(context: Context) -> Contract:
    """The suite for `data/raw`: the corpus, and the files of the other roles where there are such."""
    import great_expectations.expectations as gx

    configuration = context.configuration
    folder, validate = context.inputs["raw"], configuration.validate_
    rows = _frame(folder)
    figures, shares = _figures(rows, [source.name for source in configuration.ingest.sources])
    suite = Suite(validate)
    names = [source.name for source in configuration.ingest.sources]
    suite.add("raw_documents", gx.ExpectColumnMaxToBeBetween, "There are documents", "at least 1",
        "look at ingest.sources: what they name holds no text", table="figures", column="documents", min_value=1)  # fmt: skip
    suite.add("raw_ids", gx.ExpectColumnValuesToNotBeNull, "Every document has an id", "no nulls", _INGEST, column="id")
    suite.add("raw_unique_ids", gx.ExpectColumnValuesToBeUnique, "Ids are unique over all roles", "no id twice",
        f"give two sources of ingest.sources two names; else {_INGEST}", column="id")  # fmt: skip
    suite.add("raw_text", gx.ExpectColumnValuesToNotBeNull, "Every document has a text", "no nulls", _INGEST,
        column="characters")  # fmt: skip
    suite.add("raw_not_blank", gx.ExpectColumnMeanToBeBetween, "Few texts are blank",
        f"at most {validate.maximum_blank_share:.0%} without a letter or digit",
        "look at text_field, format and encoding of the source, or raise validate.maximum_blank_share",
        found=f"{rows['blank'].mean():.2%}", column="blank", min_value=0, max_value=validate.maximum_blank_share)  # fmt: skip
    suite.add("raw_readable", gx.ExpectColumnMeanToBeBetween, "Few texts hold U+FFFD, the mark of bytes that could not be read",
        "at most 1%", "set the encoding of the source (ingest.sources[].encoding)",
        found=f"{rows['undecoded'].mean():.2%}", column="undecoded", min_value=0, max_value=0.01)  # fmt: skip
    suite.add("raw_source", gx.ExpectColumnValuesToBeInSet, "Every document comes from a source of ingest.sources",
        " | ".join(names), _INGEST, column="source", value_set=names)  # fmt: skip
    suite.add("raw_origin", gx.ExpectColumnValuesToMatchRegex, "Every document names the content it came from",
        "sha256:..., or another scheme and an address", _INGEST, column="origin", regex=r"^[a-z0-9+.-]+:.+")  # fmt: skip
    suite.add("raw_row", gx.ExpectColumnValuesToBeBetween, "Every document names its row", "0 or more", _INGEST,
        column="row", min_value=0)  # fmt: skip
    limited = configuration.ingest.limit is not None
    suite.add("raw_sources_present", gx.ExpectColumnMaxToBeBetween, "Every source gives documents",
        "not all, because of ingest.limit" if limited else "none without",
        "look at the source's location and members, or take it out of ingest.sources", table="figures",
        found=", ".join(name for name, share in shares.items() if not share) or "none without",
        column="sources_without", min_value=0, max_value=len(names) if limited else 0)  # fmt: skip
    largest = max(shares, key=lambda name: shares[name])
    suite.add("raw_source_share", gx.ExpectColumnMaxToBeBetween, "No source outweighs the others",
        f"at most {validate.maximum_source_share:.0%} of the documents of the corpus",
        "add documents of the other sources, or raise validate.maximum_source_share", table="figures",
        found=f"{shares[largest]:.1%} from {largest}", column="largest_source", min_value=0,
        max_value=validate.maximum_source_share)  # fmt: skip
    context.metrics.update({f"raw_{name}": float(figures[name].iloc[0]) for name in ("documents", "blank_share")})
    return Contract("raw", "raw documents", suite.checks, rows, figures)


def _frame(folder: Path) -> pd.DataFrame:
    """One row a document of any role.

    characters: NaN where there is no text; blank, undecoded: 1 where the text holds no letter or digit, or U+FFFD.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = raw_schema()
    table = Columns()
    files = {"train": folder / "documents.parquet"}
    files |= {path.stem: path for path in sorted(folder.glob("*.parquet")) if path.stem != "documents"}
    for role, path in files.items():
        none = pa.RecordBatch.from_pylist([], schema)  # an empty file has its columns too
        for batch in chain([none], batches(path, schema, ["id", "text", "provenance"])):
            text, provenance = batch["text"], batch["provenance"]
            table.add(
                id=batch["id"],
                role=[role] * len(batch),
                source=pc.struct_field(provenance, "source"),
                origin=pc.struct_field(provenance, "origin"),
                row=pc.struct_field(provenance, "row").cast("float64"),
                characters=lengths(text),
                blank=wordless(text).astype(float),
                undecoded=pc.fill_null(pc.match_substring(text, _NOTHING_READ), False).cast("int8").cast("float64"),
            )
    return table.frame()


def _figures(rows: pd.DataFrame, sources: list[str]) -> tuple[pd.DataFrame, dict[str, float]]:
    """What is counted over all documents, and each source's share (of its role)."""
    import pandas as pd

    counts = rows["source"].value_counts()
    of_role = rows.groupby("source")["role"].first().map(rows["role"].value_counts())
    shares = {name: float(counts[name] / of_role[name]) if name in counts else 0.0 for name in sources}
    train = rows[rows["role"] == "train"]
    inside = train["source"].value_counts(normalize=True)
    figures = {
        "documents": len(train),
        "blank_share": float(train["blank"].mean()) if len(train) else 0.0,
        "sources_without": sum(share == 0 for share in shares.values()),
        # One source cannot outweigh others that are not there.
        "largest_source": float(inside.max()) if len(inside) > 1 else 0.0,
    }
    assert np.isfinite(list(figures.values())).all()
    return pd.DataFrame([figures]), shares
