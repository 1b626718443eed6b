"""Pipeline parallelism: the blocks of a decoder in stages, one process after the other.

Micro-batches follow each other through the stages (Huang et al. 2019, "GPipe", arXiv 1811.06965; Narayanan et al. 2021,
arXiv 2104.04473, for one forward and one backward pass in turn, which is used where there are at least as many
micro-batches as stages). `torch.distributed.pipelining` schedules and sends. With more processes than stages there are
several such pipelines, whose gradients are averaged.

Every process builds the whole model, keeps the weights of its stage and lets go of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional

from components.errors import InkwellError
from components.launch.processes import Place
from components.training.distributed import PATIENCE, Several, compile_each, refuse_scaling, refuse_single_sequences
from components.training.order import IGNORED
from components.training.shares import exchange_device, scale_to, with_weights, without_weights
from components.training.strategies import AllOrNone
from components.training.tensor_parallel import LIKE_LLAMA

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from components.configuration.training import Parallel
    from components.training.computation import Computation


class Pipelined(Several):
    """Stages of layers; process s of a replica computes the s-th."""

    def __init__(self, place: Place, parallel: Parallel) -> None:
        super().__init__(place, parallel)
        self.stages = parallel.pipeline
        self.stage = place.rank % self.stages
        self._skeleton: PreTrainedModel | None = None
        self._part: StagePart | None = None
        self._owners: dict[str, int] = {}
        self._orders: list[list[str]] = []
        self._groups: list[list[dict[str, Any]]] = []
        self._names: dict[int, str] = {}
        self._share = 0.0
        self._schedules: dict[int, ScheduleGPipe | Schedule1F1B] = {}
        self._mesh: Any = None

    @property
    def stock_modules(self) -> bool:
        """See `Several`."""
        return True

    def strategy(self, environment: ClusterEnvironment) -> Strategy:
        """See `Several`."""
        return _Stages(self, cluster_environment=environment, timeout=PATIENCE)

    def check(self, model: PreTrainedModel, block: int, precision: str = "") -> None:
        """See `Several`."""
        config, name = model.config, f"machine.parallel.pipeline = {self.stages}"
        refuse_scaling(name, precision)
        if config.model_type not in LIKE_LLAMA:
            raise InkwellError(
                f"{name}: known for {', '.join(LIKE_LLAMA)} only, not for {config.model_type}; set it to 1."
            )
        refuse_single_sequences(name, model)
        if config.num_hidden_layers < self.stages:
            raise InkwellError(f"{name} is more than pretrain.layers = {config.num_hidden_layers}.")
        if config.tie_word_embeddings:
            raise InkwellError(
                f"{name}: embeddings stand in the first stage and the head in the last; set pretrain.tie_embeddings to "
                "false."
            )

    def prepare(self, module: LightningModule, model: PreTrainedModel) -> None:
        """See `Several`."""
        self._mesh = init_device_mesh(
            exchange_device().type, (self.replicas, self.stages), mesh_dim_names=("data_parallel", "pipeline")
        )
        self._skeleton = without_weights(model)
        self._owners = owners_of(model, self.stages)
        for name, weight in model.named_parameters():
            if self._owners[name] != self.stage:
                weight.requires_grad = False

    def optimizers(self, model: PreTrainedModel, make: Callable[[PreTrainedModel], list[Optimizer]]) -> list[Optimizer]:
        """Optimizers of this stage's weights; the others' storage is let go."""
        assert self._skeleton is not None
        self._names = {id(weight): name for name, weight in model.named_parameters()}
        foreign = [weight for name, weight in model.named_parameters() if self._owners[name] != self.stage]
        # what optimizers of the whole model look like, for checkpoints that any number of processes can read
        trained = {name for name, weight in self._skeleton.named_parameters() if weight.requires_grad}
        for weight in foreign:
            weight.requires_grad = self._names[id(weight)] in trained
        self._orders, self._groups = [], []
        for optimizer in make(model):
            self._orders.append([self._names[id(w)] for group in optimizer.param_groups for w in group["params"]])
            self._groups.append(optimizer.state_dict()["param_groups"])
        for weight in foreign:
            weight.requires_grad = False
            weight.data = weight.data.new_zeros(()).expand(weight.shape)  # the shape, without its memory
        self._part = StagePart(model, self.stage, self.stages)
        if self.compile_blocks:
            compile_each(self._part.part.model.layers)
        return make(model)

    def backward(self, module: Any, passes: Sequence[tuple[torch.Tensor, ...]], share: float) -> torch.Tensor:
        """See `Several`."""
        inputs_NT, targets_NT, numbers_NT = (torch.cat(parts) for parts in zip(*passes, strict=True))
        # all that are in flight have one shape
        count = next(count for count in range(len(passes), 0, -1) if len(inputs_NT) % count == 0)
        schedule = self._schedule(count, module.computation)
        self._share = share
        losses: list[torch.Tensor] = []
        first, last = self.stage == 0, self.stage == self.stages - 1
        schedule.step(
            *([inputs_NT] if first else []),
            target=targets_NT if last else None,
            losses=losses if last else None,
            return_outputs=False,
            numbers=numbers_NT,
        )
        self._average_gradients(module.model)
        found = torch.stack(losses).sum().detach() / share if last else torch.zeros((), device=inputs_NT.device)
        return found * self.stages  # `sum` takes a replica's figure for the same in all of its processes

    def _schedule(self, passes: int, computation: Computation) -> ScheduleGPipe | Schedule1F1B:
        """A schedule for that many micro-batches; a batch that grows needs several."""
        if passes not in self._schedules:
            assert self._part is not None
            self._part.dtype = getattr(computation, "dtype", torch.float32)
            stage = PipelineStage(
                self._part, self.stage, self.stages, exchange_device(), group=self._mesh["pipeline"].get_group()
            )
            kind = Schedule1F1B if passes >= self.stages else ScheduleGPipe
            self._schedules[passes] = kind(stage, passes, loss_fn=self._loss, scale_grads=False)
        return self._schedules[passes]

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._share * functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def _average_gradients(self, model: nn.Module) -> None:
        if self.replicas == 1:
            return
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        together = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(together, group=self._mesh["data_parallel"].get_group())
        together /= self.replicas
        for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def clip(self, model: nn.Module, largest: float) -> float:
        """See `Several`."""
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        squares = torch.stack(torch._foreach_norm(gradients)).double().square().sum().to(exchange_device())
        dist.all_reduce(squares)
        return scale_to(gradients, (squares / self.replicas).sqrt(), largest)

    def whole(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """See `Several`."""
        assert self._skeleton is not None, "the model was not divided yet"
        weights = self.collect(dict(model.named_parameters()))
        return with_weights(self._skeleton, weights) if self.leader else None

    def collect(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Several`."""
        assert self._skeleton is not None, "the model was not divided yet"
        own = {name for name in tensors if self._owners[name] == self.stage}
        held = self.gather(own)[: self.stages]  # the first replica's
        found = {}
        for name, owner in self._owners.items():  # one tensor at a time, from its owner to the leader
            if name not in held[owner]:
                continue
            if owner == self.place.rank == 0:
                found[name] = tensors[name].detach().cpu().clone()
            elif self.place.rank == owner:
                dist.send(tensors[name].detach().contiguous(), dst=0)
            elif self.leader:
                like = self._skeleton.get_parameter(name)
                got = torch.empty(like.shape, dtype=like.dtype, device=exchange_device())
                dist.recv(got, src=owner)
                found[name] = got.cpu()
        return found


class StagePart(nn.Module):
    """One stage of a Llama-like decoder, made of the whole model's own modules, whose weights it shares.

    The first stage takes token ids [B, T], the others what the stage before made, [B, T, D]; the last gives out logits.
    """

    def __init__(self, model: PreTrainedModel, stage: int, stages: int) -> None:
        super().__init__()
        memo: dict[int, Any] = {id(weight): weight for weight in model.parameters()}
        part: Any = copy.deepcopy(model, memo)
        low, high = (bounds(model.config.num_hidden_layers, stages)[index] for index in (stage, stage + 1))
        part.model.layers = part.model.layers[low:high]
        self.first, self.last = stage == 0, stage == stages - 1
        if not self.last:
            part.model.norm, part.lm_head = nn.Identity(), nn.Identity()
        if not self.first:
            part.model.embed_tokens = nn.Identity()
        self.part, self.dtype = part, torch.float32

    def forward(self, states: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """numbers [B, T]: which sequence of its row a token belongs to."""
        from components.model.forward import forward_arguments

        arguments = forward_arguments(self.part.config, states if self.first else numbers, numbers)
        if not self.first:
            del arguments["input_ids"]
            arguments["inputs_embeds"] = states
        with torch.autocast(states.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            made: torch.Tensor = self.part(**arguments, use_cache=False).logits
        return made


class _Stages(AllOrNone, DDPStrategy):
    """Processes whose gradients `Pipelined` exchanges; checkpoints are those of one process."""

    def __init__(self, world: Pipelined, **options: Any) -> None:
        super().__init__(**options)
        self.world = world

    def configure_ddp(self) -> None:
        """Nothing is wrapped."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        module: Any = self.lightning_module
        whole = self.world.collect(dict(module.model.named_parameters()))
        return {f"model.{name}": weight for name, weight in whole.items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module: Any = self.lightning_module
        with torch.no_grad():
            for name, weight in module.model.named_parameters():
                if self.world._owners[name] == self.world.stage:
                    weight.copy_(checkpoint["state_dict"][f"model.{name}"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain: Any = getattr(optimizer, "_optimizer", optimizer)
        place = [getattr(one, "_optimizer", one) for one in self.optimizers].index(plain)
        order, names = self.world._orders[place], self.world._names
        own = {
            order.index(names[id(weight)]): {
                key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()
            }
            for weight, state in plain.state.items()
        }
        found = self.world.gather(own)
        if not self.is_global_zero:
            return {}
        state = {index: values for part in reversed(found) for index, values in part.items()}
        return {"state": dict(sorted(state.items())), "param_groups": self.world._groups[place]}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for place, (optimizer, saved) in enumerate(zip(self.optimizers, checkpoint["optimizer_states"], strict=True)):
            order, names = self.world._orders[place], self.world._names
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            indices = [order.index(names[id(weight)]) for weight in weights]
            own = optimizer.state_dict()
            own["state"] = {at: saved["state"][index] for at, index in enumerate(indices) if index in saved["state"]}
            optimizer.load_state_dict(own)


def bounds(layers: int, stages: int) -> list[int]:
    """Where stages begin and end: stage s has layers bounds[s] to bounds[s + 1]; the first ones are longer by one."""
    share, rest = divmod(layers, stages)
    found = [0]
    for stage in range(stages):
        found.append(found[-1] + share + (stage < rest))
    return found


def owners_of(model: PreTrainedModel, stages: int) -> dict[str, int]:
    """The stage of every parameter, by name."""
    edges = bounds(model.config.num_hidden_layers, stages)
    found = {}
    for name, _ in model.named_parameters():
        if name.startswith("model.layers."):
            layer = int(name.split(".")[2])
            found[name] = next(stage for stage in range(stages) if edges[stage] <= layer < edges[stage + 1])
        else:
            found[name] = 0 if name.startswith("model.embed_tokens.") else stages - 1
    return found
