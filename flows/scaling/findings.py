"""What a scaling study found: a verdict, tables, pictures and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.experiments.findings import Table

if TYPE_CHECKING:
    from components.scaling import Run
    from flows.scaling.law import Fit

_SCALES = {
    "irreducible": "E, what no model of this kind gets below",
    "capacity": "A, what too few parameters cost",
    "data": "B, what too few tokens cost",
    "harm": "H, what repeated tokens cost",
}


def verdict(outcome: Mapping[str, Any]) -> str:
    """What the law is good for, in two sentences."""
    back = outcome["held_back"]
    band = back["predicted"]
    held = "inside" if back["inside"] else "outside"
    share = outcome["tokens_per_parameter"]
    return (
        f"For {back['parameters'] / 1e6:.2f} M parameters and {back['tokens']:,.0f} tokens, {back['times_the_operations']:.1f} times the operations of "
        f"the largest run that was fitted, the law foretold {band['value']:.3f} nats a token ({band['low']:.3f} to {band['high']:.3f}); the run that was "
        f"held back came to {back['loss']:.3f}, {held} the band and {abs(back['error']) / back['loss']:.1%} {'above' if back['error'] > 0 else 'below'} "
        "the prediction. "
    ) + (
        "These runs do not tell how work is best shared between size and tokens."
        if share is None
        else f"A little more work is best shared between size and tokens at {share:.0f} tokens a parameter."
    )


def in_words(law: Mapping[str, float]) -> str:
    """The law with its numbers."""
    formula = f"L(N, D) = {law['irreducible']:.3f} + {law['capacity']:.4g} / N^{law['alpha']:.3f} + {law['data']:.4g} / D^{law['beta']:.3f}"
    if not law.get("harm"):
        return f"{formula}, nats a token"
    return (
        f"{formula} + {law['harm']:.3g} R^{law['harm_repeated']:.2f} (N / U)^{law['harm_large']:.2f}, nats a token, where R counts passes over the "
        "corpus beyond the first, U is its tokens, and D counts a repeated token for less than a fresh one"
    )


def tables(outcome: Mapping[str, Any]) -> list[Table]:
    """The run that was held back, the runs that were fitted, and the law's scales with their bands."""
    back = outcome["held_back"]
    band = back["predicted"]
    columns = ["size", "parameters", "tokens", "passes"]
    return [
        Table(
            "The run that was held back",
            [*columns, "foretold", "95 % band", "came to", "difference", "bits a character", "seconds"],
            [
                [
                    *_extent(back),
                    f"{band['value']:.4f}",
                    f"{band['low']:.4f} to {band['high']:.4f}",
                    f"{back['loss']:.4f}",
                    f"{back['error']:+.4f}",
                    *_also(back),
                ]
            ],
        ),
        Table(
            "Runs that the law was fitted to",
            [*columns, "nats a token", "law", "difference", "bits a character", "seconds"],
            [
                [
                    *_extent(row),
                    f"{row['loss']:.4f}",
                    f"{row['loss'] - row['residual']:.4f}",
                    f"{row['residual']:+.4f}",
                    *_also(row),
                ]
                for row in outcome["runs"]
            ],
        ),
        Table(
            "Scales of the law with their 95 % bands",
            ["scale", "value", "from", "to"],
            [
                [_SCALES[name], *(f"{of[key]:.4g}" for key in ("value", "low", "high"))]
                for name, of in outcome["scales"].items()
            ],
        ),
    ]


def _extent(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["size"]),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['tokens']:,}",
        f"{row['tokens'] / row['unique']:.2f}",
    ]


def _also(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['bits_per_character']:.4f}", f"{row['seconds']:.0f}"]


def write(folder: Path, outcome: dict[str, Any], found: Fit, kept_back: Run) -> None:
    """Put the verdict into `outcome` and write `scaling.{json,md,html}` into `folder`."""
    from flows.experiments.findings import write_findings
    from flows.scaling.pictures import pictures

    outcome["verdict"] = verdict(outcome)
    said = (
        f"{in_words(outcome['law'])}. N is parameters that a token is multiplied with, D tokens of this corpus' tokenizer that the run saw. Exponents are "
        f"as published (arXiv 2305.16264), scales by least squares, bands from {outcome['samples']} samples of the runs. All models are judged on the "
        f"same {outcome['held_out_documents']:,} held-out documents; the corpus has {outcome['unique_tokens']:,} tokens to train on."
    )
    write_findings(
        folder / "scaling",
        "Scaling law",
        outcome["verdict"],
        said,
        tables(outcome),
        pictures(found, outcome["runs"], kept_back),
        outcome,
    )
