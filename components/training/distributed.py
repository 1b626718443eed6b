"""Several processes that train one model: what the loop asks of them, and how each strategy answers.

A `World` is this process's view of all of them. Alone, every question has a trivial answer, so the loop and the steps ask
always and never look at the number of processes. With more, an optimizer step stays what it is: the loader gives each
replica its rows of the step, the loss is divided by the targets of all of them, gradients are summed. One process
therefore equals many within rounding.

- `Replicated` (ddp): each process holds the whole model; gradients are summed while they arrive (Li et al. 2020,
  arXiv 2006.15704). `shard_optimizer` shares the optimizer's state out (Rajbhandari et al. 2020, arXiv 1910.02054).
- `Sharded` (fsdp2): weights, gradients and optimizer state are shared out, and gathered block by block when they are
  needed (Zhao et al. 2023, arXiv 2304.11277; `torch.distributed.fsdp.fully_shard`); matrices may be split inside a
  replica as well (`components.training.tensor_parallel`).
- `components.training.pipeline` holds the third: layers in stages.

CUDA, NCCL and several machines: untested on this hardware.
"""

from __future__ import annotations

import signal
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist

from components.errors import InkwellError
from components.training.shares import (
    clip_shards,
    exchange_device,
    scale_to,
    whole_tensor,
    with_weights,
    without_weights,
)
from components.training.strategies import Environment, ReplicatedStrategy, WholeCheckpoints

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies import Strategy
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from components.configuration.training import Parallel
    from components.launch.processes import Place

Value = TypeVar("Value")

# Validation and samples are the leader's; the others wait for it in their next exchange.
PATIENCE = timedelta(hours=2)


class World:
    """One process: nothing is exchanged. The base of what more of them do.

    `replicas` processes, or groups of them, hold a whole model each and see different rows; this one is in replica
    `replica`.
    """

    def __init__(self, place: Place, parallel: Parallel) -> None:
        self.place, self.parallel = place, parallel
        self.compile_blocks = False  # whether a strategy that takes modules in hand compiles each block's own work

    @property
    def leader(self) -> bool:
        """Whether this process prints and writes."""
        return self.place.leader

    @property
    def replicas(self) -> int:
        """Models that see rows of their own: the loader's `world`."""
        return self.place.size // (self.parallel.tensor * self.parallel.pipeline)

    @property
    def replica(self) -> int:
        """Which of them this process belongs to: the loader's `rank`."""
        return self.place.rank // (self.parallel.tensor * self.parallel.pipeline)

    @property
    def stock_modules(self) -> bool:
        """Whether the forward pass must go through the model's own modules, because hooks on them exchange weights."""
        return False

    @property
    def loss_factor(self) -> float:
        """What a replica multiplies its loss with before the backward pass: gradients are averaged over replicas."""
        return float(self.replicas)

    def check(self, model: PreTrainedModel, block: int, precision: str = "") -> None:
        """Raise InkwellError, naming the parameter, for a model that cannot be divided as asked.

        block: tokens of a row; precision: as `components.machine.hardware` has chosen it.
        """

    def trainer_options(self, device: str) -> dict[str, Any]:
        """Arguments of Lightning's Trainer: accelerator, devices, strategy."""
        return {"accelerator": {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[device], "devices": 1}

    def prepare(self, module: LightningModule, model: PreTrainedModel) -> None:
        """Divide the model, in place; the loop's `configure_model` calls it once, before optimizers are made."""

    def optimizers(self, model: PreTrainedModel, make: Callable[[PreTrainedModel], list[Optimizer]]) -> list[Optimizer]:
        """`make(model)`, with the state divided as asked."""
        return make(model)

    def micro_batch(self, module: LightningModule, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of one micro-batch; gradients need not be exchanged before the last."""
        return nullcontext()

    def backward(self, module: Any, passes: Sequence[tuple[torch.Tensor, ...]], share: float) -> torch.Tensor:
        """Add the gradients of a step's loss, times `share`; the loss of this replica's rows, summed (nats, scalar).

        passes: micro-batches of inputs, targets and sequence numbers, int64 [B, T]; module: the loop's, with
        `computation` and `scaler`.
        """
        total = torch.zeros((), device=passes[0][0].device)
        for index, (inputs_BT, targets_BT, numbers_BT) in enumerate(passes):
            with self.micro_batch(module, index == len(passes) - 1):
                loss = module.computation.loss_sum(inputs_BT, targets_BT, numbers_BT)
                module.manual_backward(module.scaler.scale(loss * share))
            total += loss.detach()
        return total

    def clip(self, model: nn.Module, largest: float) -> float:
        """Scale the gradients so that their norm is at most `largest`; the norm before, the same in all processes."""
        return float(torch.nn.utils.clip_grad_norm_(model.parameters(), largest))

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the replicas."""
        return list(values)

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, by rank."""
        return [value]

    def decide(self, choose: Callable[[], Value]) -> Value:
        """What the leader chooses, in all processes: for what depends on the clock, the machine or its files."""
        return choose()

    def whole(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """The model with all its weights, on the leader, to be scored or saved; None on the others. All must ask."""
        return model

    def collect(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Whole tensors on the leader's processor, each process giving what it has of them; all must ask.

        The names are those of the model's parameters, whose division the tensors share.
        """
        return {name: whole_tensor(tensor, keep=True) for name, tensor in tensors.items()}

    def look(self, model: PreTrainedModel, function: Callable[[PreTrainedModel], Value]) -> Value:
        """What the leader finds when it looks at the whole model, in all processes; the others wait."""
        whole = self.whole(model)

        def find() -> Value:
            assert whole is not None
            return function(whole)

        return self.decide(find)

    def listen(self) -> None:
        """Take notice of SIGTERM from now on, where Lightning's way would not do."""

    def asked_to_end(self, here: bool) -> bool:
        """Whether any process was asked to end by SIGTERM; `here`: this one, as Lightning knows."""
        return here

    def seed(self, seed: int) -> None:
        """Replicas draw different dropout; processes of one replica the same."""
        if self.place.size > 1:
            torch.manual_seed(seed + self.replica)


class Several(World, ABC):
    """What all strategies of more than one process share."""

    _ending = False

    def trainer_options(self, device: str) -> dict[str, Any]:
        """See `World`."""
        return {
            **super().trainer_options(device),
            "devices": self.place.local_size,
            "num_nodes": self.place.nodes,
            "strategy": self.strategy(Environment(self.place)),
        }

    @abstractmethod
    def strategy(self, environment: ClusterEnvironment) -> Strategy:
        """Lightning's strategy."""

    def listen(self) -> None:
        """See `World`."""
        # Lightning's handler exchanges a tensor in the middle of whatever is being exchanged: the processes, which get the
        # signal at different moments, would take it for another one
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._take_notice)

    def _take_notice(self, *_: Any) -> None:
        self._ending = True

    def asked_to_end(self, here: bool) -> bool:
        """See `World`."""
        return self.sum(float(self._ending))[0] > 0

    def sum(self, *values: float) -> list[float]:
        """See `World`."""
        # float64 holds every count exactly; each replica's figures are the same in all of its processes
        packed = torch.tensor(values, dtype=torch.float64, device=exchange_device())
        dist.all_reduce(packed)
        copies = self.place.size // self.replicas
        return [value / copies for value in packed.tolist()]

    def collect(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `World`."""
        whole = {name: whole_tensor(tensor, self.leader) for name, tensor in tensors.items()}
        return whole if self.leader else {}

    def gather(self, value: Value) -> list[Value]:
        """See `World`."""
        found: list[Any] = [None] * self.place.size
        dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def decide(self, choose: Callable[[], Value]) -> Value:
        """See `World`."""
        box = [choose() if self.leader else None]
        dist.broadcast_object_list(box, src=0)
        return cast(Value, box[0])


class Replicated(Several):
    """Data parallelism: a whole model in every process."""

    def clip(self, model: nn.Module, largest: float) -> float:
        """See `Several`."""
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).to(exchange_device())
        # the leader's, bit for bit, and with it the verdict on the step, which follows from loss and norm: unlike machines
        # round unlike, and one would take a step that another leaves out
        dist.broadcast(norm, src=0)
        return scale_to(gradients, norm, largest)

    def strategy(self, environment: ClusterEnvironment) -> Strategy:
        """See `Several`."""
        # every weight takes part in every pass, and the model has no running statistics to keep equal
        return ReplicatedStrategy(
            cluster_environment=environment, timeout=PATIENCE, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def optimizers(self, model: PreTrainedModel, make: Callable[[PreTrainedModel], list[Optimizer]]) -> list[Optimizer]:
        """See `Several`."""
        if not self.parallel.shard_optimizer:
            return make(model)
        from components.training.sharded_optimizer import share_out

        return [share_out(optimizer) for optimizer in make(model)]

    def micro_batch(self, module: LightningModule, last: bool) -> AbstractContextManager[None]:
        """See `Several`."""
        wrapped = module.trainer.strategy.model
        assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
        return nullcontext() if last else wrapped.no_sync()

    def whole(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """See `Several`."""
        return model if self.leader else None


class Sharded(Several):
    """Weights shared out over the processes, block by block; each block's are gathered while it computes."""

    _skeleton: PreTrainedModel | None = None

    @property
    def stock_modules(self) -> bool:
        """See `Several`."""
        return True

    def strategy(self, environment: ClusterEnvironment) -> Strategy:
        """See `Several`."""
        strategy = WholeCheckpoints(
            data_parallel_size=self.replicas,
            tensor_parallel_size=self.parallel.tensor,
            save_distributed_checkpoint=False,
            timeout=PATIENCE,
        )
        strategy.cluster_environment = environment
        return strategy

    def check(self, model: PreTrainedModel, block: int, precision: str = "") -> None:
        """See `Several`."""
        name = "machine.parallel.strategy = 'fsdp2'"
        refuse_scaling(name, precision)
        refuse_single_sequences(name, model)
        if self.parallel.tensor > 1:
            from components.training.tensor_parallel import check_tensor_parallel

            check_tensor_parallel(model, self.parallel, block)

    def prepare(self, module: LightningModule, model: PreTrainedModel) -> None:
        """See `Several`."""
        mesh = module.device_mesh
        assert mesh is not None
        self._skeleton = without_weights(model)
        if self.compile_blocks and self.parallel.tensor == 1:
            compile_each(blocks(model))
        shard(model, mesh, self.parallel)

    def optimizers(self, model: PreTrainedModel, make: Callable[[PreTrainedModel], list[Optimizer]]) -> list[Optimizer]:
        """See `Several`."""
        from components.training.sharded_optimizer import for_shards

        return [for_shards(optimizer) for optimizer in make(model)]

    def clip(self, model: nn.Module, largest: float) -> float:
        """See `Several`."""
        return clip_shards(model.parameters(), largest)

    def whole(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """See `Several`."""
        assert self._skeleton is not None, "the model was not divided yet"
        weights = self.collect(dict(model.named_parameters()))
        return with_weights(self._skeleton, weights) if self.leader else None


@contextmanager
def open_world(place: Place, parallel: Parallel, device: str) -> Iterator[World]:
    """This process's world; while the block lasts it is connected with the others.

    device: "cpu" (gloo), "cuda" (NCCL) or "mps" (one process only). Raises InkwellError for a combination of parameters
    that nothing offers.
    """
    check_parallel(place, parallel)
    if place.size == 1:
        yield World(place, parallel)
        return
    if device == "mps":
        raise InkwellError("machine.device = 'mps': Apple's GPU takes one process; leave machine.parallel at 1.")
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
    ours = not dist.is_initialized()  # Ray Train has connected them already
    if ours:
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=f"tcp://{place.address}:{place.port}",
            rank=place.rank,
            world_size=place.size,
            timeout=PATIENCE,
        )
    try:
        yield make_world(place, parallel)
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def make_world(place: Place, parallel: Parallel) -> World:
    """The strategy that the parameters name; processes are connected already where there are several."""
    if place.size == 1:
        return World(place, parallel)
    if parallel.pipeline > 1:
        from components.training.pipeline import Pipelined

        return Pipelined(place, parallel)
    return Sharded(place, parallel) if parallel.strategy == "fsdp2" else Replicated(place, parallel)


def check_parallel(place: Place, parallel: Parallel) -> None:
    """Raise InkwellError, naming the parameter, where `machine.parallel` contradicts itself or the processes there are."""
    name = "machine.parallel"
    if parallel.tensor > 1 and parallel.strategy != "fsdp2":
        raise InkwellError(f"{name}.tensor = {parallel.tensor} needs {name}.strategy = 'fsdp2'.")
    if parallel.pipeline > 1 and parallel.strategy != "ddp":
        raise InkwellError(f"{name}.pipeline = {parallel.pipeline} goes with {name}.strategy = 'ddp' only.")
    if parallel.sequence and parallel.tensor == 1:
        raise InkwellError(
            f"{name}.sequence needs {name}.tensor above 1: it divides what tensor parallelism leaves whole."
        )
    if parallel.shard_optimizer and (parallel.strategy != "ddp" or parallel.pipeline > 1):
        raise InkwellError(
            f"{name}.shard_optimizer is for ddp without pipeline: fsdp2 and pipeline stages share the state out anyway."
        )
    group = parallel.tensor * parallel.pipeline
    if place.size % group:
        raise InkwellError(
            f"{name}.{'tensor' if parallel.tensor > 1 else 'pipeline'} = {group}, but {place.size} processes are no "
            "multiple of it: change processes or nodes."
        )


def refuse_scaling(name: str, precision: str) -> None:
    """Raise InkwellError for fp16, whose scale of the loss the processes would have to agree on."""
    if precision == "fp16":
        raise InkwellError(
            f"machine.precision = 'fp16' does not go with {name}: use bf16, which needs no loss scaling."
        )


def refuse_single_sequences(name: str, model: PreTrainedModel) -> None:
    """Raise InkwellError for a model whose sequences cannot share a row: the processes would wait for each other for ever.

    How many forward passes it needs depends on the rows (`components.model.forward.forward_passes`), and each of them is
    an exchange where weights or layers are divided.
    """
    from components.model.architectures import of

    if not of(model.config).packs:
        raise InkwellError(
            f"{name}: sequences of this {model.config.model_type} model cannot share a row, so its forward passes differ in "
            "number from process to process; use ddp without stages."
        )


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder's blocks, whatever its architecture calls them."""
    wanted = model.config.num_hidden_layers
    for module in model.modules():
        if (
            isinstance(module, torch.nn.ModuleList)
            and len(module) == wanted
            and all(len(list(m.children())) for m in module)
        ):
            return module
    raise AssertionError(f"{type(model).__name__} has no list of {wanted} blocks")


def compile_each(modules: Iterable[nn.Module]) -> None:
    """Compile what each module computes itself; hooks on it, which exchange its weights, stay outside."""
    for module in modules:
        module.forward = torch.compile(module.forward)


def shard(model: PreTrainedModel, mesh: Any, parallel: Parallel) -> None:
    """Share the weights of `model` out over `mesh` ("data_parallel", "tensor_parallel"), in place.

    Each block is gathered, used and given back on its own; embeddings, last norm and head belong to the model.
    """
    from torch.distributed.fsdp import fully_shard

    if parallel.tensor > 1:
        from components.training.tensor_parallel import split_matrices

        split_matrices(model, mesh["tensor_parallel"], parallel.sequence)
    data = mesh["data_parallel"]
    if data.size() == 1:
        return  # nothing is left to share out
    # logits leave the model as a view; nobody writes into them
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in blocks(model):
        fully_shard(block, mesh=data)
    fully_shard(model, mesh=data)
