"""How large a vocabulary does this corpus want? A small model is trained with each, and judged by bits per character.

    python -m flows.tokenizer_sweep --vocabularies 1024,2048,4096,8192

Fewer tokens a character is not the aim: a large vocabulary compresses better, but spends parameters on rows that are seldom trained.
Every model reads the same characters of the corpus (`--equal compute`: gets the same number of operations instead) and is judged by the
same held-out documents. Killed and started again, it keeps the cells that are finished.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from flows.experiments.comparing import answered, options

if TYPE_CHECKING:
    from components.configuration import Pretrain


def model_parameters(parameters: Pretrain, vocabulary: int) -> int:
    """Parameters of the model that `pretrain` would build; nothing is allocated."""
    from components.model.architectures import count

    return count(parameters, vocabulary).total


def steps_of(
    parameters: Pretrain, density: Mapping[int, float], sizes: Mapping[int, int], equal: str
) -> dict[int, int]:
    """Optimizer steps for each vocabulary: the smallest takes `pretrain.steps`, the others as many as make the same work.

    density: tokens a character in the training split; sizes: parameters of the model.
    """
    smallest = min(density)
    if equal == "characters":
        share = {vocabulary: density[vocabulary] / density[smallest] for vocabulary in density}
    else:
        share = {vocabulary: sizes[smallest] / sizes[vocabulary] for vocabulary in density}
    return {vocabulary: max(1, round(parameters.steps * value)) for vocabulary, value in share.items()}


def sweep(
    workspace: Path,
    vocabularies: Sequence[int],
    overrides: Sequence[str],
    seeds: int,
    documents: int,
    jobs: int,
    equal: str,
) -> dict[str, Any]:
    """Train and judge a model for each vocabulary, write `tokenizer_sweep.{json,md,html}` into `workspace`, return what the JSON holds.

    A vocabulary that the corpus does not allow is reported with the reason, and the others go on.
    """
    import numpy as np

    from flows.experiments.proxy import Cell, held_out, prepared, write_subset
    from flows.experiments.verdicts import differences, means, verdict

    bench = prepared(workspace, overrides)
    print("Preparing the data", flush=True)
    for step in ("ingest", "tag", "clean"):
        bench.step(step)
    cleaned = Path("data/clean")
    judged_by = held_out([bench.folder / cleaned], documents)
    read = Path("sweep/documents")
    write_subset(bench.folder / cleaned, bench.folder / read, lambda _: True, judged_by)
    parameters = bench.configuration().pretrain
    refused: dict[int, str] = {}
    compression: dict[int, dict[str, float]] = {}
    density: dict[int, float] = {}
    for vocabulary in vocabularies:
        folder = Path("sweep") / str(vocabulary)
        override = (f"tokenizer.vocabulary={vocabulary}",)
        try:
            learnt = bench.step(
                "tokenizer",
                {"documents": read, "validated": read},
                {"tokenizer": folder / "tokenizer"},
                override,
                f"tokenizer of {vocabulary}",
            )
        except InkwellError as error:
            refused[vocabulary] = str(error).partition(": ")[2]
            print(f"  {vocabulary:,}: {refused[vocabulary]}", flush=True)
            continue
        packed = bench.step(
            "tokenize",
            {"documents": read, "tokenizer": folder / "tokenizer"},
            {"tokens": folder / "tokens"},
            label=f"tokenize by {vocabulary}",
        )
        compression[vocabulary] = {**learnt, **packed}
        # marks included on both sides, as the model meets them
        density[vocabulary] = packed["train_tokens"] / (packed["train_characters"] + packed["train_documents"])
        print(f"  {vocabulary:,}: {learnt['tokens_per_character']:.3f} tokens a held-out character", flush=True)
    if not density:
        raise InkwellError(f"none of the vocabularies can be trained; of the last: {next(reversed(refused.values()))}")
    sizes = {vocabulary: model_parameters(parameters, vocabulary) for vocabulary in density}
    steps = steps_of(parameters, density, sizes, equal)
    first_seed = bench.configuration().seed
    cells = [
        Cell(
            str(vocabulary),
            first_seed + number,
            read,
            Path("sweep") / str(vocabulary) / "tokenizer",
            Path("sweep") / str(vocabulary) / "tokens",
            (f"pretrain.steps={steps[vocabulary]}", f"tokenizer.vocabulary={vocabulary}"),
        )
        for number in range(seeds)
        for vocabulary in density
    ]
    came_to = bench.train(cells, jobs)
    of = {v: [came_to[cell] for cell in cells if cell.variant == str(v)] for v in density}
    characters = np.array(next(iter(came_to.values()))["characters"])
    bits = {str(v): np.array([result["bits"] for result in results]) for v, results in of.items()}
    averages = means(bits, characters)
    pairs = differences(bits, characters) if len(bits) > 1 else []
    batch = parameters.batch_tokens
    rows = {}
    for vocabulary, results in of.items():
        assert results[0]["parameters"] == sizes[vocabulary]
        tokens = steps[vocabulary] * batch
        spread = averages[str(vocabulary)][1]
        rows[str(vocabulary)] = {
            "bits_per_character": averages[str(vocabulary)][0],
            "standard_deviation": None if math.isnan(spread) else spread,
            "by_seed": [result["bits_per_character"] for result in results],
            "tokens_per_character": compression[vocabulary]["tokens_per_character"],
            "characters_covered": compression[vocabulary]["characters_covered"],
            "unused_tokens": compression[vocabulary]["unused_tokens"],
            "parameters": sizes[vocabulary],
            "steps": steps[vocabulary],
            "tokens": tokens,
            "characters_read": tokens / density[vocabulary],
            "operations": 6.0 * sizes[vocabulary] * tokens,
            "seconds": sum(result["seconds"] for result in results) / len(results),
        }
    outcome = {
        "verdict": _told(verdict(pairs)) if pairs else f"Only a vocabulary of {next(iter(rows))} could be trained.",
        "equal": equal,
        "seeds": [first_seed + number for number in range(seeds)],
        "held_out_documents": len(judged_by),
        "held_out_characters": int(characters.sum()),
        "vocabularies": rows,
        "refused": {str(vocabulary): reason for vocabulary, reason in refused.items()},
        "differences": [
            {
                "a": pair.a,
                "b": pair.b,
                "bits_per_character": pair.mean,
                "low": pair.low,
                "high": pair.high,
                "beyond_noise": pair.beyond_noise,
            }
            for pair in pairs
        ],
    }
    _write(bench.folder, outcome)
    return outcome


def _told(sentence: str) -> str:
    return f"A vocabulary of {sentence}" if sentence[0].isdigit() else sentence


def _write(folder: Path, outcome: Mapping[str, Any]) -> None:
    from flows.experiments.findings import Table, curve_of_points, write_findings

    rows = outcome["vocabularies"]
    columns = [
        "vocabulary",
        "bits per character",
        "standard deviation over seeds",
        "tokens a character",
        "characters with a token",
        "never used",
        "parameters",
        "steps",
        "characters read",
        "operations",
        "seconds a model",
    ]
    table = Table(
        "Vocabularies",
        columns,
        [
            [
                f"{int(name):,}",
                f"{row['bits_per_character']:.4f}",
                "–" if row["standard_deviation"] is None else f"{row['standard_deviation']:.4f}",
                f"{row['tokens_per_character']:.3f}",
                f"{row['characters_covered']:.2%}",
                f"{row['unused_tokens']:,.0f}",
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['steps']:,}",
                f"{row['characters_read']:,.0f}",
                f"{row['operations']:.2e}",
                f"{row['seconds']:.0f}",
            ]
            for name, row in rows.items()
        ],
    )
    tables = [table]
    if outcome["refused"]:
        tables.append(
            Table("Vocabularies that this corpus does not allow", ["vocabulary", "why"], [
                [f"{int(name):,}", reason] for name, reason in outcome["refused"].items()
            ])
        )  # fmt: skip
    held = {"characters": "characters read", "compute": "operations"}[outcome["equal"]]
    said = (
        f"Every model has the same {held}; {len(outcome['seeds'])} seed(s) each, judged on {outcome['held_out_documents']:,} held-out documents "
        f"({outcome['held_out_characters']:,} characters). Fewer bits per character are better. Operations are 6 × parameters × tokens."
    )
    picture = curve_of_points(
        "Bits per character by vocabulary: each model, and the mean",
        [(int(name), row["by_seed"]) for name, row in rows.items()],
        "vocabulary",
        "bits per character",
    )
    write_findings(folder / "tokenizer_sweep", "Vocabulary sweep", outcome["verdict"], said, tables, [picture], outcome)


def _numbers(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise InkwellError(
            f"--vocabularies {text}: write numbers with commas between them, such as 2048,4096."
        ) from None
    if not found:
        raise InkwellError("--vocabularies names none: write numbers with commas between them, such as 2048,4096.")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = options("flows.tokenizer_sweep", __doc__)
    parser.add_argument("--vocabularies", default="1024,2048,4096,8192", help="sizes (default: %(default)s)")
    parser.add_argument(
        "--equal",
        choices=("characters", "compute"),
        default="characters",
        help="what every model gets the same of (default: %(default)s)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a parameter; may be given again"
    )
    return answered(parser, argv, "tokenizer_sweep", _compare)


def _compare(arguments: argparse.Namespace, overrides: list[str]) -> None:
    outcome = sweep(
        arguments.workspace,
        _numbers(arguments.vocabularies),
        [*overrides, *arguments.set],
        arguments.seeds,
        arguments.held_out,
        arguments.jobs,
        arguments.equal,
    )
    shown = {name: row["bits_per_character"] for name, row in outcome["vocabularies"].items()}
    print("\n" + json.dumps({name: round(value, 4) for name, value in shown.items()}))
    print(f"{outcome['verdict']}\n{arguments.workspace / 'tokenizer_sweep.html'} shows it.")


if __name__ == "__main__":
    sys.exit(main())
