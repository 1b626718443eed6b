"""Muon for many small matrices: orthogonalised momentum, matrices of one shape worked on together.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (github.com/KellerJordan/Muon), as in
`torch.optim.Muon`, which walks over the matrices one by one: on two cores that took a quarter of a training step.
Here matrices of one shape form one batch, and the projections of attention are orthogonalised a head at a time, which costs a
fifth and treats each head as the map of its own that it is (docs/log.md: 7.074 against 7.108 bits a character after 250 steps).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Quintic a x + b x^3 + c x^5, iterated: singular values between about 0.7 and 1.2, from as small a start as can be (Jordan et al.).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_SMALL = 1e-7


def orthogonalise(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular vectors kept, singular values brought near 1.

    matrices: [n, r, c]; returns the same shape in `dtype`, in which the iteration runs: bfloat16, as its authors found
    enough, or float32 where bfloat16 would be emulated.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x_NRC = matrices.to(dtype)
    if tall:
        x_NRC = x_NRC.mT
    norm_N11 = torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    x_NRC = x_NRC / (norm_N11 + _SMALL).to(dtype)
    for _ in range(steps):
        gram_NRR = torch.bmm(x_NRC, x_NRC.mT)
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=_B, alpha=_C)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=_A)
    return x_NRC.mT if tall else x_NRC


Blocks = tuple[Literal["rows", "columns"], int]


class Muon(Optimizer):
    """Moves each matrix along its orthogonalised momentum, scaled by sqrt(max(1, outputs / inputs)).

    Parameters are [outputs, inputs], or stacks of such matrices [n, outputs, inputs] (experts). Options of a group:
    `blocks` says how a matrix is divided before it is orthogonalised: ("rows", n) into n matrices of rows / n,
    ("columns", n) likewise, None not at all; `transposed`: they are stored as [inputs, outputs]. bf16: whether the whole
    optimizer iterates in bfloat16, else in float32; it is the machine's, and what a checkpoint says is not followed. State: `momentum_buffer` in
    float32. Raises ValueError for parameters of other dimensions.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        blocks: Blocks | None = None,
        transposed: bool = False,
        bf16: bool = True,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "steps": steps,
            "blocks": blocks,
            "transposed": transposed,
        }
        super().__init__(params, defaults)
        # among the defaults it is handed on by what shares optimizers out; a group's would come back with a checkpoint
        self.defaults["bf16"] = bf16
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim not in (2, 3):
                    raise ValueError(f"Muon moves matrices; this parameter has shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        waiting: dict[tuple[int, int, int], list[tuple[dict[str, Any], nn.Parameter, Tensor]]] = defaultdict(list)
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            for parameter, update in zip(moved, self._with_momentum(group, moved), strict=True):
                divided = _divide(update, group["blocks"])
                waiting[(*divided.shape[1:], group["steps"])].append((group, parameter, divided))
        dtype = torch.bfloat16 if self.defaults["bf16"] else torch.float32
        for (_, _, steps), entries in waiting.items():
            stacked = torch.cat([divided for _, _, divided in entries])
            parts = orthogonalise(stacked, steps, dtype).split([divided.shape[0] for _, _, divided in entries])
            for (group, parameter, _), update in zip(entries, parts, strict=True):
                outputs, inputs = reversed(parameter.shape[-2:]) if group["transposed"] else parameter.shape[-2:]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                whole = _join(update, group["blocks"]).view_as(parameter).to(parameter.dtype)
                parameter.add_(whole, alpha=-group["lr"] * max(1.0, outputs / inputs) ** 0.5)
        return result

    def _with_momentum(self, group: dict[str, Any], moved: list[nn.Parameter]) -> tuple[Tensor, ...]:
        """Nesterov momentum of the gradients, which goes on in the state."""
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        buffers = []
        for parameter in moved:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter, dtype=torch.float32)
            buffers.append(state["momentum_buffer"])
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead: tuple[Tensor, ...] = torch._foreach_lerp(gradients, buffers, group["momentum"])
        return ahead


def _divide(matrix: Tensor, blocks: Blocks | None) -> Tensor:
    """[rows, columns] -> [n, r, c]; blocks of columns are turned, so that a head's projections have one shape."""
    if matrix.ndim == 3:
        return matrix
    if blocks is None:
        return matrix[None]
    side, count = blocks
    if side == "rows":
        return matrix.view(count, -1, matrix.shape[1])
    return matrix.mT.reshape(count, -1, matrix.shape[0])


def _join(divided: Tensor, blocks: Blocks | None) -> Tensor:
    """The inverse of `_divide`, but for a leading dimension of 1."""
    if blocks is None:
        return divided
    flat = divided.reshape(-1, divided.shape[-1])
    return flat if blocks[0] == "rows" else flat.mT
