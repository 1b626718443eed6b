"""The step: load the base model, train on answers, save."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

import torch

from components.corpus.conversations import CONVERSATIONS_FILE, read_conversations
from components.corpus.documents import TRAIN, VALIDATION
from components.errors import InkwellError
from components.launch.processes import here
from components.machine.compiling import achieved
from components.machine.devices import choose_device
from components.machine.hardware import decide
from components.machine.precision import has_bf16
from components.model.folders import load_model, load_tokenizer, save_model
from components.sft.data import ConversationSequences
from components.sft.lora import add_adapters, check_adapters, merge_adapters
from components.training.distributed import open_world
from components.training.loop import fit, write_curve
from components.training.order import IGNORED
from components.training.recipe import check_ramp, optimizers_for, prepare
from components.training.run import open_run
from components.training.trial import StepTrial

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from components.step import Context


def run(context: Context) -> None:
    """Train `models/sft` and write its curve and metrics."""
    parameters, machine = context.configuration.sft, context.configuration.machine
    check_ramp("sft", parameters)
    adapters = parameters.method == "lora"
    if adapters:
        check_adapters(machine.parallel)
        machine = machine.model_copy(update={"compile": "off"})  # they are too few to pay for it (`prepare`)
    base = context.inputs["base"]
    tokenizer = load_tokenizer(base)
    torch.manual_seed(context.seed)
    model = load_model(base)
    if parameters.block > model.config.max_position_embeddings:
        raise InkwellError(
            f"sft.block = {parameters.block} is longer than the base model's context "
            f"({model.config.max_position_embeddings}): make it smaller."
        )
    file = context.inputs["conversations"] / CONVERSATIONS_FILE
    train = ConversationSequences(read_conversations(file, TRAIN), tokenizer, parameters.block)
    held_out = read_conversations(file, VALIDATION)[: parameters.validation_conversations]
    validation = ConversationSequences(held_out, tokenizer, parameters.block)
    tokens = parameters.total_tokens

    def save(current: PreTrainedModel, folder: Path) -> None:
        plain = merge_adapters(copy.deepcopy(current)) if adapters else current
        save_model(plain, base, folder, _card(parameters.method, len(train), None))

    device = choose_device(machine.device)
    with open_world(here(), machine.parallel, device) as world:
        held = open_run(context, parameters, world.leader)
        if adapters:
            model = add_adapters(model, parameters)
        trial = StepTrial(
            model,
            partial(optimizers_for, parameters, adapters, muon_bf16=has_bf16(device)),
            micro_batch=parameters.micro_batch,
            accumulation=parameters.accumulation,
            block=parameters.block,
            activation_checkpointing=parameters.activation_checkpointing,
        )
        # room for one process: only `pretrain` starts others by itself
        choices = world.decide(lambda: decide(machine, tokens, held.work, trial=trial, room=1))
        choices.apply()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        epochs = tokens / int(train.lengths.sum())
        print(
            f"  plan: {parameters.method}, {trained / 1e6:.2f} M trained parameters, {len(train):,} conversations, "
            f"{epochs:.2f} epochs; {choices}",
            flush=True,
        )
        training = prepare(parameters, model, train, context.seed, choices, world, adapters=adapters)
        outcome = fit(
            training,
            label="sft",
            run=held,
            recorder=context.recorder,
            validate=lambda current: {"validation_answer_loss": answer_loss(current, validation, choices.bf16)},
            save_model=save,
        )
    if outcome.model is None:
        return  # the leader scores and writes
    model = merge_adapters(outcome.model) if adapters else outcome.model
    answers = sum(row["tokens"] for row in outcome.curve)  # what the rate counts; calibration counts whole rows
    rows = training.loader.total_rows * parameters.block
    context.metrics.update(
        validation_answer_loss=answer_loss(model, validation, autocast=False),
        tokens_per_second=round(outcome.tokens_per_second, 1),
        trained_parameters=trained,
        conversations=len(train),
        conversations_left_out=train.left_out,
        epochs=round(epochs, 4),
        **achieved(choices, outcome.tokens_per_second * rows / answers if answers else 0.0),
        **choices.metrics(),
        **outcome.figures(),
    )
    write_curve(context.outputs["curve"], outcome.curve)
    save_model(model, base, context.outputs["model"], _card(parameters.method, len(train), epochs))
    context.recorder.dataset("conversations", context.inputs["conversations"], "training")
    context.recorder.model("sft", context.outputs["model"], [base])
    context.finished_with(held.work, outcome.earlier_seconds)


def answer_loss(model: PreTrainedModel, data: ConversationSequences, autocast: bool, batch: int = 32) -> float:
    """Mean negative log-likelihood of answer tokens, nats a token."""
    order = sorted(range(len(data)), key=lambda index: int(data.lengths[index]))
    device = next(model.parameters()).device
    total, count, was_training = 0.0, 0, model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        for start in range(0, len(order), batch):
            picked = order[start : start + batch]
            longest = int(data.lengths[picked[-1]])
            inputs = torch.zeros(len(picked), longest, dtype=torch.long)
            targets = torch.full((len(picked), longest), IGNORED)
            for row, index in enumerate(picked):
                tokens = torch.from_numpy(data.tokens(index))
                inputs[row, : len(tokens)] = tokens
                targets[row, : len(tokens) - 1] = tokens[1:].masked_fill(
                    ~torch.from_numpy(data.counted(index))[1:], IGNORED
                )
            logits = model(input_ids=inputs.to(device), use_cache=False).logits.float()
            total += float(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.to(device).flatten(), ignore_index=IGNORED, reduction="sum"
                )
            )
            count += int((targets != IGNORED).sum())
    model.train(was_training)
    return total / max(1, count)


def _card(method: str, conversations: int, epochs: float | None) -> str:
    """The model card; `epochs` is None for a model that is kept from the midst of a run."""
    extent = "unfinished (see position.json)" if epochs is None else f"{epochs:.2f} epochs"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [inkwell, conversational]
---
# Fine-tuned model

The base model after supervised fine-tuning ({method}) on {conversations:,} conversations made from its corpus,
{extent}, loss on the answers only. It speaks ChatML; the chat template is in the tokenizer.

It answers in the form it was shown. What it states as fact is to be checked.
"""
