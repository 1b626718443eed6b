"""The training engine without its loop: the model, computation, optimizers and loader that `pretrain` would train with.

What is measured here is measured in a process of its own (`measured`), under the allocator settings of a real step. Needs
torch: import it inside functions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from components.configuration import Machine, Pretrain
from components.configuration.training import Dial
from components.corpus.packed import TokenShards
from components.launch.processes import here
from components.machine.devices import choose_device
from components.model.architectures import build
from components.model.folders import load_tokenizer
from components.pretrain.beginning import begin
from components.pretrain.data import CorpusSequences
from components.training.bare_step import bare_step
from components.training.distributed import open_world
from components.training.order import IGNORED
from components.training.recipe import Training, prepare

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


@contextmanager
def opened(parameters: Pretrain, machine: Machine, workspace: Path, seed: int = 1) -> Iterator[Training]:
    """What `pretrain` trains with in `workspace`: a fresh model of the shape in `parameters`, calibrated as for a long run.

    The shape is what is measured: a dial would set another one, and weights to go on from have their own. One process,
    where a person has not set more: it is this one that is measured, and nobody could start others in its place.
    """
    parameters = parameters.model_copy(update={"dial": Dial(), "initial": None})
    parallel = machine.parallel.model_copy(update={"processes": machine.parallel.count})
    machine = machine.model_copy(update={"parallel": parallel})
    train, tokenizer = TokenShards(workspace / "data" / "tokens", "train"), workspace / "models" / "tokenizer"
    with (
        tempfile.TemporaryDirectory() as work,
        open_world(here(), machine.parallel, choose_device(machine.device)) as world,
    ):
        begun = begin(parameters, machine, train, load_tokenizer(tokenizer), Path(work), seed, world)
        print(f"  {begun.choices}", flush=True)
        yield prepare(
            begun.parameters,
            begun.model,
            CorpusSequences(train),
            seed,
            begun.choices,
            world,
            residual_dropout=parameters.residual_dropout,
        )


@dataclass
class Bare:
    """Optimizer steps with nothing around them: the loop that a person would write by hand."""

    training: Training
    optimizers: list[Optimizer]
    batches: Iterator[Any]

    @classmethod
    def of(cls, training: Training) -> Bare:
        """Over the training's own loader."""
        return cls(training, training.make_optimizers(training.model), iter(training.loader))

    def step(self) -> int:
        """One optimizer step; returns the tokens that the model read, padding left out."""
        batch = next(self.batches)
        bare_step(self.training, self.optimizers, batch)
        # 0 is the unknown token, which byte fallback never needs: here it is padding
        return int((batch[0] != 0).sum())

    def timed(self, steps: int) -> tuple[float, int]:
        """(seconds, tokens) of so many steps."""
        began = time.perf_counter()
        read = sum(self.step() for _ in range(steps))
        return time.perf_counter() - began, read


class PlainEager:
    """The stock model as anybody would call it: bf16 autocast, causal attention, cross-entropy over all logits, no compiling."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `components.training.computation.Computation`; sequences of a row are not kept apart, which costs less."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            logits = self.model(input_ids=inputs, use_cache=False).logits
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def weights_changed(self) -> None:
        """Nothing is derived."""


def plain(parameters: Pretrain, training: Training, seed: int = 1) -> Training:
    """The same training of a model of its own by `PlainEager`: the same batches, the same optimizers."""
    torch.manual_seed(seed)
    model = build(parameters, training.model.config.vocab_size)
    model.train()
    return replace(
        training, model=model, computation=PlainEager(model), loader=fresh_loader(parameters, training, seed)
    )


def fresh_loader(parameters: Pretrain, training: Training, seed: int = 1) -> Any:
    """A loader of the same rows, at its beginning."""
    from components.training.order import PackedLoader

    return PackedLoader(
        training.loader.data,
        steps=parameters.steps,
        accumulation=parameters.accumulation,
        micro_batch=parameters.micro_batch,
        block=parameters.block,
        seed=seed,
    )
