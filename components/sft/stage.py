"""The step: load the base model, train on answers, save."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from components.conversations import CONVERSATIONS_FILE, read_conversations
from components.documents import TRAIN, VALIDATION
from components.errors import InkwellError
from components.hardware import decide
from components.models import load_model, load_tokenizer, save_model
from components.sft.data import ConversationSequences
from components.sft.lora import add_adapters, merge_adapters
from components.training.loop import Recipe, fit, write_curve
from components.training.optimizers import adamw, muon_and_adamw
from components.training.order import IGNORED, PackedLoader
from components.training.schedules import warmup_stable_decay

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.step import Context


def run(context: Context) -> None:
    """Train `models/sft` and write its curve and metrics."""
    parameters, machine = context.configuration.sft, context.configuration.machine
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
    loader = PackedLoader(
        train,
        steps=parameters.steps,
        accumulation=parameters.accumulation,
        micro_batch=parameters.micro_batch,
        block=parameters.block,
        seed=context.seed,
    )
    tokens = parameters.steps * parameters.accumulation * parameters.micro_batch * parameters.block
    work = context.work_folder()
    choices = decide(machine, tokens, work)
    compiled = choices.compile and parameters.method == "full"  # adapters are too few to pay for compiling
    torch.set_num_threads(choices.threads)
    if parameters.method == "lora":
        model = add_adapters(model, parameters)
        optimizers = adamw(model, learning_rate=parameters.learning_rate, weight_decay=parameters.weight_decay)
    else:
        optimizers = muon_and_adamw(
            model,
            matrix_learning_rate=parameters.matrix_learning_rate,
            embedding_learning_rate=parameters.embedding_learning_rate,
            learning_rate=parameters.learning_rate,
            weight_decay=parameters.weight_decay,
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    epochs = tokens / int(train.lengths.sum())
    print(
        f"  plan: {parameters.method}, {trained / 1e6:.2f} M trained parameters, {len(train):,} conversations, "
        f"{epochs:.2f} epochs; {choices}",
        flush=True,
    )
    recipe = Recipe(
        factor=lambda step: warmup_stable_decay(
            step, parameters.steps, parameters.warmup_steps, parameters.decay_fraction
        ),
        gradient_clip=parameters.gradient_clip,
        bf16=choices.bf16,
        compile=compiled,
        device=choices.device,
        checkpoint_minutes=parameters.checkpoints.minutes,
        validation_every=parameters.validation_every,
    )
    outcome = fit(
        model,
        optimizers,
        loader,
        recipe,
        label="sft",
        work=work,
        recorder=context.recorder,
        validate=lambda current: {"validation_answer_loss": answer_loss(current, validation, choices.bf16)},
    )
    model.to("cpu").eval()
    if parameters.method == "lora":
        model = merge_adapters(model)
    context.metrics.update(
        validation_answer_loss=answer_loss(model, validation, autocast=False),
        final_loss=outcome.curve[-1]["loss"],
        tokens_per_second=round(outcome.tokens_per_second, 1),
        trained_parameters=trained,
        conversations=len(train),
        conversations_left_out=train.left_out,
        epochs=round(epochs, 4),
        resumed_at_step=outcome.resumed_at,
    )
    write_curve(context.outputs["curve"], outcome.curve)
    save_model(model, base, context.outputs["model"], _card(parameters.method, len(train), epochs))
    context.recorder.dataset("conversations", context.inputs["conversations"], "training")
    context.recorder.model("sft", context.outputs["model"], [base])
    context.finished_with(work, outcome.earlier_seconds)


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


def _card(method: str, conversations: int, epochs: float) -> str:
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [inkwell, conversational]
---
# Fine-tuned model

The base model after supervised fine-tuning ({method}) on {conversations:,} conversations made from its corpus,
{epochs:.2f} epochs, loss on the answers only. It speaks ChatML; the chat template is in the tokenizer.

It answers in the form it was shown. What it states as fact is to be checked.
"""
