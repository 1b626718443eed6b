"""What is decided before the first step: the model, how the machine is used, and the plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from components.launch.divided import Divided
from components.machine.ceiling import SQUARES, Ceiling, gemm_ceiling, operations_per_token, run_shapes
from components.machine.hardware import by_rules, decide
from components.machine.memory import available_memory
from components.model import architectures
from components.pretrain.data import CorpusSequences
from components.pretrain.dial import is_set
from components.pretrain.plan import Plan, check
from components.pretrain.planning import resolve, shaped_like
from components.pretrain.probe import step_timer
from components.training.recipe import optimizers_for
from components.training.trial import StepTrial

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Machine, Pretrain
    from components.corpus.packed import TokenShards
    from components.machine.choices import Choices
    from components.training.distributed import World

_TOKENS_A_SECOND = 5_000  # of two cores: to foresee a run that is given in minutes, before anything is measured
_WORTH_TIMING = 3e13  # operations: a shorter run is over before it is told how long it takes
_MEMORY_SHARE = 0.8  # of the machine's, which a training may plan to take


@dataclass(frozen=True)
class Beginning:
    """A model before its first step. `parameters`: those of the run, the dial resolved. `ceiling`: on processors only."""

    model: PreTrainedModel
    parameters: Pretrain
    choices: Choices
    plan: Plan
    ceiling: Ceiling | None
    operations_per_token: float

    def figures(self, tokens_per_second: float) -> dict[str, float]:
        """Speed against what the machine's matrix products reach, for the metrics."""
        found = {"operations_per_second": float(round(tokens_per_second * self.operations_per_token))}
        if self.ceiling is not None:
            found["gemm_operations_per_second"] = float(round(self.ceiling.operations_per_second))
            found["model_flops_utilisation"] = round(
                self.ceiling.share(tokens_per_second, self.operations_per_token), 4
            )
        return found


def begin(
    parameters: Pretrain,
    machine: Machine,
    train: TokenShards,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    seed: int,
    world: World,
) -> Beginning:
    """Decide everything, or read in `work` what was decided when the run began.

    Raises InkwellError for shapes, weights and wishes that cannot be; Divided where several processes would be faster.
    """
    vocabulary = len(tokenizer)
    model = _model(parameters, tokenizer, seed)
    initial = None
    if parameters.initial:
        parameters, initial = shaped_like(parameters, model), architectures.count_of(model)
    if not is_set(parameters):
        check(parameters, train)
    world.check(model, parameters.block)
    minutes = parameters.dial.minutes
    # what the machine is fastest with is measured on the model that is trained; which one that is may be up to the dial
    expected = int(60 * minutes * _TOKENS_A_SECOND) if minutes else parameters.total_tokens
    rules = world.decide(lambda: by_rules(machine, expected, _TOKENS_A_SECOND))
    rules.apply()
    timer = None
    if is_set(parameters) or operations_per_token(model, parameters.block) * expected >= _WORTH_TIMING:
        timer = step_timer(CorpusSequences(train), vocabulary, rules, initial=model if initial else None)
    resolved, plan = world.decide(
        lambda: resolve(
            parameters,
            train,
            work,
            vocabulary=vocabulary,
            probe=timer,
            bf16=rules.bf16,
            memory_gib=_MEMORY_SHARE * available_memory() / 2**30,
            initial=initial,
            processes=world.replicas,
        )
    )
    if is_set(parameters):
        check(resolved, train)
        if not initial:
            model = _model(resolved, tokenizer, seed)
    trial = StepTrial(
        model,
        partial(optimizers_for, resolved, False),
        micro_batch=resolved.micro_batch,
        accumulation=resolved.accumulation,
        block=resolved.block,
        activation_checkpointing=resolved.activation_checkpointing,
    )
    if minutes:  # they were planned for steps that are compiled, or are not
        machine = machine.model_copy(update={"compile": "on" if rules.compile and trial.compiles else "off"})
    choices = world.decide(lambda: decide(machine, resolved.total_tokens, work, trial))
    if world.place.size == 1 and choices.processes > 1:
        raise Divided(choices.processes)
    choices.apply()
    ceiling = None
    if choices.device == "cpu":
        # a narrow model's own products alone would be a low ceiling
        shapes = (*SQUARES, *run_shapes(model, resolved.micro_batch * resolved.block))
        ceiling = gemm_ceiling(choices.dtype, choices.threads, shapes)
    return Beginning(model, resolved, choices, plan, ceiling, operations_per_token(model, resolved.block))


def _model(parameters: Pretrain, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    if parameters.initial:
        from components.model.initial import initial_model

        return initial_model(parameters, tokenizer)
    return architectures.build(parameters, len(tokenizer))
