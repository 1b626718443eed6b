"""What is decided before the first step: the model, how the machine is used, and the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from components.errors import InkwellError
from components.launch.divided import Divided
from components.machine.ceiling import SQUARES, Ceiling, gemm_ceiling, operations_per_token, run_shapes
from components.machine.hardware import by_rules, decide
from components.machine.memory import device_memory
from components.model import architectures
from components.pretrain.data import CorpusSequences
from components.pretrain.dial import is_set
from components.pretrain.plan import Plan, check, fits
from components.pretrain.planning import PLAN, resolve, shaped_like, too_many_passes
from components.pretrain.probe import step_timer
from components.training.recipe import check_ramp, optimizers_for
from components.training.run import CHECKPOINT_PATTERN, CHECKPOINTS
from components.training.trial import StepTrial

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Machine, Pretrain
    from components.configuration.training import Parallel
    from components.corpus.packed import TokenShards
    from components.launch.processes import Place
    from components.machine.choices import Choices
    from components.training.distributed import World

_TOKENS_A_SECOND = 5_000  # of two cores: to foresee a run that is given in minutes, before anything is measured
_WORTH_TIMING = 3e13  # operations: a shorter run is over before it is told how long it takes
_MEMORY_SHARE = 0.8  # of what there is, which the dial may plan to take


@dataclass(frozen=True)
class Beginning:
    """A model before its first step. `parameters`: those of the run, the dial resolved.

    ceiling: of all processes together.
    """

    model: PreTrainedModel
    parameters: Pretrain
    choices: Choices
    plan: Plan
    ceiling: Ceiling
    operations_per_token: float

    def figures(self, tokens_per_second: float) -> dict[str, float]:
        """Speed against what the machine's matrix products reach, for the metrics."""
        return {
            "operations_per_second": float(round(tokens_per_second * self.operations_per_token)),
            "gemm_operations_per_second": float(round(self.ceiling.operations_per_second)),
            "model_flops_utilisation": round(self.ceiling.share(tokens_per_second, self.operations_per_token), 4),
        }

    def speed(self, tokens_per_second: float) -> str:
        """The same for people."""
        rate = tokens_per_second * self.operations_per_token
        share = self.ceiling.share(tokens_per_second, self.operations_per_token)
        return (
            f"speed: {rate / 1e12:.3g} TFLOP/s ({tokens_per_second:,.0f} tokens/s), {share:.0%} of what matrix products "
            f"reach here ({self.ceiling.operations_per_second / 1e12:.3g})"
        )


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
    initial = None
    if parameters.initial:
        model = _model(parameters, tokenizer, seed)
        parameters, initial = shaped_like(parameters, model), architectures.count_of(model)
    else:
        # the shape alone: it may be too large for this machine, or not the one that is trained
        with torch.device("meta"):
            model = architectures.build(parameters, vocabulary)
    if not is_set(parameters):
        check(parameters, train)
        check_ramp("pretrain", parameters)
    world.check(model, parameters.block)
    minutes = parameters.dial.minutes
    if minutes and world.place.size > world.replicas and not (work / PLAN).exists():
        raise InkwellError(
            "pretrain.dial.minutes: what processes gain that share rows (machine.parallel.tensor) or layers "
            "(machine.parallel.pipeline) is not measured: set pretrain.dial.parameters instead, or leave those at 1."
        )
    # what the machine is fastest with is measured on the model that is trained; which one that is may be up to the dial
    expected = int(60 * minutes * _TOKENS_A_SECOND) if minutes else parameters.total_tokens
    rules = world.decide(lambda: by_rules(machine, expected, _TOKENS_A_SECOND))
    rules.apply()
    own_gib = device_memory(rules.device, world.place.local_size) / 2**30
    memory_gib = own_gib * _holders(machine.parallel, world.place)
    beside_gib = _weights_gib(initial) if rules.device != "cuda" else 0.0  # those to continue from stay on the host
    timed = is_set(parameters) or operations_per_token(model, parameters.block) * expected >= _WORTH_TIMING
    if not is_set(parameters):
        size = architectures.count_of(model)
        timed &= fits(parameters, size, vocabulary, memory_gib, bf16=rules.bf16, beside_gib=beside_gib)
        if not initial and (word := too_many_passes(parameters, size, train)):
            print(f"  {word}", flush=True)
    timed &= world.place.size == world.replicas  # shares of a row or of the layers have another pace
    timer = step_timer(CorpusSequences(train), vocabulary, rules, initial=model if initial else None) if timed else None
    plans = partial(
        resolve,
        parameters,
        train,
        work,
        vocabulary=vocabulary,
        bf16=rules.bf16,
        initial=initial,
        timed_gib=own_gib - beside_gib,  # the timer is one process, however many hold the model
    )
    resolved, plan = world.decide(
        lambda: plans(probe=timer, memory_gib=_MEMORY_SHARE * memory_gib, processes=world.replicas)
    )
    if is_set(parameters):
        check(resolved, train)
        check_ramp("pretrain", resolved)
    if not initial:
        model = _model(resolved, tokenizer, seed)
    trial = StepTrial(
        model,
        partial(optimizers_for, resolved, False, muon_bf16=rules.muon_bf16),
        micro_batch=resolved.micro_batch,
        accumulation=resolved.accumulation,
        block=resolved.block,
        activation_checkpointing=resolved.activation_checkpointing,
    )
    if minutes:  # they were planned for steps that are compiled, or are not
        machine = machine.model_copy(update={"compile": "on" if rules.compile and trial.compiles else "off"})
    room = int(_MEMORY_SHARE * memory_gib / plan.peak_gib)
    choices = world.decide(lambda: decide(machine, resolved.total_tokens, work, trial, room))
    if world.place.size == 1 and choices.processes > 1:
        gain = choices.measured.get("gain_processes")
        if gain and not any((work / CHECKPOINTS).glob(CHECKPOINT_PATTERN)):  # else it stays on its course
            plans(probe=None, memory_gib=_MEMORY_SHARE * memory_gib / choices.processes, gain=gain)
        raise Divided(choices.processes)
    choices.apply()
    # a narrow model's own products alone would be a low ceiling
    shapes = (*SQUARES, *run_shapes(model, resolved.micro_batch * resolved.block))
    ceiling = gemm_ceiling(choices.dtype, choices.threads, shapes, device=choices.device)
    ceiling = replace(ceiling, operations_per_second=sum(world.gather(ceiling.operations_per_second)))
    return Beginning(model, resolved, choices, plan, ceiling, operations_per_token(model, resolved.block))


def _holders(parallel: Parallel, place: Place) -> int:
    """Processes that hold one model together."""
    return place.size if parallel.strategy == "fsdp2" else parallel.pipeline


def _weights_gib(size: architectures.Count | None) -> float:
    return 4 * size.total / 2**30 if size else 0.0


def _model(parameters: Pretrain, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    if parameters.initial:
        from components.model.initial import initial_model

        return initial_model(parameters, tokenizer)
    return architectures.build(parameters, len(tokenizer))
