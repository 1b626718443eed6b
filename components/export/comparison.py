"""Each file against the torch model that it was made of: the same text, the same distributions, the same tokens.

Perplexity hardly moves when a small model is quantized, so the judge is the Kullback-Leibler divergence of llama.cpp's
distribution from torch's at every position of held-out documents, as in llama.cpp's own `llama-perplexity
--kl-divergence`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.export.llama_cpp import LlamaCpp
from components.model.architectures import context_of
from components.model.folders import load_model, load_tokenizer
from components.progress import bar

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LONGEST = 512  # tokens of a document that are compared; the rest would say the same again
# One thread a file: on a busy machine threads that wait for each other made a token a hundred times slower.
_THREADS = 1
LARGEST_F16_DIVERGENCE = 1e-3  # nats a token: rounding to 16 bits stays far below, a wrong conversion far above


@dataclass
class _Sums:
    divergence: float = 0.0
    bits: float = 0.0
    same_top: int = 0
    greedy_identical: int = 0
    greedy_tokens: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """What was measured; `by_format` maps a format to its figures."""

    tokenized: int  # documents whose tokens and text agree between llama.cpp and transformers
    positions: int
    prompts: int
    torch_bits_per_character: float
    by_format: Mapping[str, Mapping[str, float]]

    def metrics(self) -> dict[str, float]:
        """Flat names to numbers, `kl_q8_0` and so on."""
        flat: dict[str, float] = {
            "compared_documents_tokenized": self.tokenized,
            "compared_positions": self.positions,
            "compared_prompts": self.prompts,
            "bits_per_char_torch": self.torch_bits_per_character,
        }
        for format, figures in self.by_format.items():
            flat |= {f"{name}_{format}": value for name, value in figures.items()}
        return flat


def compare(
    folder: Path,
    files: Mapping[str, Path],
    documents: Sequence[str],
    prompts: Sequence[str],
    tokens: int,
    to_tokenize: Sequence[str] = (),
) -> Comparison:
    """Open every file in llama.cpp and compare it with the torch model (float32) of `folder`.

    documents: held-out texts, of each the first 512 tokens at most; prompts: rendered texts that are continued
    greedily by `tokens` tokens (half the context at most; longer prompts are left out); to_tokenize: further documents of which only the tokens are compared. The figures of
    a format are `kl` (nats a token, mean), `bits_per_char`, `top_token` (share of positions where the likeliest token
    is the same), `greedy_identical` (share of prompts whose whole continuation is the same) and `greedy_tokens` (share
    of a continuation before its first difference, mean): one near-tie changes everything that comes after it.

    Raises InkwellError where llama.cpp cannot open a file, tokenizes a document differently, or computes something
    else than torch from the unquantized weights.
    """
    import torch

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    context = context_of(model.config)
    encoded = [[*tokenizer.encode(text), int(tokenizer.eos_token_id)][: min(LONGEST, context)] for text in documents]
    tokens = min(tokens, context // 2)
    prompts = [text for text in prompts if len(tokenizer.encode(text)) + tokens <= context]
    if not prompts:
        raise InkwellError(
            f"none of the prompts leaves room for {tokens} tokens in a context of {context}: raise export.comparison_prompts or "
            "lower export.comparison_tokens."
        )
    starts = [tokenizer.encode(text) for text in prompts]
    room = max([*map(len, encoded), *(len(ids) + tokens for ids in starts)])
    sums = {format: _Sums() for format in files}
    ours = _Sums()
    with ExitStack() as opened, bar("compare with llama.cpp", len(encoded) + len(starts)) as shown:
        runtimes = {format: opened.enter_context(LlamaCpp(path, room, _THREADS)) for format, path in files.items()}
        pool = opened.enter_context(ThreadPoolExecutor(len(runtimes)))  # threads that wait for processes

        def check(format: str) -> None:
            _check_tokens(files[format], runtimes[format], tokenizer, [*documents, *to_tokenize], prompts)

        list(pool.map(check, runtimes))
        for ids in encoded:
            asked = {format: pool.submit(runtime.logits, ids) for format, runtime in runtimes.items()}
            with torch.inference_mode():
                expected = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, :-1].double(), -1)
            targets = torch.tensor(ids[1:])
            ours.bits += _bits(expected, targets)
            for format, answer in asked.items():
                found = torch.log_softmax(torch.from_numpy(answer.result().copy())[:-1].double(), -1)
                sums[format].divergence += float((expected.exp() * (expected - found)).sum())
                sums[format].bits += _bits(found, targets)
                sums[format].same_top += int((expected.argmax(-1) == found.argmax(-1)).sum())
            shown.advance(note="distributions")
        for ids, prompt in zip(starts, prompts, strict=True):
            texts = {format: pool.submit(runtime.greedy, ids, tokens) for format, runtime in runtimes.items()}
            written = _greedy(model, tokenizer, prompt, tokens)
            for format, text in texts.items():
                sums[format].greedy_identical += text.result() == written
                sums[format].greedy_tokens += _agreement(text.result(), written)
            shown.advance(note="greedy texts")
    positions = sum(len(ids) - 1 for ids in encoded)
    characters = sum(_characters(tokenizer, ids) for ids in encoded)
    by_format = {
        format: {
            # rounding may leave a tiny negative sum where two distributions are the same
            "kl": max(0.0, one.divergence / positions),
            "bits_per_char": one.bits / characters,
            "top_token": one.same_top / positions,
            "greedy_identical": one.greedy_identical / len(starts),
            "greedy_tokens": one.greedy_tokens / len(starts),
        }
        for format, one in sums.items()
    }
    if by_format.get("f16", {"kl": 0.0})["kl"] > LARGEST_F16_DIVERGENCE:
        raise InkwellError(
            f"{files['f16'].name} computes something else than the torch model ({by_format['f16']['kl']:.2g} nats a token "
            "apart): this architecture is not converted rightly; leave export.formats empty and report it."
        )
    return Comparison(len(documents) + len(to_tokenize), positions, len(starts), ours.bits / characters, by_format)


def _bits(log_probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    """Bits of the tokens that came; log_probabilities [T, V] in nats, targets [T]."""
    return -float(log_probabilities.gather(1, targets[:, None]).sum()) / math.log(2)


def _agreement(found: Sequence[int], expected: Sequence[int]) -> float:
    """Share of the longer of two continuations that stands before their first difference."""
    longer = max(len(found), len(expected))
    same = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return same / longer if longer else 1.0


def _characters(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> int:
    """Characters that `ids` spell, an end mark counted as one."""
    return len(tokenizer.decode(ids, skip_special_tokens=True)) + int(ids[-1] == tokenizer.eos_token_id)


def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, tokens: int) -> list[int]:
    """Torch's likeliest continuation without its end token; one prompt alone, so that no padding changes anything."""
    from components.configuration import Sampling
    from components.model.sampling import complete

    settings = Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=1, maximum_tokens=tokens)
    return list(complete(model, tokenizer, [prompt], settings, seed=0)[0].tokens)


def _check_tokens(
    path: Path, runtime: LlamaCpp, tokenizer: PreTrainedTokenizerFast, documents: Sequence[str], prompts: Sequence[str]
) -> None:
    """Refuse a file whose tokens, or whose text made of them, are not the ones that the model was trained with."""
    for texts, special in ((documents, False), (prompts, True)):
        for text in texts:
            expected = tokenizer.encode(text)
            found = runtime.tokenize(text, special)
            if found != expected:
                at = next(
                    (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                    min(len(found), len(expected)),
                )
                raise InkwellError(
                    f"{path.name}: llama.cpp tokenizes differently from the model's tokenizer, first near "
                    f"{tokenizer.decode(expected[max(0, at - 3) : at + 4])!r}; clean that character out of the corpus."
                )
            if not special and (written := runtime.detokenize(expected)) != text:
                raise InkwellError(
                    f"{path.name}: llama.cpp writes {written[:40]!r} where the text is {text[:40]!r}; clean such characters out of the corpus."
                )
