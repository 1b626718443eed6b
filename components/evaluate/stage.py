"""The step: questions out of the held-out documents, three models through lighteval, one set of results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file, atomic_folder
from components.corpus.documents import TRAIN, VALIDATION, clean_schema, read_table
from components.corpus.verse import verse_lines
from components.errors import InkwellError
from components.evaluate.intervals import around, ratio_stderr, wilson
from components.evaluate.questions import BITS, LINE_COUNT, NEXT_LINE, Document, build, tasks_of
from components.evaluate.side_by_side import side_by_side
from components.evaluate.titles import overlaps
from components.evaluate.verbatim import copied_characters
from components.step import content_hash

if TYPE_CHECKING:
    import pyarrow as pa

    from components.configuration import Sampling
    from components.step import Context

MODELS = ("base", "sft", "aligned")
RESULTS_FILE, GENERATIONS_FILE, NEXT_LINE_FILE = "results.json", "generations.parquet", "next_line.parquet"
_SHARED = (
    "chat/markup",
    "chat/prompts",
    "corpus/verse",
    "model/architectures",
    "model/folders",
    "model/growing_cache",
    "model/sampling",
    "model/scoring",
)  # modules that answers depend on
_DIGITS = 6  # of figures in results.json and the metrics

Row = dict[str, Any]
Scores = dict[str, dict[str, float]]


def run(context: Context) -> None:
    """Judge base, sft and aligned; write `data/evaluation` and the metrics `<model>.<score>`.

    A model's answers are kept in the step's work folder under the hash of that model until all three are done, so a
    killed run asks only the models that had not finished.
    """
    parameters, sampling = context.configuration.evaluate, context.configuration.sampling
    documents = context.inputs["clean"] / "documents.parquet"
    context.recorder.dataset("documents", documents, VALIDATION)
    held_out, training = _read(documents)
    questions = build(
        held_out,
        training,
        context.configuration.language,
        documents=parameters.documents,
        characters=parameters.characters,
        choices=parameters.choices,
        titles=parameters.titles,
        other_titles=parameters.other_titles,
        seed=context.seed,
    )
    if questions.counts["documents"] < parameters.documents:
        print(
            f"evaluate: {questions.counts['documents']} held-out documents are scored "
            f"(evaluate.documents asks for {parameters.documents})."
        )
    work = context.work_folder()
    kept = {name: work / f"{name}-{content_hash(context.inputs[name])[:16]}-{_code_hash()}.json" for name in MODELS}
    side_by_side(
        judge_and_keep,
        [
            (name, context.inputs[name], tasks_of(questions, chat=name != "base"), sampling, context.seed, kept[name])
            for name in MODELS
            if not kept[name].exists()
        ],
        most=len(MODELS),
    )
    answers: dict[str, tuple[Scores, list[Row], list[Row]]] = {
        name: tuple(json.loads(kept[name].read_text(encoding="utf-8"))) for name in MODELS
    }
    generations = [row for name in MODELS for row in answers[name][1]]
    contents = (document.content for document in training)
    copied = copied_characters([row["text"] for row in generations], contents, parameters.verbatim_characters)
    for row, count in zip(generations, copied, strict=True):
        row["verbatim_characters"] = count
    results: Scores = {}
    for name in MODELS:
        own = [row for row in generations if row["model"] == name]
        for metric, score in _scores(answers[name][0], own, questions.counts).items():
            results[f"{name}.{metric}"] = score
    with atomic_folder(context.outputs["evaluation"]) as folder:
        _write_json(
            folder / RESULTS_FILE,
            {
                "scores": {key: _rounded(score) for key, score in results.items()},
                "questions": questions.counts,
                "left_out": questions.left_out,
                "chance": {NEXT_LINE: 1 / parameters.choices},
                "sampling": sampling.model_dump(mode="json"),
                "verbatim_run": parameters.verbatim_characters,
            },
        )
        _write_table(folder / GENERATIONS_FILE, generations, _generation_schema())
        _write_table(folder / NEXT_LINE_FILE, [row for name in MODELS for row in answers[name][2]], _choice_schema())
    for key, score in results.items():
        context.metrics[key] = round(score["value"], _DIGITS)
        if "stderr" in score:
            context.metrics[f"{key}_stderr"] = round(score["stderr"], _DIGITS)
    context.metrics.update(questions.counts)
    context.recorder.artifact(context.outputs["evaluation"] / RESULTS_FILE)
    context.finished_with(work)


def judge_and_keep(
    name: str, folder: Path, tasks: Mapping[str, Sequence[Row]], sampling: Sampling, seed: int, kept: Path
) -> None:
    """Put `tasks` to one model and write scores, texts and choices to the JSON file `kept`; runs in a process of its own."""
    from components.evaluate.lighteval_run import judge_model

    outcome = judge_model(name, folder, tasks, chat=name != "base", sampling=sampling, seed=seed, scratch=kept.parent)
    found = (outcome.scores, _generations(name, outcome.details), _choices(name, outcome.details))
    with atomic_file(kept) as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8")


def _read(path: Path) -> tuple[list[Document], list[Document]]:
    """The validation split and the training split, in file order; InkwellError when there is no validation split."""
    table = read_table(path, clean_schema(), ["id", "content", "text", "title", "split"])
    splits: dict[str, list[Document]] = {VALIDATION: [], TRAIN: []}
    for row in table.to_pylist():
        splits[row["split"]].append(Document(row["id"], row["content"], row["text"], row["title"] or None))
    held_out, training = splits[VALIDATION], splits[TRAIN]
    if not held_out:
        raise InkwellError(
            f"{path} holds no validation documents to evaluate on: add documents or raise clean.validation_fraction."
        )
    return held_out, training


def _code_hash() -> str:
    """Identity of the code that answers come from: answers kept by a killed run of other code are not used."""
    components = Path(__file__).parents[1]
    digest = hashlib.sha256(content_hash(components / "chat" / "wording").encode())
    shared = [components / f"{name}.py" for name in _SHARED]
    for path in sorted([*Path(__file__).parent.glob("*.py"), *shared]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _generations(model: str, details: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    rows = []
    for task in sorted(details):
        for detail in details[task] if task not in (NEXT_LINE, BITS) else ():
            asked, text = detail["doc"]["specific"], detail["model_response"]["text"][0]
            scored = detail["metric"]
            ok = bool(scored["even"] and (task != LINE_COUNT or scored["counted"]))
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "document": asked["document"],
                    "prompt": detail["doc"]["query"],
                    "title": asked["title"] or None,
                    "form": asked["form"] or None,
                    "lines": asked["lines"] or None,
                    "text": text,
                    "finished": bool(scored["ended"]),
                    "line_lengths": [len(line) for line in verse_lines(text)],
                    "ok": ok,
                    "counted": bool(scored["counted"]),
                }
            )
    return rows


def _choices(model: str, details: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    return [
        {
            "model": model,
            "document": detail["doc"]["specific"]["document"],
            "context": detail["doc"]["query"],
            "choices": detail["doc"]["choices"],
            "gold": int(detail["doc"]["gold_index"]),
            "logprobs": [round(value, 4) for value in detail["model_response"]["logprobs"]],
            "right": bool(detail["metric"][NEXT_LINE]),
        }
        for detail in details.get(NEXT_LINE, ())
    ]


def _scores(found: Mapping[str, Mapping[str, float]], generations: Sequence[Row], counts: Mapping[str, int]) -> Scores:
    """The scores of one model: lighteval's, and those over all that it wrote."""
    scores: Scores = {}
    error = found[BITS].get(f"{BITS}_stderr", 0.0)
    scores[BITS] = _score(found[BITS][BITS], error, counts["documents"], around(found[BITS][BITS], error))
    if NEXT_LINE in found:
        questions = counts["next_line_questions"]
        scores[NEXT_LINE] = _proportion(found[NEXT_LINE], NEXT_LINE, questions)
    for task in sorted({row["task"] for row in generations}):
        asked = [row for row in generations if row["task"] == task]
        forms = {row["form"] for row in asked}
        if task == LINE_COUNT:
            scores[task] = _proportion(found[task], "counted", len(asked))
        elif forms != {None}:
            scores[task] = _proportion(found[task], "even", len(asked))
    titled = [row for row in generations if row["title"]]
    own, others = overlaps([row["title"] for row in titled], [row["text"] for row in titled])
    for name, values in (("title_overlap", own), ("title_overlap_by_chance", others)):
        if len(values) > 1:
            mean = sum(values) / len(values)
            error = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
            scores[name] = _score(mean, error, len(values), around(mean, error))
    ended = sum(row["finished"] for row in generations)
    scores["ended"] = _score(ended / len(generations), None, len(generations), wilson(ended, len(generations)))
    copied = [row["verbatim_characters"] for row in generations]
    written = [len(row["text"]) for row in generations]
    share, error = sum(copied) / max(1, sum(written)), ratio_stderr(copied, written)
    low, high = around(share, error)
    scores["verbatim_share"] = _score(share, error, len(generations), (max(0.0, low), min(1.0, high)))
    lines = [line for row in generations for line in _lines(row["text"])]
    scores["distinct_lines"] = {"value": len(set(lines)) / max(1, len(lines)), "n": len(lines)}
    return scores


def _lines(text: str) -> list[str]:
    """The lines of a text as it was written; they tell whether a model repeats itself."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _proportion(found: Mapping[str, float], name: str, trials: int) -> dict[str, float]:
    value = found[name]
    return _score(value, found.get(f"{name}_stderr", 0.0), trials, wilson(round(value * trials), trials))


def _score(value: float, stderr: float | None, n: int, interval: tuple[float, float]) -> dict[str, float]:
    score: dict[str, float] = {"value": value, "n": n, "low": interval[0], "high": interval[1]}
    return score if stderr is None else {**score, "stderr": stderr}


def _rounded(score: Mapping[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else round(value, _DIGITS) for name, value in score.items()}


def _generation_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("model", pa.string()),
            ("task", pa.string()),
            ("document", pa.string()),
            ("prompt", pa.string()),
            ("title", pa.string()),
            ("form", pa.int64()),
            ("lines", pa.int64()),
            ("text", pa.string()),
            ("finished", pa.bool_()),
            ("line_lengths", pa.list_(pa.int64())),
            ("ok", pa.bool_()),
            ("counted", pa.bool_()),
            ("verbatim_characters", pa.int64()),
        ]
    )


def _choice_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("model", pa.string()),
            ("document", pa.string()),
            ("context", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("gold", pa.int64()),
            ("logprobs", pa.list_(pa.float64())),
            ("right", pa.bool_()),
        ]
    )


def _write_table(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
