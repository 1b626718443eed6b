"""The custom tasks of lighteval: how a row becomes a Doc, and how an answer becomes a score.

Rows are made by `questions` and lie as Parquet in one folder a task, which lighteval reads as a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from lighteval.metrics.metrics_corpus import CorpusLevelComputation
from lighteval.metrics.metrics_sample import LoglikelihoodAcc, SampleLevelComputation
from lighteval.metrics.normalizations import LogProbCharNorm
from lighteval.metrics.sample_preparator import PerplexityCorpusMetricInput, Preparator
from lighteval.metrics.utils.metric_utils import CorpusLevelMetric, Metric, SampleLevelMetric, SampleLevelMetricGrouping
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

from components.evaluate.form import judge
from components.evaluate.intervals import ratio_stderr
from components.evaluate.questions import BITS, NEXT_LINE

SPLIT = "validation"
ENDED = -1  # stands for the end mark of either kind, which tokenizers number differently, at the end of an answer


def ended(tokens: Sequence[int]) -> bool:
    """Whether generated tokens end with the end mark: the model stopped by itself."""
    return bool(len(tokens)) and int(tokens[-1]) == ENDED


class CharacterCount(Preparator):
    """Likelihood and characters of one document; its end mark counts as one character where it was scored."""

    def prepare(self, doc: Doc, model_response: ModelResponse, **_: Any) -> PerplexityCorpusMetricInput:
        """The input of BitsPerCharacter: natural log-likelihood and number of characters."""
        assert doc.specific is not None
        characters = len(doc.choices[0]) + int(doc.specific["ended"])
        return PerplexityCorpusMetricInput(logprobs=float(np.sum(model_response.logprobs)), weights=characters)


class BitsPerCharacter(CorpusLevelComputation):
    """Total bits over total characters, and the standard error of that ratio with documents as draws."""

    def compute_corpus(self, items: Sequence[PerplexityCorpusMetricInput]) -> dict[str, float]:
        """Both figures; a dictionary also keeps lighteval from bootstrapping in a pool of processes."""
        bits = [-float(item.logprobs) / float(np.log(2)) for item in items]
        characters = [float(item.weights) for item in items]
        return {BITS: sum(bits) / sum(characters), f"{BITS}_stderr": ratio_stderr(bits, characters)}


class Form(SampleLevelComputation):
    """Whether a generated text ended by itself and has the lines that were asked for."""

    NAMES = ("even", "counted", "ended")

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> dict[str, int]:
        """1 or 0 for each of NAMES (see `components.evaluate.form.Verdict`)."""
        assert doc.specific is not None
        finished = ended(model_response.output_tokens[0])
        form, lines = doc.specific["form"] or None, doc.specific["lines"] or None
        verdict = judge(model_response.text[0], finished, form, lines)
        return {"even": int(verdict.even), "counted": int(verdict.counted), "ended": int(finished)}


def _next_line(row: dict[str, Any], _: str) -> Doc:
    return Doc(
        query=row["context"],
        choices=row["choices"],
        gold_index=row["gold"],
        specific={"document": row["document"]},
    )


def _bits(row: dict[str, Any], _: str) -> Doc:
    return Doc(
        query="",
        choices=[row["text"]],
        gold_index=0,
        original_query=row["text"],
        specific={"document": row["document"], "ended": row["ended"]},
    )


def _generation(row: dict[str, Any], _: str) -> Doc:
    return Doc(
        query=row["prompt"],
        choices=[],
        gold_index=0,
        specific={name: row[name] for name in ("title", "form", "lines", "document")},
    )


def _metrics(task: str) -> list[Metric]:
    if task == NEXT_LINE:
        accuracy = LoglikelihoodAcc(logprob_normalization=LogProbCharNorm())
        return [SampleLevelMetric(NEXT_LINE, True, SamplingMethod.LOGPROBS, accuracy, np.mean)]
    if task == BITS:
        return [CorpusLevelMetric(BITS, False, SamplingMethod.PERPLEXITY, CharacterCount(), BitsPerCharacter())]
    return [
        SampleLevelMetricGrouping(
            metric_name=list(Form.NAMES),
            higher_is_better=dict.fromkeys(Form.NAMES, True),
            category=SamplingMethod.GENERATIVE,
            sample_level_fn=Form(),
            corpus_level_fn=dict.fromkeys(Form.NAMES, np.mean),
        )
    ]


def task_module(tasks: Mapping[str, Sequence[dict[str, Any]]], folder: Path, maximum_tokens: int) -> ModuleType:
    """Write the rows of each task under `folder` and return the module of custom tasks that reads them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = []
    for name, rows in tasks.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / name / f"{SPLIT}.parquet")
        table.append(
            LightevalTaskConfig(
                name=name,
                prompt_function={NEXT_LINE: _next_line, BITS: _bits}.get(name, _generation),
                hf_repo=str(folder / name),
                hf_subset="default",
                hf_avail_splits=[SPLIT],
                evaluation_splits=[SPLIT],
                metrics=_metrics(name),
                generation_size=maximum_tokens,
                stop_sequence=[],
            )
        )
    module = ModuleType("inkwell_tasks")
    module.TASKS_TABLE = table  # type: ignore[attr-defined]
    return module
