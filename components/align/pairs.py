"""Preference pairs: a question, the real text, and one that is worse."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.align.damage import Damager
from components.chat.markup import escape, render
from components.corpus.conversations import (
    CONTINUE,
    REFUSAL,
    WHO_WROTE,
    WRITE,
    WRITE_IN_STYLE,
    Conversation,
    Preference,
)
from components.corpus.verse import line_length, verse_lines
from components.errors import InkwellError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Align, Sampling
    from components.model.sampling import Completion

UNFINISHED = "sampled: no end"  # such a rejected answer is encoded without its end mark


def ask_for_texts(conversations: Sequence[Conversation], count: int, rng: random.Random) -> list[Conversation]:
    """At most `count` conversations whose answer is a text; where there are too few that ask to write, some continue."""
    writing = [one for one in conversations if one.kind in (WRITE, WRITE_IN_STYLE)]
    continuing = [one for one in conversations if one.kind == CONTINUE]
    chosen = rng.sample(writing, min(count, len(writing)))
    return chosen + rng.sample(continuing, min(count - len(chosen), len(continuing)))


def corrupted_pairs(
    conversations: Sequence[Conversation], others: Sequence[Conversation], rng: random.Random
) -> list[Preference]:
    """One pair for each conversation that can be damaged."""
    damager = Damager([other for other in others if other.kind not in (WHO_WROTE, REFUSAL)])
    pairs = []
    for conversation in conversations:
        damaged = damager.damage(conversation, rng)
        if damaged:
            pairs.append(_pair(conversation, damaged[0], f"corrupted: {damaged[1]}"))
    return pairs


def sampled_pairs(
    conversations: Sequence[Conversation],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sampling: Sampling,
    settings: Align,
    seed: int,
) -> list[Preference]:
    """One pair for each conversation: the real text against what the model itself writes.

    Samples are drawn as users draw them. A faulty one is named after its fault; a faultless one still stands against
    the real text, which it is to become more like (Chen et al., "Self-Play Fine-Tuning", arXiv 2401.01335), unless
    `settings.faultless_samples` is off.
    """
    from components.model.sampling import complete

    prompts = [render(conversation.prompt, add_generation_prompt=True) for conversation in conversations]
    completions = complete(model, tokenizer, prompts, sampling, seed, label="the model's own samples")
    pairs = []
    for conversation, completion in zip(conversations, completions, strict=True):
        fault = fault_of(completion, conversation.form)
        text = escape(completion.text.strip())
        if text and text != conversation.answer and (fault or settings.faultless_samples):
            pairs.append(_pair(conversation, text, f"sampled: {fault or 'faultless'}"))
    return pairs


def fault_of(completion: Completion, form: int | None) -> str | None:
    """What is wrong with a sample: "no end", "wrong form" or "repeated line"; None where nothing is."""
    if not completion.finished:
        return UNFINISHED.removeprefix("sampled: ")
    if form is not None and line_length(completion.text) != form:
        return "wrong form"
    lines = verse_lines(completion.text) if form is not None else completion.text.split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    return "repeated line" if len(set(lines)) < len(lines) else None


def make_pairs(
    conversations: Sequence[Conversation],
    count: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sampling: Sampling,
    settings: Align,
    seed: int,
) -> list[Preference]:
    """About `count` pairs as `settings.rejected` says, shuffled; the same for the same model, parameters and seed.

    Raises InkwellError when no conversation asks for a text, or none can be paired.
    """
    rng = random.Random(f"{seed}:pairs")
    chosen = ask_for_texts(conversations, count, rng)
    shares = {"corrupted": 0.0, "sampled": 1.0, "both": 0.5}
    sampled_count = round(shares[settings.rejected] * len(chosen))
    pairs = corrupted_pairs(chosen[sampled_count:], conversations, rng)
    if sampled_count:
        pairs += sampled_pairs(chosen[:sampled_count], model, tokenizer, sampling, settings, seed)
    if not pairs:
        raise InkwellError(
            "align: no preference pair can be made of the conversations: they ask for no texts; raise instruct.write or "
            "instruct.continue_text, or set align.rejected to both."
        )
    rng.shuffle(pairs)
    return pairs


def _pair(conversation: Conversation, rejected: str, made: str) -> Preference:
    return Preference(
        id=f"{conversation.id}:{made.split(':')[0]}",
        document_id=conversation.document_id,
        prompt=conversation.prompt,
        chosen=conversation.answer,
        rejected=rejected,
        made=made,
        form=conversation.form,
    )
