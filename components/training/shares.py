"""Tensors that are divided among processes: gathered, shared out again, and gradients scaled by the norm of all shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def exchange_device() -> torch.device:
    """Where tensors must lie to be exchanged: the GPU for NCCL, else the processor."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def clip_shards(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale gradients that are shared out so that their norm, over all processes, is at most `largest`; the norm before.

    `torch.nn.utils.clip_grad_norm_` does the same for tensors of one mesh only, and with an exchange for each.
    """
    shares, holders = [], []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        copies = dist.get_world_size()  # processes that hold the same share
        if isinstance(gradient, DTensor):
            if any(placement.is_partial() for placement in gradient.placements):
                # of a norm that hears one share of the heads or of the sequence; fsdp2 would have summed it
                assert isinstance(parameter, DTensor)
                parameter.grad = gradient = gradient.redistribute(placements=parameter.placements)
            for placement, size in zip(gradient.placements, gradient.device_mesh.shape, strict=True):
                copies //= 1 if placement.is_replicate() else size
            gradient = gradient.to_local()
        shares.append(gradient)
        holders.append(copies)
    norms = torch.stack(torch._foreach_norm(shares)).double()
    squares = (norms.square() / torch.tensor(holders, device=norms.device)).sum().to(exchange_device())
    dist.all_reduce(squares)
    return scale_to(shares, squares.sqrt(), largest)


def scale_to(gradients: Sequence[torch.Tensor], norm: torch.Tensor, largest: float) -> float:
    """Scale gradients of that norm so that it is at most `largest`; the norm as a number.

    The expression is that of `torch.nn.utils.clip_grad_norm_`; a norm that is no number leaves no gradient that is one.
    """
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor.to(gradients[0]))
    return float(norm)


def whole_tensor(value: Any, keep: bool) -> Any:
    """A tensor with all its shares, on the processor; all processes must ask, only those that `keep` get it."""
    if not isinstance(value, torch.Tensor):
        return value
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu().clone() if keep else None


def share_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's share of a tensor that every process holds whole, divided as `like` is."""
    if not isinstance(like, DTensor):
        return whole
    moved = whole.to(device=like.to_local().device, dtype=like.dtype)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules whose weights are empty, made before the model is divided."""
    import copy

    memo: dict[int, Any] = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, memo)


def with_weights(skeleton: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """Fill a copy that `without_weights` made; what is tied stays tied."""
    import copy

    same: dict[int, list[str]] = {}
    for name, weight in skeleton.named_parameters(remove_duplicate=False):
        same.setdefault(id(weight), []).append(name)
    memo: dict[int, Any] = {}
    for identity, names in same.items():
        found = next(weights[name] for name in names if name in weights)
        required = skeleton.get_parameter(names[0]).requires_grad
        memo[identity] = torch.nn.Parameter(found, requires_grad=required)
    return copy.deepcopy(skeleton, memo)
