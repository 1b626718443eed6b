"""A training step of one process of a cluster that need not be there: what it holds, computes and sends.

The model, the strategy that divides it and the optimizers are those of the training itself; only the numbers are missing
(torch's meta and fake tensors), and the other processes (torch's fake backend, which exchanges nothing). Peculiarities of
a GPU's kernels are not seen: operations are traced as the processor would do them, one by one, so a compiled run needs
rather less than is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._pytree import tree_iter

from components.errors import InkwellError
from components.fetching.locations import own_path
from components.launch.processes import Place
from components.model import architectures
from components.model.forward import Pass
from components.training.averaging import WeightAverage
from components.training.computation import StockComputation, computation_for
from components.training.distributed import World, check_parallel, make_world
from components.training.recipe import optimizers_for
from components.training.residual_dropout import add_residual_dropout
from components.training.tracing import Tracer, Work

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from components.configuration.training import Machine, Pretrain

_FLOAT = 4  # bytes: weights and gradients are float32


@dataclass(frozen=True)
class Batch:
    """An optimizer step of one replica: forward passes, and rows and tokens of each."""

    passes: int
    rows: int
    block: int


@dataclass(frozen=True)
class Rehearsal:
    """What one process needs for a step.

    peak: bytes of tensors, at most at once; at_peak: how many of them are what; between: held from step to step;
    work: of the whole step; parameters: of the whole model; replicas, batch: how the step is divided.
    """

    parameters: int
    peak: int
    at_peak: dict[str, int]
    between: int
    work: Work
    replicas: int
    batch: Batch


def batch_of(parameters: Pretrain, replicas: int) -> Batch:
    """How a step's rows are divided (`components.training.order.PackedLoader`)."""
    needed = -(-parameters.micro_batch * parameters.accumulation // replicas)
    rows = min(parameters.micro_batch, needed)
    return Batch(-(-needed // rows), rows, parameters.block)


def rehearse(
    parameters: Pretrain, machine: Machine, vocabulary: int, place: Place, *, bf16: bool, fused: str = "auto"
) -> Rehearsal:
    """A step of the process at `place`, which says how many there are.

    bf16: matrices are multiplied in bfloat16. Raises InkwellError where the parameters contradict each other, the model
    cannot be divided as asked, or what it does depends on its numbers. torch.distributed must not be in use.
    """
    parallel = machine.parallel
    check_parallel(place, parallel)
    with _fake_processes(place):
        model = _empty_model(parameters, vocabulary)
        count = sum(weight.numel() for weight in model.parameters())
        world = make_world(place, parallel)
        world.check(model, parameters.block)
        # flash attention needs about what SDPA does; the other writes its scores out
        if machine.attention == "eager" and not architectures.of(model.config).recurrent:
            model.set_attn_implementation("eager")
        add_residual_dropout(model, parameters.residual_dropout)
        if parameters.activation_checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        mesh = None
        if place.size > 1 and parallel.strategy == "fsdp2":
            shape = (world.replicas, parallel.tensor)
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data_parallel", "tensor_parallel"))
        world.prepare(SimpleNamespace(device_mesh=mesh), model)  # type: ignore[arg-type]
        batch = batch_of(parameters, world.replicas)
        tracer = Tracer()
        with _shapes_suffice(model), _experts_by_shapes(), FakeTensorMode(allow_non_fake_inputs=True), tracer:
            model.to_empty(device="cpu")
            model.tie_weights()
            step = _Step(parameters, model, world, batch, tracer, bf16, fused)
            step.run()  # makes the optimizers' state
            between = tracer.live
            tracer.begin()
            work = step.run()
            tracer.look_for_peak(step.kinds)
            step.run()
        peak = max(tracer.peak, between)
        return Rehearsal(count, peak, tracer.at_peak, between, work, world.replicas, batch)


@contextmanager
def _fake_processes(place: Place) -> Iterator[None]:
    if place.size == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized(), "this process is one of several already"
    dist.init_process_group("fake", store=FakeStore(), rank=place.rank, world_size=place.size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _shapes_suffice(model: PreTrainedModel) -> Iterator[None]:
    """Say in a sentence where they do not."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise InkwellError(
            f"what a forward pass of {type(model).__name__} does depends on its numbers ({error.func}), and a dry run has "
            "none: try the model on one device of the cluster instead."
        ) from error


@contextmanager
def _experts_by_shapes() -> Iterator[None]:
    """Transformers' matrix products of experts in the form that works on shapes alone; PyTorch's knows bfloat16 only."""
    from transformers.integrations import moe

    before = moe._can_use_grouped_mm
    moe._can_use_grouped_mm = lambda *_, **__: False
    try:
        yield
    finally:
        moe._can_use_grouped_mm = before


def _empty_model(parameters: Pretrain, vocabulary: int) -> PreTrainedModel:
    """The model without numbers; of weights to continue from, their configuration."""
    with torch.device("meta"):
        if parameters.initial is None:
            return architectures.build(parameters, vocabulary)
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = own_path(parameters.initial, "pretrain.initial")
        if not (folder / "config.json").exists():
            raise InkwellError(
                f"pretrain.initial = {parameters.initial!r}: only the shape of a Hugging Face folder (config.json) can be "
                "planned; set pretrain's own shape and initial to null."
            )
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # as it is trained, whatever it was saved in
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return model


class _Step:
    """A step of one process, again and again."""

    def __init__(
        self,
        parameters: Pretrain,
        model: PreTrainedModel,
        world: World,
        batch: Batch,
        tracer: Tracer,
        bf16: bool,
        fused: str,
    ) -> None:
        self.model, self.world, self.batch, self.tracer = model, world, batch, tracer
        self.weights = list(model.parameters())  # shares, where they are shared out
        self.optimizers: list[Optimizer] = world.optimizers(
            model, lambda divided: optimizers_for(parameters, False, divided)
        )
        self.average = WeightAverage(model, parameters.ema_decay) if parameters.ema_decay else None
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.computation = computation_for(
            model,
            dtype=dtype,
            compile=False,
            fused=fused,
            stock_modules=world.stock_modules,
            residual_dropout=parameters.residual_dropout,
        )
        stages = world.parallel.pipeline
        self.part: Any = None
        if stages > 1:
            assert isinstance(self.computation, StockComputation)
            self.part = world._part  # type: ignore[attr-defined]
            self.part.dtype = dtype
        tracer.label = self._label

    def _label(self, tensor: torch.Tensor) -> str | None:
        logits = tensor.ndim > 1 and tensor.shape[-1] == self.model.config.vocab_size and tensor.is_floating_point()
        return "logits" if logits else None

    def kinds(self) -> dict[str, Iterable[torch.Tensor]]:
        """The tensors of each kind that are there now."""
        everywhere = [*self.weights, *self.model.parameters()]
        return {
            "weights": self.weights,
            "weights gathered for a moment": list(self.model.parameters()),
            "gradients": [weight.grad for weight in everywhere if weight.grad is not None],
            "optimizer state": [t for one in self.optimizers for t in _state_of(one)],
            "average of the weights": self.average._averages if self.average else [],
            "buffers": list(self.model.buffers()),
        }

    def run(self) -> Work:
        """One optimizer step; its work."""
        passes = self.batch.passes
        if self.part is not None:
            work = self._pipeline()
        else:
            # from the second pass on all are alike: it finds the gradients of the first
            first = self._pass()
            work = first if passes == 1 else first.plus(self._pass().times(passes - 1))
        work = work.plus(self._exchanged())
        with self.tracer.counted() as optimizing:
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average:
                self.average.update()
        self.computation.weights_changed()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return work.plus(optimizing)

    def _rows(self) -> torch.Tensor:
        return torch.zeros(self.batch.rows, self.batch.block, dtype=torch.long)

    def _pass(self) -> Work:
        with self.tracer.counted() as work:
            (self._loss() * 0.5).backward()
        return work

    def _loss(self) -> torch.Tensor:
        if architectures.of(self.model.config).packs:
            return self.computation.loss_sum(self._rows(), self._rows(), self._rows())
        # where sequences cannot share a row, how they are cut is known from numbers alone: each row is taken for one
        assert isinstance(self.computation, StockComputation)
        return self.computation.pass_loss(Pass({"input_ids": self._rows()}, self._rows()))

    def _pipeline(self) -> Work:
        """This stage's passes in the order of the schedule: as many wait for their backward pass as there are stages behind."""
        stages, stage, passes = self.world.parallel.pipeline, self.world.stage, self.batch.passes  # type: ignore[attr-defined]
        waiting = passes if passes < stages else stages - stage
        traced = min(passes, stages + 1)
        begun: list[torch.Tensor] = []
        forwards = 0
        with self.tracer.counted() as work:
            for _ in range(traced):
                while forwards < traced and len(begun) < waiting:
                    begun.append(self._stage_forward())
                    forwards += 1
                made = begun.pop(0)
                made.backward(torch.ones_like(made) if made.ndim else None)
                del made
        hidden = self.batch.rows * self.batch.block * self.model.config.hidden_size * _FLOAT
        found = work.times(passes / traced)
        neighbours = [n for n in (stage - 1, stage + 1) if 0 <= n < stages]
        for neighbour in neighbours:  # states go one way, their gradients the other
            found.sent[tuple(sorted((stage, neighbour)))] += passes * hidden
        return found

    def _stage_forward(self) -> torch.Tensor:
        config = self.model.config
        if self.part.first:
            made = self.part(self._rows(), self._rows())
        else:
            states = torch.zeros(self.batch.rows, self.batch.block, config.hidden_size, requires_grad=True)
            made = self.part(states, self._rows())
        if self.part.last:
            made = torch.nn.functional.cross_entropy(
                made.float().flatten(0, 1), self._rows().flatten(), reduction="sum"
            )
        found: torch.Tensor = made
        return found

    def _exchanged(self) -> Work:
        """Gradients that ddp or the pipelines of several replicas sum, which Lightning's wrapper or the world does."""
        work, replicas = Work(), self.world.replicas
        if replicas > 1 and not (self.world.stock_modules and self.part is None):
            own = sum(weight.numel() for weight in self.weights if weight.requires_grad) * _FLOAT
            stride = self.world.parallel.tensor * self.world.parallel.pipeline
            first = self.world.place.rank % stride
            group = tuple(range(first, self.world.place.size, stride))
            work.sent[group] += int(2 * (replicas - 1) / replicas * own)
        return work


def _state_of(optimizer: Any) -> Iterator[torch.Tensor]:
    """Tensors that an optimizer keeps, whatever it is wrapped in."""
    inner: Callable[[str], Any] = lambda name: getattr(optimizer, name, None)  # noqa: E731
    wrapped = inner("_inner") or inner("optim")
    for value in tree_iter([*optimizer.state.values()]):
        if isinstance(value, torch.Tensor):
            yield value
    if wrapped is not None:
        yield from _state_of(wrapped)
