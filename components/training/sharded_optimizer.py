"""Optimizers whose state is shared out over processes.

`share_out` is for ddp, where every process holds every weight: each moves its share of them and sends them to the others
(ZeRO stage 1; Rajbhandari et al. 2020, arXiv 1910.02054), by `torch.distributed.optim`. A weight is never cut, so that it
serves optimizers that look at whole matrices too.

`WholeMatrices` is for fsdp2, where every weight is cut: Muon orthogonalises whole matrices, so each has an owner, which
is sent the pieces of its gradient, moves the matrix, and sends the pieces back (as Liu et al. 2025, arXiv 2502.16982,
section 2.3, do under ZeRO). Each process owns as many numbers as the others, so their state and work are shared out as
evenly as matrices allow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch import nn

# they treat every number alone, so a cut weight is as good as a whole one
ELEMENTWISE = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def share_out(optimizer: Optimizer) -> Optimizer:
    """The same optimizer, each process keeping the state of its share of the weights; for weights that all hold whole."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    groups = [dict(group) for group in optimizer.param_groups]
    return ZeroRedundancyOptimizer(groups, optimizer_class=type(optimizer), **_arguments(optimizer))


def for_shards(optimizer: Optimizer) -> Optimizer:
    """The same optimizer over weights that are cut: itself where it treats every number alone, else `WholeMatrices`."""
    if isinstance(optimizer, ELEMENTWISE):
        return optimizer
    return WholeMatrices(optimizer.param_groups, type(optimizer), _arguments(optimizer))


def _arguments(optimizer: Optimizer) -> dict[str, Any]:
    """Defaults that the optimizer's class takes; torch's AdamW keeps one that it does not."""
    taken = inspect.signature(type(optimizer).__init__).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in taken}


class WholeMatrices(Optimizer):
    """An optimizer of whole weights over weights that are cut (DTensors of one mesh, which covers all processes).

    groups: as of any optimizer; make: its class, called with groups of plain tensors and `defaults`. `state_dict` is that
    of the plain optimizer over whole weights, once `consolidate_state_dict` has collected it on process 0.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], make: Callable[..., Optimizer], defaults: dict[str, Any]
    ) -> None:
        super().__init__([dict(group) for group in groups], dict(defaults))
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._weights: list[DTensor] = [weight for group in self.param_groups for weight in group["params"]]
        self._owners = divide([weight.numel() for weight in self._weights], self._world)
        self._mine = [index for index, owner in enumerate(self._owners) if owner == self._rank]
        # what every process holds of every weight: rows, and a range of each further dimension
        self._pieces = self._describe_pieces()
        self._whole: dict[int, nn.Parameter] = {}
        owned, at = [], 0
        for group in self.param_groups:
            indices = range(at, at + len(group["params"]))
            at += len(group["params"])
            mine = [index for index in indices if self._owners[index] == self._rank]
            for index in mine:
                like = self._weights[index]
                empty = torch.empty(like.shape, dtype=like.dtype, device=like.to_local().device)
                self._whole[index] = torch.nn.Parameter(empty)
            owned.append({**group, "params": [self._whole[index] for index in mine]})
        # an optimizer refuses to have nothing to do; a process may have less matrices than there are groups, or none
        self._inner = make(owned, **defaults) if self._mine else None
        self._release()
        self._collected: dict[int, dict[str, Any]] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient."""
        result = closure() if closure is not None else None
        moved = [index for index, weight in enumerate(self._weights) if weight.grad is not None]
        weights = self._to_owners(moved, [weight.to_local() for weight in self._weights])
        gradients = self._to_owners(moved, [_local(weight.grad) for weight in self._weights])
        for index in self._mine:
            self._whole[index].data = weights.get(index, self._whole[index].data)
            self._whole[index].grad = gradients.get(index)
        if self._inner is not None:
            for inner, outer in zip(self._inner.param_groups, self.param_groups, strict=True):
                inner.update({name: value for name, value in outer.items() if name != "params"})
            self._inner.step()
        self._to_holders(moved)
        self._release()
        return result

    def consolidate_state_dict(self) -> None:
        """Collect the state on process 0; all processes must ask."""
        self._collected = {}
        inner = self._inner.state if self._inner is not None else {}
        for index, owner in enumerate(self._owners):
            state = dict(inner.get(self._whole[index], {})) if owner == self._rank else None
            box: list[Any] = [{name: _to_cpu(value) for name, value in state.items()} if state is not None else None]
            dist.broadcast_object_list(box, src=owner)  # one matrix at a time: no process needs room for all
            if self._rank == 0 and box[0]:
                self._collected[index] = box[0]

    def state_dict(self) -> dict[str, Any]:
        """State of the plain optimizer over whole weights; on process 0, after `consolidate_state_dict`."""
        groups, at = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": list(range(at, at + count))})
            at += count
        return {"state": self._collected or {}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take one's own matrices' part of a state of whole weights, which every process reads."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        if self._inner is None:
            return
        inner = self._inner.state_dict()
        order = [index for group in self._grouped() for index in group]
        for index in order:  # the inner optimizer compares shapes with its weights'
            weight = self._weights[index]
            self._whole[index].data = torch.empty(weight.shape, dtype=weight.dtype, device=weight.to_local().device)
        inner["state"] = {
            place: state_dict["state"][index] for place, index in enumerate(order) if index in state_dict["state"]
        }
        self._inner.load_state_dict(inner)
        self._release()

    def _grouped(self) -> list[list[int]]:
        """One's own weights by group."""
        found, at = [], 0
        for group in self.param_groups:
            indices = range(at, at + len(group["params"]))
            found.append([index for index in indices if index in self._whole])
            at += len(group["params"])
        return found

    def _release(self) -> None:
        """Between steps the owner holds state only."""
        for weight in self._whole.values():
            weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)
            weight.grad = None

    def _describe_pieces(self) -> list[list[tuple[torch.Tensor, tuple[slice, ...]]]]:
        """[process][weight]: row numbers, and slices of the further dimensions."""
        found = [[piece_of(weight, process) for weight in self._weights] for process in range(self._world)]
        for weight, (rows, slices) in zip(self._weights, found[self._rank], strict=True):
            held = weight.to_local().shape
            expected = (len(rows), *(part.stop - part.start for part in slices))
            assert 0 in (held.numel(), *expected) or tuple(held) == expected, f"{tuple(held)} is no {expected}"
        return found

    def _size(self, process: int, index: int) -> int:
        rows, slices = self._pieces[process][index]
        size = len(rows)
        for part in slices:
            size *= part.stop - part.start
        return size

    def _to_owners(self, moved: list[int], local: Sequence[torch.Tensor | None]) -> dict[int, torch.Tensor]:
        """Pieces go to the owners of their weights; one's own weights come out whole."""
        device, dtype = self._weights[0].to_local().device, self._weights[0].dtype
        by_owner = [[index for index in moved if self._owners[index] == owner] for owner in range(self._world)]
        sent_sizes = [sum(self._size(self._rank, index) for index in indices) for indices in by_owner]
        mine = by_owner[self._rank]
        got_sizes = [sum(self._size(process, index) for index in mine) for process in range(self._world)]
        pieces = [local[index] for indices in by_owner for index in indices]
        sent = torch.cat([piece.reshape(-1) for piece in pieces if piece is not None])
        got = torch.empty(sum(got_sizes), dtype=dtype, device=device)
        dist.all_to_all_single(got, sent.to(dtype), got_sizes, sent_sizes)
        whole = {index: torch.empty(self._weights[index].shape, dtype=dtype, device=device) for index in mine}
        at = 0
        for process in range(self._world):
            for index in mine:
                rows, slices = self._pieces[process][index]
                size = self._size(process, index)
                shape = [len(rows), *(part.stop - part.start for part in slices)]
                whole[index][(rows.to(device), *slices)] = got[at : at + size].view(shape)
                at += size
        return whole

    def _to_holders(self, moved: list[int]) -> None:
        """The way back: every process gets its pieces of what the owners have moved."""
        device, dtype = self._weights[0].to_local().device, self._weights[0].dtype
        mine = [index for index in moved if index in self._whole]
        parts, sent_sizes = [], []
        for process in range(self._world):
            sent_sizes.append(sum(self._size(process, index) for index in mine))
            for index in mine:
                rows, slices = self._pieces[process][index]
                parts.append(self._whole[index].data[(rows.to(device), *slices)].reshape(-1))
        sent = torch.cat(parts) if parts else torch.empty(0, dtype=dtype, device=device)
        by_owner = [[index for index in moved if self._owners[index] == owner] for owner in range(self._world)]
        got_sizes = [sum(self._size(self._rank, index) for index in indices) for indices in by_owner]
        got = torch.empty(sum(got_sizes), dtype=dtype, device=device)
        dist.all_to_all_single(got, sent, got_sizes, sent_sizes)
        at = 0
        for index in (index for indices in by_owner for index in indices):
            target = self._weights[index].to_local()
            target.copy_(got[at : at + target.numel()].view(target.shape))
            at += target.numel()


def divide(sizes: Sequence[int], among: int) -> list[int]:
    """An owner for each, largest first, always the one with least so far; the same in every process."""
    loads, owners = [0] * among, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        owner = min(range(among), key=lambda process: (loads[process], process))
        owners[index] = owner
        loads[owner] += sizes[index]
    return owners


def piece_of(weight: DTensor, process: int) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Which numbers of a weight a process holds: rows (int64), and a slice of each further dimension.

    The mesh holds all processes in order. Its last dimension was divided over first (tensor parallelism, then fsdp2), each
    time into as many chunks, the first ones larger where it does not come out even (`torch.chunk`).
    """
    coordinates = []
    for size in reversed(weight.device_mesh.shape):
        process, at = divmod(process, size)
        coordinates.append(at)
    held = [range(size) for size in weight.shape]
    for place, size, at in zip(
        reversed(weight.placements), reversed(weight.device_mesh.shape), coordinates, strict=True
    ):
        if place.is_replicate():
            continue
        numbers = held[place.dim]
        share = -(-len(numbers) // size)
        held[place.dim] = numbers[min(at * share, len(numbers)) : min((at + 1) * share, len(numbers))]
    rows, *others = held
    return torch.tensor(list(rows), dtype=torch.long), tuple(slice(part.start, part.stop) for part in others)


def _local(gradient: Any) -> torch.Tensor | None:
    if isinstance(gradient, DTensor):
        local: torch.Tensor = gradient.to_local()
        return local
    assert gradient is None, "a gradient that is not cut as its weight is"
    return None


def _to_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
