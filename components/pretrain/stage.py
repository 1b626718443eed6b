"""The step: build, train, score, save."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from components.atomic import atomic_file
from components.corpus.packed import TokenShards
from components.launch.divided import Divided
from components.launch.processes import here
from components.machine.compiling import achieved
from components.machine.devices import choose_device
from components.model.folders import load_tokenizer, save_model
from components.model.sampling import complete
from components.pretrain.beginning import begin
from components.pretrain.card import intermediate_card, model_card
from components.pretrain.data import CorpusSequences, HeldOut
from components.pretrain.plan import Outcome as Done
from components.step import peak_gib
from components.training.distributed import open_world
from components.training.loop import Outcome, fit, write_curve
from components.training.recipe import prepare
from components.training.run import open_run
from components.vocabulary.spelling import origin

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from components.step import Context


def run(context: Context) -> None:
    """Train `models/base` and write its curve, samples and metrics."""
    machine, asked = context.configuration.machine, context.configuration.pretrain
    tokens = context.inputs["tokens"]
    train, validation = TokenShards(tokens, "train"), TokenShards(tokens, "validation")
    tokenizer = load_tokenizer(context.inputs["tokenizer"])
    with open_world(here(), machine.parallel, choose_device(machine.device)) as world:
        held = open_run(context, asked, world.leader)
        try:
            begun = begin(asked, machine, train, tokenizer, held.work, context.seed, world)
        except Divided:
            held.release()  # for the processes that take over
            raise
        parameters, choices, plan = begun.parameters, begun.choices, begun.plan
        # on a card, weights of a family that plans do not know have its name
        told = parameters.model_copy(update={"architecture": begun.model.config.model_type})
        held_out = HeldOut(validation, parameters.validation_documents)
        for line in [*plan.lines(), f"machine: {choices}"]:
            print(f"  {line}", flush=True)

        def sample(current: PreTrainedModel) -> list[str]:
            drawn = complete(current, tokenizer, [""] * 2, context.configuration.sampling, seed=context.seed)
            return [completion.text for completion in drawn]

        def save(current: PreTrainedModel, folder: Path) -> None:
            save_model(current, context.inputs["tokenizer"], folder, intermediate_card(context.configuration, told))

        training = prepare(
            parameters,
            begun.model,
            CorpusSequences(train),
            context.seed,
            choices,
            world,
            residual_dropout=parameters.residual_dropout,
            sample_every=parameters.sample_every,
        )
        outcome = fit(
            training,
            label="pretrain",
            run=held,
            recorder=context.recorder,
            validate=lambda current: {"validation_bits_per_char": held_out.quick(current, choices.bf16)},
            sample=sample,
            save_model=save,
        )
    if outcome.model is None:
        return  # the leader scores and writes
    seen = training.loader.total_rows * parameters.block
    trained = sum(row["tokens"] for row in outcome.curve)
    seconds = trained / outcome.tokens_per_second if outcome.tokens_per_second else 0.0
    line, comparison = plan.compare(Done(seen, seconds, peak_gib()))
    print(f"  {line}", flush=True)
    if outcome.tokens_per_second:  # else no step was left to do
        print(f"  {begun.speed(outcome.tokens_per_second)}", flush=True)
    context.metrics.update(
        val_bits_per_char=held_out.whole(outcome.model),
        tokens_per_second=round(outcome.tokens_per_second, 1),
        parameters=plan.parameters,
        tokens=seen,
        epochs=round(seen / train.tokens, 4),
        **begun.figures(outcome.tokens_per_second),
        **comparison,
        **achieved(choices, outcome.tokens_per_second),
        **choices.metrics(),
        **outcome.figures(),
    )
    card = model_card(
        context.configuration,
        told,
        origin(context.inputs["tokenizer"]),
        str(plan),
        context.metrics["val_bits_per_char"],
    )
    _write(context, outcome.model, outcome, card)
    context.recorder.dataset("tokens", tokens, "training")
    context.recorder.model("base", context.outputs["model"])
    context.finished_with(held.work, outcome.earlier_seconds)


def _write(context: Context, model: PreTrainedModel, outcome: Outcome, card: str) -> None:
    write_curve(context.outputs["curve"], outcome.curve)
    with atomic_file(context.outputs["samples"]) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for entry in outcome.samples:
            handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
    save_model(model, context.inputs["tokenizer"], context.outputs["model"], card)
