"""What a run will do, worked out and checked before it starts, and held against what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.model import architectures
from components.pretrain.cost import operations_a_token, peak_gib, state_gib

if TYPE_CHECKING:
    from components.configuration import Pretrain
    from components.corpus.packed import TokenShards
    from components.model.architectures import Count
    from components.pretrain.dial import CorpusFacts
    from components.pretrain.pace import Pace
    from components.scaling import Law


@dataclass(frozen=True)
class Outcome:
    """What a run came to: positions seen, seconds of training steps (nothing else), largest memory."""

    tokens: int
    seconds: float
    peak_gib: float


@dataclass(frozen=True)
class Plan:
    """Size of the model and of the work.

    parameters, active, multiplied: as `components.model.architectures.Count`; tokens: positions of all rows, of which a few per
    cent are padding; fresh_tokens: of the corpus that teach as much, repeated ones discounted; operations: of all passes
    (`cost.operations_a_token`), the optimizer's left out; seconds: of training steps, None where no pace is known;
    peak_gib: largest resident memory, roughly.
    """

    shape: str
    parameters: int
    active: int
    multiplied: int
    tokens: int
    batch_tokens: int
    steps: int
    epochs: float
    fresh_tokens: float
    operations: float
    seconds: float | None
    peak_gib: float
    minutes_allowed: float | None

    def __str__(self) -> str:
        """What the model card says: nothing that depends on the machine."""
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {self.tokens / 1e6:.2f} M tokens in "
            f"{self.epochs:.2f} epochs, {self.operations:.1e} operations"
        )

    def lines(self) -> list[str]:
        """The whole plan, for the person who waits for it."""
        active = f", {_millions(self.active)} active" if self.active != self.parameters else ""
        repeated = f", worth {_millions(self.fresh_tokens)} fresh ones" if self.epochs > 1 else ""
        found = [
            f"model: {self.shape}; {_millions(self.parameters)} parameters{active}, {_millions(self.multiplied)} in matrix products",
            f"work: {_millions(self.tokens)} tokens in {self.steps:,} steps of {self.batch_tokens:,}, "
            f"{self.epochs:.2f} passes over the corpus{repeated}",
        ]
        if self.seconds:
            rate = self.operations / self.seconds
            found.append(
                f"cost: {self.operations:.2g} operations, {_minutes(self.seconds)} of training at {rate / 1e12:.3g} TFLOP/s "
                f"({self.tokens / self.seconds:,.0f} tokens/s), {self.peak_gib:.1f} GiB"
            )
        else:
            found.append(f"cost: {self.operations:.2g} operations, {self.peak_gib:.1f} GiB")
        if self.minutes_allowed and self.seconds and self.seconds < 0.8 * 60 * self.minutes_allowed:
            found.append(
                f"of {self.minutes_allowed:g} minutes the plan uses {_minutes(self.seconds)}: this corpus has no more to "
                "teach a model of any size that fits here"
            )
        return found

    def compare(self, outcome: Outcome) -> tuple[str, dict[str, float]]:
        """A line and metrics that hold the plan against what happened."""
        metrics = {
            "planned_tokens": float(self.tokens),
            "planned_operations": self.operations,
            "planned_peak_gib": round(self.peak_gib, 3),
            "training_minutes": round(outcome.seconds / 60, 3),
        }
        parts = [f"tokens {_millions(outcome.tokens)} of {_millions(self.tokens)}"]
        if self.seconds:
            metrics["planned_minutes"] = round(self.seconds / 60, 3)
            parts.append(
                f"{_minutes(outcome.seconds)} of training against {_minutes(self.seconds)} ({_off(outcome.seconds, self.seconds)})"
            )
        parts.append(
            f"{outcome.peak_gib:.2f} GiB against {self.peak_gib:.2f} ({_off(outcome.peak_gib, self.peak_gib)})"
        )
        return f"planned and done: {', '.join(parts)}", metrics


def _millions(value: float) -> str:
    for divisor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= divisor:
            return f"{value / divisor:.3g} {letter}"
    return f"{value:.0f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _off(actual: float, planned: float) -> str:
    return f"{actual / planned - 1:+.0%}"


def check(parameters: Pretrain, train: TokenShards) -> None:
    """Raise InkwellError for a shape that cannot be, or a corpus that cannot fill one batch.

    Weights that a run continues from have the shape that they have, and were asked for their context when they were loaded.
    """
    if not parameters.initial:
        architectures.check(parameters)
        if parameters.block > parameters.context:
            raise InkwellError(
                f"pretrain.block = {parameters.block} is longer than pretrain.context = {parameters.context}."
            )
    batch = parameters.batch_tokens
    if train.tokens < batch:
        raise InkwellError(
            f"the training split has {train.tokens} tokens, fewer than the {batch} of one optimizer step: add text, or "
            "make pretrain.micro_batch, pretrain.accumulation or pretrain.block smaller."
        )


def fits(
    parameters: Pretrain, count: Count, vocabulary: int, memory_gib: float, *, bf16: bool, beside_gib: float = 0.0
) -> bool:
    """Whether the training is expected to fit into `memory_gib`, beside what is held there anyway; told where it is not.

    The estimate is rough, so it only warns. Raises InkwellError where weights, gradients and the optimizer's state alone
    need more.
    """
    state, peak = (cost(parameters, count, vocabulary, bf16=bf16) for cost in (state_gib, peak_gib))
    if state > memory_gib:
        raise InkwellError(
            f"a model of {_millions(count.total)} parameters needs {state:.1f} GiB for weights, gradients and the "
            f"optimizer's state alone, and there are {memory_gib:.1f}: take a smaller one, or share it out (docs/distributed.md)."
        )
    if peak + beside_gib <= memory_gib:
        return True
    if peak > memory_gib:
        print(
            f"  training takes about {peak:.1f} GiB, and there are {memory_gib:.1f}: should it be ended for want of memory, "
            "make pretrain.micro_batch smaller or set pretrain.activation_checkpointing",
            flush=True,
        )
    return False


def planned(
    parameters: Pretrain,
    count: Count,
    corpus: CorpusFacts,
    vocabulary: int,
    law: Law,
    *,
    pace: Pace | None = None,
    bf16: bool = True,
) -> Plan:
    """The plan of a run with these parameters, as they are.

    pace: without it, time is left open. `batch_ramp` is not counted: it makes more steps of the same rows.
    """
    batch, tokens = parameters.batch_tokens, parameters.total_tokens
    seconds = pace.seconds_of_step(parameters, count, vocabulary, batch) * parameters.steps if pace else None
    feed = f" and {parameters.feed_forward_size}" if "feed_forward_size" in _reads(parameters) else ""
    tied = "tied" if parameters.tie_embeddings else "untied"
    return Plan(
        shape=f"{parameters.architecture}, {parameters.layers} layers {parameters.hidden_size}{feed} wide, embeddings {tied}",
        parameters=count.total,
        active=count.active,
        multiplied=count.multiplied,
        tokens=tokens,
        batch_tokens=batch,
        steps=parameters.steps,
        epochs=tokens / corpus.tokens,
        fresh_tokens=law.effective_tokens(tokens, corpus.tokens),
        operations=operations_a_token(parameters, count) * tokens,
        seconds=seconds,
        peak_gib=peak_gib(parameters, count, vocabulary, bf16=bf16),
        minutes_allowed=parameters.dial.minutes,
    )


def _reads(parameters: Pretrain) -> tuple[str, ...]:
    return architectures.TABLE[parameters.architecture].reads
