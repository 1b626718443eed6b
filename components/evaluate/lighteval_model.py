"""A model folder as a lighteval model: lighteval asks and scores, the project's own batched code computes.

lighteval's transformers back end pads every batch to its longest text at a fixed number of rows and samples with
`generate`; here scoring goes through `components.model.scoring` and sampling through `components.model.sampling`, so that the
figures are those that training and the report speak of. A test holds both back ends to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lighteval.models.abstract_model import LightevalModel, ModelConfig
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc
from lighteval.utils.cache_management import SampleCache

from components.chat.markup import escape, render
from components.evaluate.lighteval_tasks import ENDED
from components.model.architectures import context_of
from components.model.folders import load_model, load_tokenizer
from components.model.sampling import complete
from components.model.scoring import document_bits
from components.progress import Bar, bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Sampling

_SCORED_TOGETHER = 64  # documents between two advances of the progress bar
_BATCH_TOKENS = 1024  # of a forward pass: scores of more tokens leave the processor's cache and take twice the time


class FolderModel(LightevalModel):
    """The model of a folder. `chat`: questions are put as a user's turn in ChatML; else they are continued as text.

    The order in which lighteval asks depends on Python's hash seed; answers are computed in the order of task and
    row, so that batches, and with them the sampled texts, are the same in every run.
    """

    def __init__(self, name: str, folder: Path, chat: bool, sampling: Sampling, seed: int, cache: Path) -> None:
        self.name, self.chat, self.sampling, self.seed = name, chat, sampling, seed
        self.model = load_model(folder)
        self._tokenizer = load_tokenizer(folder)
        self.config = ModelConfig(model_name=name, cache_dir=str(cache))
        # Pipeline wants one; nothing is put into it, since it tells models apart by their names alone.
        self._cache = SampleCache(self.config)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The folder's tokenizer."""
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        """False: the begin token is put in front here."""
        return False

    @property
    def max_length(self) -> int:
        """The model's context, tokens."""
        return context_of(self.model.config)

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Log-likelihood of each choice after the query, nats.

        Query and choice are encoded together, and what all choices of a question share is taken off, so that it does
        not matter whether a token of the vocabulary spans the seam. A query that is too long loses its beginning.
        """
        with bar(f"{self.name}: next line", len(docs)) as shown:
            return self._in_order(docs, lambda part: self._choices(part, shown), _SCORED_TOGETHER)

    def _choices(self, docs: Sequence[Doc], shown: Bar) -> list[ModelResponse]:
        begin = int(self._tokenizer.bos_token_id)
        sequences: list[tuple[list[int], int]] = []
        for doc in docs:
            encoded = self._encode([doc.query + choice for choice in doc.choices])
            shared = 0
            while all(shared < len(ids) - 1 and ids[shared] == encoded[0][shared] for ids in encoded):
                shared += 1
            dropped = min(shared, max(0, 1 + max(map(len, encoded)) - self.max_length))
            sequences += [([begin, *ids[dropped:]][: self.max_length], 1 + shared - dropped) for ids in encoded]
        scores = iter(ending_logprobs(self.model, sequences))
        responses = [ModelResponse(logprobs=[next(scores) for _ in doc.choices]) for doc in docs]
        shown.advance(len(docs))
        return responses

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """Log-likelihood of whole documents, the begin token before and (where `ended`) the end mark counted, nats."""
        import numpy as np

        begin, end = int(self._tokenizer.bos_token_id), int(self._tokenizer.eos_token_id)

        def score(part: Sequence[Doc]) -> list[ModelResponse]:
            encoded = self._encode([doc.choices[0] for doc in part])
            tokens = [
                np.asarray([begin, *ids, *([end] if doc.specific and doc.specific["ended"] else [])])
                for doc, ids in zip(part, encoded, strict=True)
            ]
            shown.advance(len(part))
            return [
                ModelResponse(logprobs=[-bits * math.log(2)])
                for bits in document_bits(self.model, tokens, batch_tokens=_BATCH_TOKENS).tolist()
            ]

        with bar(f"{self.name}: bits per character", len(docs)) as shown:
            return self._in_order(docs, score, _SCORED_TOGETHER)

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """One free sample a question (lighteval's name is older than sampling), by the pipeline's `sampling`."""

        def sample(part: Sequence[Doc]) -> list[ModelResponse]:
            prompts = [
                render([{"role": "user", "content": escape(doc.query)}], add_generation_prompt=True)
                if self.chat
                else doc.query
                for doc in part
            ]
            task = part[0].task_name.split("|")[0]
            label = f"{self.name}: {task}"
            completions = complete(self.model, self._tokenizer, prompts, self.sampling, self.seed, label=label)
            return [
                ModelResponse(
                    text=[completion.text],
                    output_tokens=[[*completion.tokens, ENDED] if completion.finished else list(completion.tokens)],
                )
                for completion in completions
            ]

        return self._in_order(docs, sample, None)

    def _in_order(
        self, docs: list[Doc], answer: Callable[[Sequence[Doc]], list[ModelResponse]], together: int | None
    ) -> list[ModelResponse]:
        """Answers in the order of `docs`, computed task by task, row by row, `together` (or all) rows at a time."""
        order = sorted(range(len(docs)), key=lambda index: (docs[index].task_name, int(docs[index].id)))
        answers: dict[int, ModelResponse] = {}
        start = 0
        while start < len(order):
            task = docs[order[start]].task_name
            end = start
            while (
                end < len(order) and docs[order[end]].task_name == task and (together is None or end - start < together)
            ):
                end += 1
            part = order[start:end]
            answers.update(zip(part, answer([docs[index] for index in part]), strict=True))
            start = end
        return [answers[index] for index in range(len(docs))]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: Any = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [list(ids) for ids in encoded]


def ending_logprobs(model: PreTrainedModel, sequences: Sequence[tuple[Sequence[int], int]]) -> list[float]:
    """Natural log-likelihood of tokens `first`.. of each (ids, first), given those before; in the order given.

    Scores over the vocabulary, half of a small model's work, are computed for the endings only.
    """
    import torch

    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index][0]), sequences[index][1]))
    results = [0.0] * len(sequences)
    position = 0
    with torch.inference_mode():
        while position < len(order):
            longest = len(sequences[order[position]][0])
            batch = order[position : position + max(1, _BATCH_TOKENS // longest)]
            position += len(batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, index in enumerate(batch):
                ids[row, : len(sequences[index][0])] = torch.tensor(sequences[index][0])
            start = min(sequences[index][1] for index in batch) - 1  # scores at `start` tell of the token after it
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=longest - start).logits
            scores = logits.float().log_softmax(-1)
            for row, index in enumerate(batch):
                tokens, first = sequences[index]
                told = scores[row, first - 1 - start : len(tokens) - 1 - start]
                results[index] = float(told.gather(1, ids[row, first : len(tokens), None]).double().sum())
    return results
