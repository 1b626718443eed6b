"""Drawing text from a model: temperature, top-k, top-p and repetition penalty over batches of prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.model.architectures import context_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Sampling

_SHORTLIST = 256  # likeliest tokens that nearly always hold top_p of the probability
_COMPACT = 0.75  # a batch is narrowed when this share of its rows, or less, is still being written


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt; `finished` tells that it ended by itself, not by the token limit."""

    text: str
    tokens: tuple[int, ...]
    finished: bool


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    settings: Sampling,
    seed: int,
    batch_size: int = 64,
    label: str | None = None,
) -> list[Completion]:
    """Continue every prompt, in the order given.

    Prompts are encoded as they stand (the caller adds ChatML with `components.chat.markup.render`); the begin token is put
    in front. A completion ends at `</s>` or `<|im_end|>`, which is not part of its text, after
    `settings.maximum_tokens` tokens, or where the model's context is full. Every prompt draws from random numbers of
    its own, so its text depends on the seed and its place in `prompts`, and on the other prompts and `batch_size` only
    as far as rounding goes. `label` shows progress under that name.

    Raises InkwellError naming the index of a prompt that leaves no room in the context.
    """
    from contextlib import nullcontext

    from components.progress import bar

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    context = context_of(model.config)
    for index, ids in enumerate(encoded):
        if len(ids) >= context:
            raise InkwellError(
                f"Prompt {index} has {len(ids)} tokens, the model's context holds {context} with at least one new token: shorten the prompt."
            )
    written: list[list[int]] = [[] for _ in encoded]
    finished = [False] * len(encoded)
    ends = end_ids(tokenizer)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))  # little padding
    with bar(label, len(encoded)) if label else nullcontext() as shown:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for row, token in _draw(model, [encoded[i] for i in batch], settings, seed, batch, ends):
                index = batch[row]
                if token in ends:
                    finished[index] = True
                else:
                    written[index].append(token)
            if shown:
                shown.advance(len(batch), f"{sum(map(len, written)):,} tokens")
    return [
        Completion(_text(tokenizer, tokens), tuple(tokens), ended)
        for tokens, ended in zip(written, finished, strict=True)
    ]


def stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, settings: Sampling, seed: int
) -> Iterator[str]:
    """The text of `complete(...)` for one prompt, piece by piece, as soon as whole characters are there."""
    ids = encode_prompt(tokenizer, prompt)
    context = context_of(model.config)
    if len(ids) >= context:
        raise InkwellError(
            f"The prompt has {len(ids)} tokens, the model's context holds {context} with at least one new token: shorten the prompt."
        )
    ends = end_ids(tokenizer)
    drawn = (token for _, token in _draw(model, [ids], settings, seed, [0], ends))
    yield from _pieces(tokenizer, itertools.takewhile(lambda token: token not in ends, drawn))


def _pieces(tokenizer: PreTrainedTokenizerFast, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as soon as whole characters are there: one may be spelled in several byte tokens.

    Bytes that make no character show as U+FFFD, and do not spoil the characters before them.
    """
    pending: list[int] = []
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=False)
        if not text.endswith("\ufffd"):
            yield text
            pending = []
    if pending:
        yield tokenizer.decode(pending, skip_special_tokens=False)


def _text(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    """The text of `_pieces`; decoding at once is the same wherever all bytes make characters."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=False)
    return "".join(_pieces(tokenizer, tokens)) if "\ufffd" in text else text


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Ids of a prompt with the begin token in front."""
    return [int(tokenizer.bos_token_id), *tokenizer.encode(prompt, add_special_tokens=False)]


def end_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Tokens at which a completion ends: `</s>` and, where the tokenizer has it, `<|im_end|>`."""
    from components.chat.markup import TURN_END

    known = tokenizer.get_vocab()
    return frozenset(int(i) for i in (tokenizer.eos_token_id, known.get(TURN_END)) if i is not None)


def _draw(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    seed: int,
    streams: Sequence[int],
    ends: frozenset[int],
) -> Iterator[tuple[int, int]]:
    """Decode a batch and yield (row, token) as tokens are drawn; a row's end token, if it comes, is its last.

    What was read is cached. Prompts are padded on the left: padding is masked, has no position and does not count as
    seen. Rows that have ended leave the batch. `streams[row]` picks the row's random numbers.
    """
    import numpy as np
    import torch

    from components.model.growing_cache import Memory

    device = next(model.parameters()).device
    width = max(map(len, prompts))
    room = context_of(model.config)
    limits = [min(settings.maximum_tokens, room - len(ids)) for ids in prompts]
    uniforms = np.stack([np.random.default_rng((seed, stream)).random(settings.maximum_tokens) for stream in streams])
    # Padding holds the begin token, which every row has seen anyway, so the penalty on seen tokens is not changed by it.
    padded = [[prompts[0][0]] * (width - len(ids)) + list(ids) for ids in prompts]
    seen = torch.tensor(padded, device=device)
    chooser = Chooser(settings)
    rows = list(range(len(prompts)))  # the prompt that each row of the tensors belongs to
    alive = [True] * len(prompts)
    memory = Memory(model.config, list(map(len, prompts)), device)
    arguments = memory.first(seen)
    for step in range(max(limits)):
        # Entered anew at each step: a generator must not leave inference mode on in its caller between tokens.
        with torch.inference_mode():
            output = model(**arguments, use_cache=True, logits_to_keep=1)
            tokens = chooser(seen, output.logits[:, -1].float(), uniforms[rows, step])
        drawn = list(zip(rows, tokens.tolist(), strict=True))
        yield from ((row, token) for row, token in drawn if alive[row])
        for row, token in drawn:
            alive[row] = alive[row] and token not in ends and step + 1 < limits[row]
        kept = [place for place, row in enumerate(rows) if alive[row]]
        if not kept:
            return
        with torch.inference_mode():
            if chooser.needs_seen:
                seen = torch.cat([seen, tokens[:, None]], 1)
            if len(kept) <= _COMPACT * len(rows):
                index = torch.tensor(kept, device=device)
                memory.keep(index)
                seen, tokens = seen[index], tokens[index]
                rows = [rows[place] for place in kept]
            arguments = memory.next(tokens)


class Chooser:
    """Draws a token a row: penalty, temperature and top-k by transformers' processors, then top-p, in its order.

    Top-p needs the scores sorted, which costs more than the model at this size. The likeliest `_SHORTLIST` tokens
    nearly always hold enough probability; only rows where they do not are sorted whole. What is kept is the same.
    """

    def __init__(self, settings: Sampling) -> None:
        from transformers.generation.logits_process import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
        )

        self.greedy = settings.temperature == 0
        self.top_p = settings.top_p
        self.needs_seen = settings.repetition_penalty != 1.0
        self.processors = LogitsProcessorList()
        if self.needs_seen:
            self.processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if not self.greedy and settings.temperature != 1.0:
            self.processors.append(TemperatureLogitsWarper(settings.temperature))
        if not self.greedy and settings.top_k:
            self.processors.append(TopKLogitsWarper(settings.top_k))

    def __call__(self, seen: torch.Tensor, logits: torch.Tensor, uniforms: NDArray[np.float64]) -> torch.Tensor:
        """Tokens [rows] from the ids seen so far [rows, tokens], logits [rows, vocabulary] and uniforms [rows]."""
        import torch

        scores = self.processors(seen, logits)
        if self.greedy:
            return scores.argmax(-1)
        probabilities = scores.softmax(-1)
        uniform = torch.from_numpy(uniforms).to(scores.device)
        if self.top_p >= 1:
            return _invert(probabilities, uniform)
        likeliest = probabilities.topk(min(_SHORTLIST, probabilities.shape[-1])).values
        floor = self._floor(likeliest)
        short = (likeliest.double().sum(-1) < self.top_p).nonzero()[:, 0]
        if len(short):
            floor[short] = self._floor(probabilities[short].sort(descending=True).values)
        return _invert(probabilities * (probabilities >= floor[:, None]), uniform)

    def _floor(self, likeliest: torch.Tensor) -> torch.Tensor:
        """The smallest probability that top-p keeps: of those in falling order, the one with which `top_p` is reached."""
        before = likeliest.double().cumsum(-1) - likeliest
        kept = (before < self.top_p).sum(-1, keepdim=True).clamp(min=1)
        return likeliest.gather(-1, kept - 1)[:, 0]


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The index in each row at which the running sum of weights passes the share `uniform` of their total.

    In order of tokens, not of weights: where two weights are nearly equal, rounding would swap their places.
    """
    import torch

    sums = weights.double().cumsum(-1)
    found = torch.searchsorted(sums, (uniform * sums[:, -1])[:, None], right=True)[:, 0]
    # Where rounding puts the mark at the very end, the last index with any weight.
    last = weights.shape[-1] - 1 - (weights > 0).int().flip(-1).argmax(-1)
    return torch.minimum(found, last)
