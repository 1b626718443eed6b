"""Steps of training that are only timed: the model's own shape, random tokens, the run's own optimizers.

What `components.machine.calibration` tries choices on. Nothing of the run is touched: the trial works on a copy of the model and puts
random generators, threads and the route of float32 products back as they were.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from components.machine.ceiling import operations_per_token, threads_set
from components.machine.precision import float32_by_onednn
from components.model.architectures import of
from components.training.computation import Computation, computation_for
from components.training.fused.decoder import unsupported

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from components.machine.choices import Choices

MakeComputation = Callable[["PreTrainedModel", "Choices"], Computation]
MakeOptimizers = Callable[["PreTrainedModel"], "Sequence[Optimizer]"]

_PASS = 0.3  # seconds of a forward and backward pass that rows are counted for
_TOO_LONG = 4.0  # times the seconds that were asked for: a pass that would take longer is not begun
_LONGEST_WHOLE = 1.2  # seconds of a pass over a micro-batch of the run's own size; longer ones are not compared
_SEQUENCES = 4  # in a row
_KEPT = 2  # computations: the two sides of a comparison


def eager_computation(model: PreTrainedModel, choices: Choices) -> Computation:
    """What the run computes its loss with, not compiled."""
    return computation_for(model, dtype=choices.dtype, compile=False, fused=choices.fused)


class StepTrial:
    """The default `Trial`: optimizer steps of a copy of `model` with batches of the run's own size.

    model: as it will be trained, on the CPU; make_optimizers: the run's. Rows of `block` tokens; `micro_batch` rows a
    forward pass, `accumulation` passes a step. A pass that takes longer than about 0.3 s is measured with fewer rows.
    computation: a function of a module (not a lambda), so that other processes can have it too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        make_optimizers: MakeOptimizers,
        *,
        micro_batch: int,
        accumulation: int,
        block: int,
        computation: MakeComputation = eager_computation,
        activation_checkpointing: bool = False,
    ) -> None:
        self.model, self.make_optimizers, self.computation = model, make_optimizers, computation
        self.micro_batch, self.accumulation, self.block = micro_batch, accumulation, block
        self.activation_checkpointing = activation_checkpointing
        self.operations = operations_per_token(model, block)
        self.fused = unsupported(model) is None
        self.compiles = of(model.config).packs
        self.attention: Sequence[str] = () if of(model.config).recurrent else ("sdpa", "eager")
        self.parts: Sequence[int] = tuple(parts for parts in (1, 2, 4) if micro_batch % parts == 0)
        # weights, gradients and an optimizer's two moments, all in float32; activations aside
        self.memory = sum(w.numel() * (16 if w.requires_grad else 4) for w in model.parameters())
        self.identity = self._identity()
        self._rows: int | None = None  # of a pass, once it is known how long one takes
        self._copy: _Copy | None = None
        self._computations: dict[tuple[object, ...], Computation] = {}
        self._warmed: set[tuple[object, ...]] = set()  # choices and sizes that have run before

    def _identity(self) -> str:
        import transformers

        shapes = [(name, tuple(weight.shape), weight.requires_grad) for name, weight in self.model.named_parameters()]
        described = [
            self.model.config.model_type,
            shapes,
            [self.micro_batch, self.accumulation, self.block, self.activation_checkpointing],
            f"{self.computation.__module__}.{self.computation.__qualname__}",
            [type(optimizer).__name__ for optimizer in self.make_optimizers(self.model)],
            transformers.__version__,
        ]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:24]

    def divided(self, among: int) -> StepTrial | None:
        """The trial of one process of `among` that share each step; None where the rows cannot be shared."""
        if self.accumulation % among == 0:
            shape = {"micro_batch": self.micro_batch, "accumulation": self.accumulation // among}
        elif self.micro_batch % among == 0:
            shape = {"micro_batch": self.micro_batch // among, "accumulation": self.accumulation}
        else:
            return None
        return StepTrial(
            self.model,
            self.make_optimizers,
            block=self.block,
            computation=self.computation,
            activation_checkpointing=self.activation_checkpointing,
            **shape,
        )

    @property
    def tokens_a_step(self) -> int:
        """Tokens of an optimizer step."""
        return self.accumulation * self.micro_batch * self.block

    def rate(self, choices: Choices, seconds: float, whole: bool = False) -> float:
        """Tokens a second of whole optimizer steps; see `Trial`. The first measurement settles how many rows a pass has.

        whole: with micro-batches of the run's own size. Choices so slow that a pass would take many times `seconds` are
        measured on a smaller one.
        """
        with _undisturbed(choices):
            if self._copy is None:
                self._copy = _Copy(self.model, self.make_optimizers, choices, self.activation_checkpointing)
            choices.prepare(self._copy.model)
            computation = self._computation(choices)
            rows, length = self._warm(computation, choices, seconds, whole)
            spent: list[float] = []
            until = time.perf_counter() + seconds
            while not spent or time.perf_counter() < until:
                spent.append(self._copy.pass_seconds(computation, rows, length))
            micro_batch = self.micro_batch * self.block / (rows * length) * statistics.median(spent)
            step = self.accumulation * micro_batch + self._copy.optimizer_seconds(choices.threads)
            for changed in self._computations.values():
                changed.weights_changed()
            return self.tokens_a_step / step

    def release(self) -> None:
        """Give the copy's memory back; the trial can be used again."""
        self._copy = None
        self._computations.clear()
        self._warmed.clear()
        gc.collect()

    def _computation(self, choices: Choices) -> Computation:
        key = (choices.precision, choices.fused, choices.attention)
        if key not in self._computations:
            assert self._copy is not None
            while len(self._computations) >= _KEPT:
                self._computations.pop(next(iter(self._computations)))
            self._computations[key] = self.computation(self._copy.model, choices)
        found = self._computations.pop(key)
        self._computations[key] = found  # the one used last goes last
        return found

    def _warm(self, computation: Computation, choices: Choices, seconds: float, whole: bool) -> tuple[int, int]:
        """Passes of growing size up to the one to be measured; returns its rows and their length."""
        assert self._copy is not None
        if self._rows is None:
            self._copy.pass_seconds(computation, 1, self.block)
            taken = self._copy.pass_seconds(computation, 1, self.block)
            self._rows = max(1, min(self.micro_batch, int(_PASS / taken)))
        rows = (self.micro_batch if whole else self._rows) // choices.micro_batch_parts
        measured = (max(1, rows), self.block)
        key = (choices.precision, choices.fused, choices.attention, choices.threads, *measured)
        longest = _LONGEST_WHOLE if whole else _TOO_LONG * max(seconds, _PASS)
        before, taken = (1, max(1, self.block // 8)), 0.0
        for size in dict.fromkeys((before, (1, self.block), measured)):
            if key in self._warmed:
                break
            # parts are judged by what they are parts of: both sides of a comparison stop at the same size
            planned = size[0] * size[1] * (choices.micro_batch_parts if size == measured else 1)
            if taken * planned / (before[0] * before[1]) > longest:
                return before
            before, taken = size, self._copy.pass_seconds(computation, *size)
        self._warmed.add(key)
        return measured


class _Copy:
    """A copy of the model with its optimizers; what it learns from random tokens is of no account."""

    def __init__(
        self, model: PreTrainedModel, make_optimizers: MakeOptimizers, choices: Choices, checkpointing: bool
    ) -> None:
        self.model: PreTrainedModel = copy.deepcopy(model).to(choices.device).train()  # type: ignore[arg-type]
        if checkpointing:
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        self.optimizers = make_optimizers(self.model)
        self.device = choices.device
        self._optimizer_seconds: dict[int, float] = {}  # by threads

    def pass_seconds(self, computation: Computation, rows: int, length: int) -> float:
        """Seconds of a forward and a backward pass."""
        generator = torch.Generator().manual_seed(rows * length)
        vocabulary = int(self.model.config.vocab_size)
        ids = torch.randint(0, vocabulary, (rows, length + 1), generator=generator).to(self.device)
        places = torch.arange(length, device=self.device)
        numbers = (places * _SEQUENCES // length).expand(rows, length).contiguous()
        started = time.perf_counter()
        loss = computation.loss_sum(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), numbers)
        (loss / ids.numel()).backward()
        self._wait()
        return time.perf_counter() - started

    def optimizer_seconds(self, threads: int) -> float:
        """Seconds of what an optimizer step does beside its passes, measured once; needs the gradients of a pass."""
        if threads not in self._optimizer_seconds:
            for _ in range(2):  # the first one makes the optimizers' state
                started = time.perf_counter()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                for optimizer in self.optimizers:
                    optimizer.step()
                self._wait()
                self._optimizer_seconds[threads] = time.perf_counter() - started
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return self._optimizer_seconds[threads]

    def _wait(self) -> None:
        if self.device != "cpu":
            getattr(torch, self.device).synchronize()


@contextmanager
def _undisturbed(choices: Choices) -> Iterator[None]:
    """Threads and float32 products as chosen; afterwards, and with the random generator, as before."""
    with torch.random.fork_rng(), threads_set(choices.threads), float32_by_onednn(choices.float32_onednn):
        yield
