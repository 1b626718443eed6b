"""The step: build, train, score, save."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.atomic import atomic_file
from components.hardware import decide
from components.models import build_model, load_tokenizer, save_model
from components.packed import TokenShards
from components.pretrain.card import model_card
from components.pretrain.data import CorpusSequences
from components.pretrain.plan import check, make_plan
from components.sampling import complete
from components.scoring import document_bits
from components.training.loop import Outcome, Recipe, fit, write_curve
from components.training.optimizers import muon_and_adamw
from components.training.order import PackedLoader
from components.training.schedules import warmup_stable_decay

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.configuration import Pretrain
    from components.step import Context


def run(context: Context) -> None:
    """Train `models/base` and write its curve, samples and metrics."""
    parameters = context.configuration.pretrain
    tokens = context.inputs["tokens"]
    train, validation = TokenShards(tokens, "train"), TokenShards(tokens, "validation")
    check(parameters, train)
    tokenizer = load_tokenizer(context.inputs["tokenizer"])
    torch.manual_seed(context.seed)
    model = _new_model(parameters, len(tokenizer))
    count = sum(p.numel() for p in model.parameters())
    plan = make_plan(parameters, count, train)
    work = context.work_folder()
    choices = decide(context.configuration.machine, plan.tokens, work)
    torch.set_num_threads(choices.threads)
    print(f"  plan: {plan}; {choices}", flush=True)
    if choices.compile:
        print("  compiling takes about a minute, once a machine", flush=True)

    shown = _spread(validation, parameters.validation_documents)
    characters = validation.characters + len(validation)  # each end mark is one
    shown_share = sum(len(d) - 1 for d in shown) / (validation.tokens - len(validation))

    def validate(current: PreTrainedModel) -> dict[str, float]:
        bits = document_bits(current, shown, autocast=choices.bf16)
        return {"validation_bits_per_char": float(bits.sum()) / (characters * shown_share)}

    def sample(current: PreTrainedModel) -> list[str]:
        drawn = complete(current, tokenizer, [""] * 2, context.configuration.sampling, seed=context.seed)
        return [completion.text for completion in drawn]

    loader = PackedLoader(
        CorpusSequences(train),
        steps=parameters.steps,
        accumulation=parameters.accumulation,
        micro_batch=parameters.micro_batch,
        block=parameters.block,
        seed=context.seed,
    )
    recipe = Recipe(
        factor=lambda step: warmup_stable_decay(
            step, parameters.steps, parameters.warmup_steps, parameters.decay_fraction
        ),
        gradient_clip=parameters.gradient_clip,
        bf16=choices.bf16,
        compile=choices.compile,
        device=choices.device,
        checkpoint_minutes=parameters.checkpoints.minutes,
        validation_every=parameters.validation_every,
        sample_every=parameters.sample_every,
    )
    optimizers = muon_and_adamw(
        model,
        matrix_learning_rate=parameters.matrix_learning_rate,
        embedding_learning_rate=parameters.embedding_learning_rate,
        learning_rate=parameters.learning_rate,
        weight_decay=parameters.weight_decay,
    )
    outcome = fit(
        model,
        optimizers,
        loader,
        recipe,
        label="pretrain",
        work=work,
        recorder=context.recorder,
        validate=validate,
        sample=sample,
    )
    model.to("cpu").eval()
    documents = [validation.document(index) for index in range(len(validation))]
    bits = document_bits(model, documents)
    context.metrics.update(
        val_bits_per_char=float(bits.sum()) / characters,
        tokens_per_second=round(outcome.tokens_per_second, 1),
        parameters=count,
        tokens=plan.tokens,
        epochs=round(plan.epochs, 4),
        operations_per_second=round(6.0 * count * outcome.tokens_per_second),
        final_loss=outcome.curve[-1]["loss"],
        bf16=int(choices.bf16),
        compiled=int(choices.compile),
        resumed_at_step=outcome.resumed_at,
    )
    _write(context, model, outcome, plan=str(plan))
    context.recorder.dataset("tokens", tokens, "training")
    context.recorder.model("base", context.outputs["model"])
    context.finished_with(work, outcome.earlier_seconds)


def _new_model(parameters: Pretrain, vocabulary: int) -> PreTrainedModel:
    model = build_model(
        parameters.architecture,
        vocab_size=vocabulary,
        hidden_size=parameters.hidden_size,
        num_hidden_layers=parameters.layers,
        intermediate_size=parameters.feed_forward_size,
        num_attention_heads=parameters.heads,
        num_key_value_heads=parameters.key_value_heads,
        head_dim=parameters.hidden_size // parameters.heads,
        max_position_embeddings=parameters.context,
        trained_length=parameters.block,
        attention_dropout=parameters.dropout,
        tie_word_embeddings=parameters.tie_embeddings,
    )
    if not parameters.tie_embeddings:
        # Far above the usual 0.02: the first block then hears the token at once, and the high rate finds its scale.
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    # Residual outputs start smaller by the square root of their number (GPT-2), so that depth does not inflate the sum.
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(weight, std=0.02 / (2 * parameters.layers) ** 0.5)
    return model


def _spread(shards: TokenShards, count: int) -> list[np.ndarray]:
    """`count` documents spread evenly over the split."""
    picked = np.unique(np.linspace(0, len(shards) - 1, min(count, len(shards))).astype(int))
    return [shards.document(int(index)) for index in picked]


def _write(context: Context, model: PreTrainedModel, outcome: Outcome, plan: str) -> None:
    write_curve(context.outputs["curve"], outcome.curve)
    with atomic_file(context.outputs["samples"]) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for entry in outcome.samples:
            handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
    card = model_card(context.configuration, plan, context.metrics["val_bits_per_char"])
    save_model(model, context.inputs["tokenizer"], context.outputs["model"], card)
