"""The page: sections from evidence, rendered through one template whose text is escaped throughout."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import pages
from components.atomic import atomic_file
from components.figures import FORMS, bits, count, figure, small
from components.report import ancestry, pictures
from components.report.evidence import MODELS, STAGES, Evidence, Row, gather
from components.report.run_logs import newest_logs
from components.report.segmentation import Segmentation
from components.vocabulary.spelling import read_record

if TYPE_CHECKING:
    from markupsafe import Markup

    from components.step import Context

_FOLDER = Path(__file__).parent
_LANES = (
    ("Text", STAGES[:6]),
    ("Model", STAGES[6:10]),
    ("Proof", STAGES[10:]),
)
_DOES = {
    "ingest": "reads the sources",
    "tag": "measures each document",
    "clean": "drops and splits",
    "validate": "the gate",
    "tokenizer": "learns the tokens",
    "tokenize": "packs the corpus",
    "pretrain": "learns to continue",
    "instruct": "makes conversations",
    "sft": "learns to answer",
    "align": "learns preferences",
    "evaluate": "judges three models",
    "export": "files for other programs",
}
# Scores of the evaluation: name, what it says, form, whether more is better (None: neither).
_SCORES: dict[str, tuple[str, str, str, bool | None]] = {
    "five_char_lines": ("Five characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "seven_char_lines": ("Seven characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "six_char_lines": ("Six characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "four_char_lines": ("Four characters in every line", "asked for by a held-out title, one attempt each", "percent", True),
    "line_count": ("The asked number of lines", "no more, no less, and ended by itself", "percent", True),
    "title_overlap": ("The asked title", "share of its characters (or longer words) that the text takes up", "percent", True),
    "title_overlap_by_chance": ("Another's title", "the same against the title asked for before: what chance gives", "percent", None),
    "next_line": ("The next line", "the real one picked among lines of other documents", "percent", True),
    "bits_per_char": ("Bits per character", "plain held-out text; chat models pay here for what they learnt", "bits", False),
    "ended": ("Ended by itself", "before the token limit cut it", "percent", True),
    "verbatim_share": ("Copied word for word", "share of generated characters in long runs of the training text", "percent", False),
    "distinct_lines": ("Distinct lines", "different lines among all that were written", "percent", None),
}  # fmt: skip
_PAGES = (
    ("data_card.html", "the data card"),
    ("corpus_map.html", "a map of the corpus"),
    ("tokenizer.html", "the tokenizer"),
    ("data_docs/index.html", "checks of the documents"),
    ("data_docs_conversations/index.html", "of the conversations"),
    ("data_docs_preferences/index.html", "of the preferences"),
)
_SHOWN_CHARACTERS = 320  # of a generated or real text
_EXAMPLE_CHARACTERS = (20, 160)  # length of the text that is cut into tokens
_LONG_TOKEN = 10  # characters from which tokens are counted together
_TIMELINE = 6  # moments of the training that are shown


def run(context: Context) -> None:
    """Write `reports/index.html`. Raises InkwellError for an input that is there and cannot be read."""
    evidence = gather(context.inputs)
    parameters = context.configuration.report
    page = render(
        evidence,
        context.inputs,
        parameters.title,
        parameters.samples,
        context.configuration.language,
        beside(context.outputs["page"].parent),
    )
    with atomic_file(context.outputs["page"]) as temporary:
        temporary.write_text(page, encoding="utf-8")
    context.metrics["bytes"] = len(page.encode())
    context.metrics["pictures"] = page.count("<svg class=")
    context.metrics["stages_reported"] = len(evidence.metrics)
    context.recorder.artifact(context.outputs["page"])


def beside(folder: Path) -> list[tuple[str, str]]:
    """Address and name of the other pages that are there, to be linked."""
    return [(address, name) for address, name in _PAGES if (folder / address).exists()]


def render(
    evidence: Evidence,
    inputs: Mapping[str, Path],
    title: str,
    samples: int,
    language: str,
    others: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole page as HTML; `samples` texts are shown of each model, `others` are pages to link."""

    def metric(stage: str, name: str, form: str = "count") -> Markup | None:
        return figure(evidence.metric(stage, name), form, f"metrics/{stage}.json: {name}")

    values = {
        "title": title,
        "language": language,
        "style": pages.style(_FOLDER / "card.css"),
        "metric": metric,
        "figure": figure,
        "known": lambda stage, name: evidence.metric(stage, name) is not None,
        "models": MODELS,
        "head": headline(evidence),
        "lanes": way(evidence),
        "corpus": corpus(evidence),
        "tokenizer": tokens(evidence),
        "training": training(evidence),
        "run_logs": newest_logs(),
        "moments": moments(evidence),
        "evaluation": evaluation(evidence),
        "side_by_side": side_by_side(evidence, samples),
        "exports": exports(evidence, inputs),
        "links": ancestry.chain(evidence, inputs),
        "use": usage(evidence),
        "others": others,
    }
    return pages.render(_FOLDER / "card.html.jinja", values)


def headline(evidence: Evidence) -> Row:
    """The figures on top, each None where its stage has not run."""
    model, bar = evidence.metric("pretrain", "val_bits_per_char"), evidence.metric("clean", "kneser_ney_bits_per_char")
    order = evidence.metric("clean", "kneser_ney_order")
    name = f"{order:.0f}-gram Kneser-Ney" if order else "n-gram Kneser-Ney"
    compared = None
    if model is not None and bar is not None:
        compared = pictures.picture(
            "headline",
            f"Bits per character on held-out text: {name} {bar:.3f}, this model {model:.3f}",
            pictures.bars([(name, bar), ("this model", model)], bits, {"this model": "accent"}),
            height=1.25,
        )
    exported = [file for file in evidence.manifest.get("files", []) if file["file"].endswith(".gguf")]
    smallest = min(exported, key=lambda file: file["bytes"], default=None)
    seconds = [(stage, evidence.metric(stage, "seconds")) for stage in STAGES]
    ran = [(stage, value) for stage, value in seconds if value is not None]
    return {
        "sources": [
            " ".join(str(part) for part in (source.get("location") or source["name"], source.get("version")) if part)
            for source in evidence.sources
        ],
        "ngram": name,
        "compared": compared,
        "ratio": figure(
            model / bar if model is not None and bar else None,
            "percent",
            "metrics/pretrain.json: val_bits_per_char / metrics/clean.json: kneser_ney_bits_per_char",
        ),
        "score": _leading_score(evidence),
        "smallest": smallest and {
            "size": figure(smallest["bytes"], "size", f"models/export/manifest.json: bytes of {smallest['file']}"),
            "format": smallest["format"],
        },
        "minutes": figure(sum(value for _, value in ran) if ran else None, "minutes", "sum of seconds in metrics/*.json"),
        "ran": len(ran),
        "stages": len(STAGES),
    }  # fmt: skip


def _leading_score(evidence: Evidence) -> Row | None:
    """The score that stands on top: the form that sft keeps, or the next line where the corpus has no form."""
    for key, said in (
        ("sft.five_char_lines", "of poems asked for in five-character lines keep to them (sft)"),
        ("aligned.next_line", "of next lines recognised (aligned)"),
        ("base.next_line", "of next lines recognised (base)"),
    ):
        score = evidence.results.get("scores", {}).get(key)
        if score:
            return {"value": _shown(key, score, "value", "percent"), "said": said, "interval": _interval(key, score)}
    return None


def _shown(key: str, score: Row, part: str, form: str) -> Markup | None:
    return figure(score.get(part), form, f"data/evaluation/results.json: {key} {part}")


def _interval(key: str, score: Row, form: str = "percent") -> list[Markup | None] | None:
    return [_shown(key, score, part, form) for part in ("low", "high")] if "low" in score else None


def way(evidence: Evidence) -> list[Row]:
    """The stages in their lanes; `share` is a stage's part of the longest stage's time, in percent."""
    longest = max((found.get("seconds", 0.0) for found in evidence.metrics.values()), default=0.0)
    return [
        {
            "name": lane,
            "stages": [
                {
                    "name": stage,
                    "does": _DOES[stage],
                    "ran": stage in evidence.metrics,
                    "share": round(100 * evidence.metrics.get(stage, {}).get("seconds", 0.0) / (longest or 1.0), 1),
                }
                for stage in stages
            ],
        }
        for lane, stages in _LANES
    ]


def corpus(evidence: Evidence) -> Row:
    """Sources, what was dropped and why, lengths, the split."""
    dropped = [
        (name.removeprefix("dropped_").replace("_", " "), value)
        for name, value in evidence.metrics.get("clean", {}).items()
        if name.startswith("dropped_") and value
    ]
    dropped.sort(key=lambda item: (-item[1], item[0]))
    histogram = evidence.summary.get("length_histogram", {})
    edges = sorted({edge for bins in histogram.values() for edge, _ in bins})
    labels = [f"{edge:,}" for edge in edges]
    shares = {}
    for split, bins in histogram.items():
        counts = dict(map(tuple, bins))
        total = sum(counts.values()) or 1
        shares[split] = [100 * counts.get(edge, 0) / total for edge in edges]
    return {
        "sources": [
            {
                **{key: source.get(key) for key in ("name", "kind", "location", "version", "license", "sha256")},
                "documents": figure(source.get("documents"), "count", "data/raw/sources.json: documents"),
                "characters": figure(source.get("characters"), "count", "data/raw/sources.json: characters"),
                "bytes": figure(source.get("bytes_read"), "size", "data/raw/sources.json: bytes_read"),
                "members": [member.get("name") for member in source.get("members", [])],
            }
            for source in evidence.sources
        ],
        "dropped": pictures.picture(
            "dropped",
            "Documents dropped by rule: " + ", ".join(f"{rule} {value:,.0f}" for rule, value in dropped),
            pictures.bars(dropped, count),
            height=0.5 + 0.28 * len(dropped),
        ) if dropped else None,
        "examples": [
            {"rule": rule.replace("_", " "), **example}
            for rule, examples in sorted(evidence.summary.get("examples", {}).items())
            for example in examples[:1]
        ],
        "lengths": pictures.picture(
            "lengths",
            "Characters a document, share of documents of each split",
            pictures.columns(labels, shares, "characters a document, from … up to the next", "% of documents"),
        ) if edges else None,
        "authors": [
            (name, figure(found, "count", f"data/clean/summary.json: authors, {name}"))
            for name, found in evidence.summary.get("authors", {}).get("most", [])[:8]
        ],
        "distinct_authors": figure(
            evidence.summary.get("authors", {}).get("distinct") or None, "count", "data/clean/summary.json: authors.distinct"
        ),
        "distinct_characters": figure(
            evidence.summary.get("characters", {}).get("distinct"), "count", "data/clean/summary.json: characters.distinct"
        ),
    }  # fmt: skip


def tokens(evidence: Evidence) -> Row | None:
    """The vocabulary, and a held-out document cut into tokens."""
    if evidence.tokenizer is None:
        return None
    opened = Segmentation(evidence.tokenizer)
    vocabulary = opened.vocabulary()
    origin = "models/tokenizer/tokenizer.json"
    text = _example(evidence)
    cuts = opened.cut(text) if text else []
    by_length = [(str(length), amount) for length, amount in vocabulary.by_length if length < _LONG_TOKEN]
    if more := sum(amount for length, amount in vocabulary.by_length if length >= _LONG_TOKEN):
        by_length.append((f"{_LONG_TOKEN}+", more))
    return {
        "adopted": read_record(evidence.tokenizer),
        "size": figure(vocabulary.size, "count", origin),
        "bytes": figure(vocabulary.bytes, "count", f"{origin}: tokens of bytes that are no whole character"),
        "marks": figure(vocabulary.marks, "count", f"{origin}: added tokens"),
        "longest": vocabulary.longest,
        "lengths": pictures.picture(
            "token-lengths",
            "Tokens by the number of characters they spell",
            pictures.columns([label for label, _ in by_length], {"tokens": [n for _, n in by_length]}, "characters a token", "tokens"),
        ) if by_length else None,
        "cuts": cuts,
        "cut_tokens": figure(sum(cut.tokens for cut in cuts), "count", f"{origin} on the text shown"),
        "cut_characters": figure(len(text), "count", "characters of the text shown"),
    }  # fmt: skip


def _example(evidence: Evidence) -> str:
    """The first held-out document of a length that can be shown; else the beginning of the first one."""
    low, high = _EXAMPLE_CHARACTERS
    contents = [str(row["content"]) for row in _held_out(evidence, ["content"])]
    return next((text for text in contents if low <= len(text) <= high), contents[0][:high] if contents else "")


def _held_out(evidence: Evidence, columns: Sequence[str]) -> list[Row]:
    from components.corpus.documents import VALIDATION, clean_schema, read_table

    if evidence.documents is None:
        return []
    rows = read_table(evidence.documents, clean_schema(), [*columns, "split"]).to_pylist()
    return [row for row in rows if row["split"] == VALIDATION]


def training(evidence: Evidence) -> list[Row]:
    """Pictures of the learning curves by stage: {stage, title, picture}."""
    found = []
    seen = 0.0
    pretrain = [(seen := seen + row.get("tokens", 0.0), row) for row in evidence.curves.get("pretrain", [])]
    if pretrain:
        loss = [(at, row["loss"]) for at, row in pretrain if "loss" in row]
        found.append(
            _curve("pretrain", "Loss while pretraining, nats a token", {"loss": (loss, "accent")}, "tokens seen")
        )
        held_out = [(at, row["validation_bits_per_char"]) for at, row in pretrain if "validation_bits_per_char" in row]
        if held_out:
            bar = evidence.metric("clean", "kneser_ney_bits_per_char")
            level = (bar, f"n-gram model {bar:.3f}") if bar is not None else None
            series = {"validation": (held_out, "accent")}
            found.append(_curve("pretrain-validation", "Held-out bits per character", series, "tokens seen", level))
    tuned = evidence.curves.get("sft", [])
    if tuned:
        names = {"loss": "training", "validation_answer_loss": "held out"}
        series = {
            said: ([(row["step"], row[name]) for row in tuned if name in row], colour)
            for (name, said), colour in zip(names.items(), ("plain", "sft"), strict=True)
        }
        series = {said: drawn for said, drawn in series.items() if drawn[0]}
        found.append(_curve("sft", "Loss on answers while fine-tuning, nats a token", series, "step"))
    aligned = evidence.curves.get("align", [])
    for name, said in (
        ("accuracy", "Pairs told apart while aligning, share"),
        ("margin", "Margin of rewards while aligning"),
    ):
        points = [(row["step"], row[name]) for row in aligned if name in row]
        if points:
            found.append(_curve(f"align-{name}", said, {name: (points, "aligned")}, "step"))
    return found


def _curve(name: str, title: str, series: Mapping[str, Any], x: str, level: tuple[float, str] | None = None) -> Row:
    points = max((len(drawn[0]) for drawn in series.values()), default=0)
    alternative = f"{title}: " + ", ".join(
        f"{said} from {drawn[0][0][1]:.3g} to {drawn[0][-1][1]:.3g}" for said, drawn in series.items()
    )
    shown = pictures.picture(name, alternative, pictures.lines(series, x, "", level))
    return {
        "title": title,
        "picture": shown,
        "points": points,
        "thinned": len(pictures.thinned([(0.0, 0.0)] * points)) < points,
    }


def moments(evidence: Evidence) -> list[Row]:
    """Samples during training, a few evenly spaced, with what the model had seen by then and how well it did."""
    curve = evidence.curves.get("pretrain", [])
    origin, name = "data/curves/pretrain.csv", "validation_bits_per_char"
    found = []
    for entry in _spread([entry for entry in evidence.samples if any(entry.get("texts", []))], _TIMELINE):
        before = [row for row in curve if row["step"] <= entry["step"]]
        checked = next((row for row in reversed(before) if name in row), {})
        at = checked.get("step")
        found.append(
            {
                "step": figure(entry["step"], "count", "data/samples/pretrain.jsonl: step"),
                "tokens": figure(
                    sum(row.get("tokens", 0.0) for row in before) or None,
                    "millions",
                    f"{origin}: sum of tokens up to step {entry['step']}",
                ),
                "bits": figure(checked.get(name), "bits", f"{origin}: {name}, step {at or 0:.0f}"),
                "at": figure(at, "count", f"{origin}: step") if at != entry["step"] else None,
                "texts": [_cut(text, _SHOWN_CHARACTERS // 2) for text in entry["texts"] if text.strip()][:2],
            }
        )
    return found


def evaluation(evidence: Evidence) -> Row | None:
    """A picture and a row a score, and what was left out and why."""
    scores = evidence.results.get("scores", {})
    if not scores:
        return None
    names = list(dict.fromkeys(key.split(".", 1)[1] for key in scores))
    names.sort(key=lambda name: list(_SCORES).index(name) if name in _SCORES else len(_SCORES))
    chance = evidence.results.get("chance", {})
    found: list[Row] = []
    for name in names:
        said, meaning, form, better = _SCORES.get(name, (name.replace("_", " ").capitalize(), "", "number", None))
        judged = {model: scores[f"{model}.{name}"] for model in MODELS if f"{model}.{name}" in scores}
        if name == "verbatim_share" and "verbatim_run" in evidence.results:
            meaning = f"share of generated characters in runs of {evidence.results['verbatim_run']} or more that stand in the training text"
        level = (chance[name], "chance") if name in chance else None
        drawn = [(model, score["value"], score.get("low"), score.get("high")) for model, score in judged.items()]
        alternative = f"{said}: " + ", ".join(
            f"{model} {FORMS[form](score['value'])}" for model, score in judged.items()
        )
        found.append(
            {
                "name": name,
                "said": said,
                "meaning": meaning,
                "better": {True: "higher is better", False: "lower is better", None: ""}[better],
                "picture": pictures.picture(
                    f"score-{len(found)}",
                    alternative,
                    pictures.intervals(drawn, FORMS[form], form == "percent", level),
                    height=0.45 + 0.3 * len(drawn),
                ),
                "rows": [
                    {
                        "model": model,
                        "value": _shown(f"{model}.{name}", score, "value", form),
                        "interval": _interval(f"{model}.{name}", score, form),
                        "n": _shown(f"{model}.{name}", score, "n", "count"),
                    }
                    for model, score in judged.items()
                ],
            }
        )
    return {
        "scores": found,
        "left_out": sorted(evidence.results.get("left_out", {}).items()),
        "sampling": evidence.results.get("sampling", {}),
        "questions": {
            name: figure(value, "count", f"data/evaluation/results.json: questions.{name}")
            for name, value in evidence.results.get("questions", {}).items()
        },
    }


def side_by_side(evidence: Evidence, samples: int) -> list[Row]:
    """What each model wrote for the same held-out document; documents evenly spread, none picked by hand."""
    written: dict[str, dict[str, Row]] = {}
    for model in MODELS:
        own = [row for row in evidence.generations if row["model"] == model]
        if own:
            task = Counter(row["task"] for row in own).most_common(1)[0][0]
            written[model] = {}
            for row in own:
                if row["task"] == task:
                    written[model].setdefault(row["document"], row)
    if not written:
        return []
    first, *others = written.values()
    common = [document for document in first if all(document in other for other in others)]
    real = {row["id"]: row for row in _held_out(evidence, ["id", "text", "author"])}
    shown = []
    for document in _spread(common, samples):
        original = real.get(document)
        asked = next(
            (found[document] for model, found in reversed(written.items()) if model != "base"), first[document]
        )
        shown.append(
            {
                "title": _cut(asked["title"] or "", 80),
                "prompt": _cut(asked["prompt"], 200),
                "texts": [_text(model, found[document]) for model, found in written.items()],
                "original": original
                and {"text": _cut(original["text"], _SHOWN_CHARACTERS), "author": original["author"]},
            }
        )
    return shown


def _text(model: str, row: Row) -> Row:
    lengths = [str(length) for length in row.get("line_lengths") or []]
    return {
        "model": model,
        "text": _cut(row["text"], _SHOWN_CHARACTERS),
        "lengths": "·".join(lengths[:16]) + (" …" if len(lengths) > 16 else "") if row["form"] else "",
        "ok": row["ok"] if row["form"] else None,
        "finished": row["finished"],
        "copied": figure(
            row["verbatim_characters"] or None, "count", "data/evaluation/generations.parquet: verbatim_characters"
        ),
    }


def exports(evidence: Evidence, inputs: Mapping[str, Path]) -> Row | None:
    """The GGUF files with what they cost, then the other files."""
    if not evidence.manifest:
        return None
    quantized, others = [], []
    origin = "models/export/manifest.json"
    for file, holds in ancestry.files(evidence, inputs):
        format = str(file["format"]).removeprefix("gguf ")
        shown = {
            "file": file["file"],
            "bytes": figure(file["bytes"], "size", f"{origin}: bytes of {file['file']}"),
            "sha256": file["sha256"],
            "holds": holds,
            "format": format,
        }
        if "tensors_by_type" not in file:
            others.append(shown)
            continue
        kinds = sorted(file["tensors_by_type"].items(), key=lambda item: (-item[1], item[0]))
        compared = {
            name: figure(evidence.metric("export", f"{name}_{format}"), form, f"metrics/export.json: {name}_{format}")
            for name, form in (("kl", "small"), ("bits_per_char", "bits"), ("top_token", "percent"), ("greedy_identical", "percent"))
        }  # fmt: skip
        types = ", ".join(f"{amount} {kind}" for kind, amount in kinds)
        quantized.append({**shown, **compared, "types": types, "fallbacks": len(file.get("fallbacks", []))})
    sizes = [
        (item["format"], file["bytes"])
        for item in quantized
        for file in evidence.manifest["files"]
        if file["file"] == item["file"]
    ]
    divergences = [
        (item["format"], value)
        for item in quantized
        if (value := evidence.metric("export", f"kl_{item['format']}")) is not None
    ]
    return {
        "name": evidence.manifest.get("name"),
        "model": evidence.manifest.get("model"),
        "architecture": evidence.manifest.get("architecture"),
        "quantized": quantized,
        "others": others,
        "sizes": _export_bars("export-sizes", "File size", sizes, FORMS["size"]),
        "divergences": _export_bars("export-kl", "Divergence from the torch model, nats a token", divergences, small),
    }


def _export_bars(name: str, said: str, values: Sequence[tuple[str, float]], form: Any) -> Markup | None:
    if not values:
        return None
    alternative = f"{said}: " + ", ".join(f"{label} {form(value)}" for label, value in values)
    return pictures.picture(name, alternative, pictures.bars(values, form), height=0.4 + 0.28 * len(values))


def usage(evidence: Evidence) -> Row | None:
    """Commands that work with the files that are there."""
    files = [file["file"] for file in evidence.manifest.get("files", []) if file["file"].endswith(".gguf")]
    if not evidence.manifest:
        return None
    # The smallest loss for half the size, where it was made.
    best = next((file for file in files if file.endswith("q8_0.gguf")), files[0] if files else None)
    example = evidence.manifest.get("example", {})
    question = example["messages"][-1]["content"] if example.get("messages") else None
    prompt = question or example.get("prompt") or ""
    return {
        "generate": f"python -m components.generate {'--chat ' if question else ''}{shlex.quote(_cut(prompt, 60))}",
        "chats": question is not None,
        "gguf": best,
        "gguf_command": shlex.quote(f"models/export/{best}") if best else None,
        "name": evidence.manifest.get("name"),
    }


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[0]]
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters].rstrip() + " …"
