"""Which policy makes the better training data? A small model is trained on each variant and judged by the same held-out text.

    python -m flows.ablate --policies base,fineweb
    python -m flows.ablate --corpus english --set loose:clean.jaccard=0.9 --set strict:clean.jaccard=0.5

A variant is a policy of components/corpus/policies, or a name with parameters of `clean` and `tag` (`--set NAME:section.key=value`, which also
changes a policy's variant). Every variant gets the same tokenizer, the same number of tokens and the same seeds; the held-out
documents are those that every variant holds out. Killed and started again, it keeps the cells that are finished.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from components.corpus.documents import TRAIN
from components.errors import InkwellError
from flows.experiments.comparing import answered, options

if TYPE_CHECKING:
    from flows.experiments.proxy import Bench
    from flows.experiments.verdicts import Difference


@dataclass(frozen=True)
class Variant:
    """A name and the parameters in which it differs from the others."""

    name: str
    overrides: tuple[str, ...]

    @property
    def tagging(self) -> tuple[str, ...]:
        """Those of its parameters that change what is tagged; variants without such share one run of `tag`."""
        return tuple(override for override in self.overrides if override.startswith("tag."))


def variants(policies: Sequence[str], settings: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """The variants, and the settings that are common to all of them.

    `settings`: "section.key=value" or "NAME:section.key=value". InkwellError for fewer than two variants, an unknown policy, or a
    parameter that would change more than the data.
    """
    from components.corpus.policy import load_policy

    chosen: dict[str, list[str]] = {}
    for name in policies:
        load_policy(name)
        if name in chosen:
            raise InkwellError(f"--policies names {name!r} twice.")
        chosen[name] = [f"clean.policy={name}"]
    common = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, colon, parameter = key.rpartition(":")
        if not equals:
            raise InkwellError(
                f"--set {setting}: write it as NAME:clean.key=value, or section.key=value for all variants."
            )
        if not colon:
            common.append(setting)
        elif not parameter.startswith(("clean.", "tag.")):
            raise InkwellError(
                f"--set {setting}: a variant changes the data, so its parameters begin with clean. or tag.; leave out "
                f"{name!r} and the colon to change {parameter} for all."
            )
        elif not name.replace("-", "").replace("_", "").isalnum():
            raise InkwellError(f"--set {setting}: the name of a variant is made of letters, digits, - and _.")
        else:
            chosen.setdefault(name, []).append(f"{parameter}={value}")
    if len(chosen) < 2:
        raise InkwellError(
            f"there {'is one variant' if chosen else 'are no variants'}, and at least two are needed: --policies a,b or --set NAME:clean.key=value."
        )
    return [Variant(name, tuple(overrides)) for name, overrides in chosen.items()], common


def families(bench: Bench, every: Sequence[Variant]) -> str:
    """The override of `tag.families` by which every statistic is measured that one of the policies bounds."""
    from components.configuration.tag import Family
    from components.corpus.policy import load_policy
    from components.corpus.statistics import STATISTICS

    measured: set[str] = set(bench.configuration().tag.families)
    for variant in every:
        policy = load_policy(bench.configuration(variant.overrides).clean.policy)
        measured |= {STATISTICS[name].family for name in policy.statistics()} & set(get_args(Family))
    return f"tag.families={json.dumps(sorted(measured))}"


def ablate(
    workspace: Path, every: Sequence[Variant], overrides: Sequence[str], seeds: int, documents: int, jobs: int
) -> dict[str, Any]:
    """Train and judge every variant, write `ablation.{json,md,html}` into `workspace`, and return what the JSON holds."""
    import numpy as np

    from flows.experiments.proxy import Cell, held_out, prepared, trained_on_by_all, write_subset
    from flows.experiments.verdicts import differences, means, verdict

    bench = prepared(workspace, overrides)
    measure = families(bench, every)
    print("Preparing the data", flush=True)
    bench.step("ingest")
    kept = {}
    for variant in every:
        tagging = (measure, *variant.tagging)
        tagged = Path("data") / ("tagged" if not variant.tagging else f"tagged-{variant.name}")
        bench.step("tag", outputs={"tagged": tagged}, overrides=tagging, label=f"tag for {variant.name}")
        cleaned = Path("variants") / variant.name / "clean"
        figures = bench.step(
            "clean", {"tagged": tagged}, {"clean": cleaned}, (measure, *variant.overrides), f"clean for {variant.name}"
        )
        print(
            f"  {variant.name}: {figures['documents_kept']:,.0f} of {figures['documents_in']:,.0f} documents stay",
            flush=True,
        )
        kept[variant.name] = (cleaned, figures)
    folders = [bench.folder / cleaned for cleaned, _ in kept.values()]
    judged_by = held_out(folders, documents)
    shared = trained_on_by_all(folders)
    print(
        f"  {len(judged_by):,} documents are held out by all; {len(shared):,} are trained on by all: the tokenizer learns from those",
        flush=True,
    )
    common = Path("variants") / "common"
    write_subset(folders[0], bench.folder / common / "documents", shared.__contains__, judged_by)
    tokenizer = common / "tokenizer"
    reading = {"documents": common / "documents"}
    bench.step("tokenizer", {**reading, "validated": common / "documents"}, {"tokenizer": tokenizer})
    cells = []
    figures_of: dict[str, dict[str, float]] = {}
    first_seed = bench.configuration().seed
    for variant, folder in zip(every, folders, strict=True):
        own = Path("variants") / variant.name
        write_subset(folder, bench.folder / own / "documents", lambda _: True, judged_by)
        packed = bench.step(
            "tokenize",
            {"documents": own / "documents", "tokenizer": tokenizer},
            {"tokens": own / "tokens"},
            label=f"tokenize for {variant.name}",
        )
        figures_of[variant.name] = {
            "documents_kept": kept[variant.name][1]["documents_kept"],
            "documents_in": kept[variant.name][1]["documents_in"],
            "train_tokens": packed["train_tokens"],
            "train_characters": packed["train_characters"],
        }
        cells += [
            Cell(variant.name, first_seed + number, own / "documents", tokenizer, own / "tokens")
            for number in range(seeds)
        ]
    # Seeds outside, variants inside: what there is after a kill compares something.
    cells.sort(key=lambda cell: cell.seed)
    came_to = bench.train(cells, jobs)
    of = {variant.name: [came_to[cell] for cell in cells if cell.variant == variant.name] for variant in every}
    characters = np.array(next(iter(came_to.values()))["characters"])
    bits = {name: np.array([result["bits"] for result in results]) for name, results in of.items()}
    pairs = differences(bits, characters)
    averages = means(bits, characters)
    alike = _alike({variant.name: bench.folder / "variants" / variant.name / "tokens" for variant in every})
    outcome = {
        "verdict": " ".join(
            [verdict(pairs), *(f"{' and '.join(names)} train on the same documents." for names in alike)]
        ),
        "seeds": [first_seed + number for number in range(seeds)],
        "held_out_documents": len(judged_by),
        "held_out_characters": int(characters.sum()),
        "parameters": of[every[0].name][0]["parameters"],
        "tokens_trained_on": of[every[0].name][0]["tokens"],
        "variants": {
            variant.name: {
                "overrides": list(variant.overrides),
                "bits_per_character": averages[variant.name][0],
                "standard_deviation": _or_none(averages[variant.name][1]),
                "by_seed": [result["bits_per_character"] for result in of[variant.name]],
                "epochs": of[variant.name][0]["epochs"],
                "seconds": sum(result["seconds"] for result in of[variant.name]),
                **figures_of[variant.name],
            }
            for variant in every
        },
        "differences": [_described(pair) for pair in pairs],
    }
    _write(bench.folder, outcome)
    return outcome


def _alike(tokens: Mapping[str, Path]) -> list[list[str]]:
    """Groups of two or more variants whose training data are the same, token by token."""
    from components.corpus.packed import TokenShards

    found: dict[str, list[str]] = {}
    for name, folder in tokens.items():
        found.setdefault(TokenShards(folder, TRAIN).fingerprint, []).append(name)
    return [names for names in found.values() if len(names) > 1]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _described(pair: Difference) -> dict[str, Any]:
    return {
        "a": pair.a,
        "b": pair.b,
        "bits_per_character": pair.mean,
        "low": pair.low,
        "high": pair.high,
        "standard_error_seeds": _or_none(pair.seeds),
        "standard_error_documents": pair.documents,
        "beyond_noise": pair.beyond_noise,
    }


def _write(folder: Path, outcome: Mapping[str, Any]) -> None:
    from flows.experiments.findings import Table, column_of_points, write_findings

    rows = sorted(outcome["variants"].items(), key=lambda item: item[1]["bits_per_character"])
    tables = [
        Table(
            "Variants, fewest bits per character first",
            [
                "variant",
                "bits per character",
                "standard deviation over seeds",
                "documents kept",
                "training tokens",
                "epochs",
                "differs by",
            ],
            [
                [
                    name,
                    f"{row['bits_per_character']:.4f}",
                    "–" if row["standard_deviation"] is None else f"{row['standard_deviation']:.4f}",
                    f"{row['documents_kept']:,.0f} of {row['documents_in']:,.0f}",
                    f"{row['train_tokens']:,.0f}",
                    f"{row['epochs']:.2f}",
                    ", ".join(row["overrides"]),
                ]
                for name, row in rows
            ],
        ),
        Table(
            "Differences in bits per character, with the 95 % interval of all pairs together",
            ["pair", "difference", "from", "to", "error from seeds", "error from documents", "beyond noise"],
            [
                [
                    f"{pair['a']} − {pair['b']}",
                    *(
                        "–" if pair[key] is None else f"{pair[key]:+.4f}"
                        for key in ("bits_per_character", "low", "high")
                    ),
                    *(
                        "–" if pair[key] is None else f"{pair[key]:.4f}"
                        for key in ("standard_error_seeds", "standard_error_documents")
                    ),
                    "yes" if pair["beyond_noise"] else "no",
                ]
                for pair in outcome["differences"]
            ],
        ),
    ]
    said = (
        f"A model of {outcome['parameters'] / 1e6:.1f} M parameters, {outcome['tokens_trained_on']:,.0f} tokens of training for each cell, "
        f"{len(outcome['seeds'])} seed(s) a variant, judged on {outcome['held_out_documents']:,} documents "
        f"({outcome['held_out_characters']:,} characters) that every variant holds out. Fewer bits per character are better."
    )
    picture = column_of_points(
        "Bits per character of each cell, and the mean of each variant",
        {name: row["by_seed"] for name, row in rows},
        "bits per character",
    )
    write_findings(folder / "ablation", "Data ablation", outcome["verdict"], said, tables, [picture], outcome)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = options("flows.ablate", __doc__)
    parser.add_argument(
        "--policies", default="", metavar="A,B", help="policies of components/corpus/policies to compare"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[NAME:]SECTION.KEY=VALUE",
        help="a parameter of the variant NAME, or of all; may be given again",
    )
    return answered(parser, argv, "ablate", _compare)


def _compare(arguments: argparse.Namespace, overrides: list[str]) -> None:
    policies = [name.strip() for name in arguments.policies.split(",") if name.strip()]
    every, common = variants(policies, arguments.set)
    outcome = ablate(
        arguments.workspace, every, [*overrides, *common], arguments.seeds, arguments.held_out, arguments.jobs
    )
    print(f"\n{outcome['verdict']}\n{arguments.workspace / 'ablation.html'} shows it.")


if __name__ == "__main__":
    sys.exit(main())
