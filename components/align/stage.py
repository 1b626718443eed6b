"""Pairs, training, and the files that are left."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.corpus.conversations import (
    CONVERSATIONS_FILE,
    PREFERENCES_FILE,
    Conversation,
    Preference,
    read_conversations,
    read_preferences,
    write_preferences,
)
from components.corpus.documents import TRAIN, VALIDATION
from components.errors import InkwellError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.align.optimization import Outcome
    from components.configuration import Align
    from components.step import Context

CURVE_COLUMNS = {
    "step": "step",
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "learning_rate": "learning_rate",
}


def run(context: Context) -> None:
    """Make pairs, train, and write `models/aligned`, `preferences.parquet` and the curve."""
    import torch

    from components.align.optimization import encode_pairs, longest, optimize
    from components.atomic import atomic_folder
    from components.machine.cores import choose_threads
    from components.machine.facts import choose_bf16
    from components.model.folders import load_model, load_tokenizer, save_model
    from components.vocabulary.spelling import origin

    settings, machine = context.configuration.align, context.configuration.machine
    if machine.device != "cpu":
        print(f"  align trains on the processor; machine.device = {machine.device} is for pretrain and sft", flush=True)
    torch.set_num_threads(choose_threads(machine.threads))
    folder = context.inputs["sft"]
    work = context.work_folder()
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    conversations = read_conversations(context.inputs["instruct"] / CONVERSATIONS_FILE)
    pairs = _kept_pairs(context, conversations, model, tokenizer, work / PREFERENCES_FILE)
    held_out = _held_out_pairs(conversations, settings, context.seed)

    encoded = encode_pairs(tokenizer, pairs)
    block = min(settings.block, int(model.config.max_position_embeddings))
    fitting = [index for index, pair in enumerate(encoded) if longest(pair) <= block]
    if len(fitting) < 2:
        raise InkwellError(
            f"align.block = {block} tokens leaves {len(fitting)} of {len(pairs)} pairs: raise it, or lower instruct.maximum_characters."
        )
    pairs_used = [pairs[index] for index in fitting]
    encoded_held_out = encode_pairs(tokenizer, held_out) if held_out else []
    validation = [index for index, pair in enumerate(encoded_held_out) if longest(pair) <= block]
    outcome = optimize(
        model,
        tokenizer,
        [encoded[index] for index in fitting],
        [encoded_held_out[index] for index in validation],
        settings,
        context.seed,
        work,
        bf16=choose_bf16(machine.precision, "cpu"),
    )
    _measure(context, pairs_used, len(pairs) - len(pairs_used), outcome)
    _measure_held_out(context, [held_out[index] for index in validation], outcome)
    _write_curve(context.outputs["curve"], outcome)
    with atomic_folder(context.outputs["preferences"]) as temporary:
        write_preferences(temporary / PREFERENCES_FILE, pairs_used)
    card = model_card(settings, pairs_used, context.metrics, context.configuration.language, origin(folder))
    save_model(model, folder, context.outputs["aligned"], card)
    context.metrics["resumed_at_step"] = outcome.resumed_at  # no part of the card, which a kill does not change
    for entry in outcome.curve:
        context.recorder.metrics(
            {name: entry[key] for name, key in CURVE_COLUMNS.items() if key != "step"}, at=int(entry["step"])
        )
    context.recorder.dataset("preferences", context.outputs["preferences"], "training")
    context.recorder.model("aligned", context.outputs["aligned"], parents=[folder])
    context.finished_with(work)


def _kept_pairs(
    context: Context,
    conversations: Sequence[Conversation],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    kept: Path,
) -> list[Preference]:
    """The pairs to train on; drawing samples takes a while, so they outlive a kill."""
    from components.align.pairs import make_pairs

    if not kept.exists():
        settings = context.configuration.align
        train = [conversation for conversation in conversations if conversation.split == TRAIN]
        pairs = make_pairs(
            train, settings.pairs, model, tokenizer, context.configuration.sampling, settings, context.seed
        )
        write_preferences(kept, pairs)
    return read_preferences(kept)


def _held_out_pairs(conversations: Sequence[Conversation], settings: Align, seed: int) -> list[Preference]:
    """Damaged texts of the validation split: they tell whether preferences carry over to what was not trained on."""
    from components.align.pairs import ask_for_texts, corrupted_pairs

    rng = random.Random(f"{seed}:held-out pairs")
    validation = [conversation for conversation in conversations if conversation.split == VALIDATION]
    return corrupted_pairs(ask_for_texts(validation, settings.validation_pairs, rng), validation, rng)


def _measure(context: Context, pairs: Sequence[Preference], left_out: int, outcome: Outcome) -> None:
    made = Counter(pair.made.split(":")[0] for pair in pairs)
    # Every pair is seen before it is trained on (in the first epoch), so the curve's end is nearly held out itself.
    last = outcome.curve[-max(1, len(outcome.curve) // 4) :]
    context.metrics |= {
        "pairs": len(pairs),
        "pairs_corrupted": made["corrupted"],
        "pairs_sampled": made["sampled"],
        "pairs_left_out": left_out,
        "sampled_faulty_share": round(
            sum(pair.made.startswith("sampled") and not pair.made.endswith("faultless") for pair in pairs)
            / max(1, made["sampled"]),
            4,
        ),
        "steps": int(outcome.curve[-1]["step"]),
        "accuracy": round(sum(entry["rewards/accuracies"] for entry in last) / len(last), 4),
        "margin": round(sum(entry["rewards/margins"] for entry in last) / len(last), 4),
    }


def _measure_held_out(context: Context, pairs: Sequence[Preference], outcome: Outcome) -> None:
    """Bits a character of real held-out answers, end marks counted, before and after; accuracy and margin."""
    if not pairs:
        return
    margins = outcome.held_out_margins(context.configuration.align.beta)
    characters = sum(len(pair.chosen) + 1 for pair in pairs)
    before, after = (
        -sum(chosen for chosen, _ in likelihoods) / math.log(2) / characters
        for likelihoods in (outcome.before, outcome.after)
    )
    context.metrics |= {
        "validation_pairs": len(pairs),
        "validation_accuracy": round(sum(margin > 0 for margin in margins) / len(pairs), 4),
        "validation_margin": round(sum(margins) / len(pairs), 4),
        "validation_answer_bits_per_char_before": round(before, 4),
        "validation_answer_bits_per_char": round(after, 4),
    }


def _write_curve(path: Path, outcome: Outcome) -> None:
    import csv

    from components.atomic import atomic_file

    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(CURVE_COLUMNS)
        for entry in outcome.curve:
            writer.writerow([entry[key] for key in CURVE_COLUMNS.values()])


def model_card(
    settings: Align, pairs: Sequence[Preference], metrics: dict[str, float], language: str, origin: str
) -> str:
    """`README.md` of the model folder: what it is, how it came about, what it is not.

    origin: how the weights of the base model began, in words.
    """
    made = Counter(pair.made for pair in pairs)
    rows = "\n".join(f"| {name} | {count} |" for name, count in sorted(made.items()))
    figures = "\n".join(f"| {name} | {value:g} |" for name, value in sorted(metrics.items()))
    return f"""---
language: {language}
library_name: transformers
pipeline_tag: text-generation
tags: [inkwell, dpo, trl]
---
# Aligned model

A small language model, {origin}
by Inkwell on one corpus, fine-tuned on conversations made of the same corpus, then aligned by direct preference
optimization (trl): answers that are real texts were preferred to {len(pairs)} worse ones. It writes, continues and
imitates texts of its corpus. It was taught to follow no other instructions, what it says is no source of facts, and what
it says about authors can be wrong.

No person rated anything: the preferred answer is always the text of the corpus, the other one was made as follows.

| rejected answer | pairs |
|---|---|
{rows}

Loss: DPO with beta {settings.beta:g}, and {settings.sft_weight:g} of the negative log-likelihood of the preferred answer.

| figure | value |
|---|---|
{figures}

Chat format: ChatML after the begin token `<s>`; the template is part of the tokenizer. Parameters in full:

```json
{json.dumps(settings.model_dump(mode="json"), indent=1, sort_keys=True)}
```
"""
