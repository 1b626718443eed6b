"""Packed rows through any decoder: every sequence of a row computes as if it stood alone.

A row holds several sequences one after the other. Attention is kept inside each by a mask; learnt positions start anew
at each; a recurrent model, whose state no mask stops, and one of an unknown family get every sequence in a row of its
own. Import inside functions: this module needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from components.model.architectures import attention_mask, of
from components.training.order import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SHORTEST_ROW = 64  # tokens: rows of recurrent models are grouped by length in steps that double, beginning here


@dataclass(frozen=True)
class Pass:
    """One forward pass: keyword arguments of the model, and the targets of the logits that come out, in their order."""

    arguments: dict[str, Any]
    targets: torch.Tensor


def forward_passes(
    config: PreTrainedConfig, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor
) -> list[Pass]:
    """The forward passes that a packed batch needs: one, or where sequences cannot share a row one a group of lengths.

    All three are int64 [B, T]: token ids, ids to predict (or IGNORED), and which sequence of its row a token belongs to.
    Every target that counts is in exactly one pass. One pass has the batch's own shape; the shapes of groups change from
    batch to batch, so a model that needs them is better not compiled.
    """
    if not of(config).packs:
        return [Pass({"input_ids": rows}, wanted) for rows, wanted in _separated(inputs, targets, numbers)]
    return [Pass(forward_arguments(config, inputs, numbers), targets)]


def forward_arguments(config: PreTrainedConfig, inputs: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
    """Keyword arguments that keep attention inside each sequence of packed rows; nothing in it depends on values.

    inputs, numbers: int64 [B, T], as in `forward_passes`. Rotary positions run on through the row, since attention hears
    only their differences; learnt ones start at 0 with every sequence, as when it is scored alone. A model with experts
    also gives out what its routers said. Flash attention takes no mask: it gets all rows as one (the logits are then
    [1, B * T, V], in the same order) and knows sequences by their positions. Raises ValueError where no argument
    keeps sequences apart: `forward_passes` is for such models.
    """
    architecture = of(config)
    if not architecture.packs:
        raise ValueError(f"sequences of a {architecture.name} model cannot share a row: use forward_passes")
    arguments: dict[str, Any] = {"input_ids": inputs}
    if architecture.routers:
        arguments["output_router_logits"] = True
    if str(config._attn_implementation).startswith("flash"):
        return {**arguments, "input_ids": inputs.reshape(1, -1), "position_ids": _positions(numbers).reshape(1, -1)}
    if architecture.routers:
        # with a mask of four dimensions transformers would weigh its own balancing loss by it, and fail; without one it
        # knows sequences by their positions and makes the same mask
        return {**arguments, "position_ids": _positions(numbers)}
    if architecture.positions:
        arguments["position_ids"] = _positions(numbers)
    return {
        **arguments,
        "attention_mask": attention_mask(config, visible(numbers, getattr(config, "sliding_window", None))),
    }


def leave_flash(model: PreTrainedModel) -> str | None:
    """Give up flash attention, which neither processors nor float32 have; its name, where the model had it."""
    trained_with = str(model.config._attn_implementation)
    if not trained_with.startswith("flash"):
        return None
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    return trained_with


@contextmanager
def without_flash(model: PreTrainedModel) -> Iterator[None]:
    """No flash attention while the block lasts: whoever looks at a model may have it on a processor, or in float32."""
    trained_with = leave_flash(model)
    try:
        yield
    finally:
        if trained_with is not None:
            model.set_attn_implementation(trained_with)


def logits_and_balance(model: PreTrainedModel, step: Pass) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of a pass, [..., V], and for a model with experts what its routers' imbalance adds to the loss.

    The second is a scalar in the measure of a sum over the targets that count, so that it is added to the sum of their
    cross-entropies (nats) and divided by their number with it. `loss + (balance - balance.detach())` trains by it and
    leaves the figure a plain cross-entropy.
    """
    outputs = model(**step.arguments, use_cache=False)
    routed = getattr(outputs, "router_logits", None)
    if not routed:
        return outputs.logits, None
    return outputs.logits, router_imbalance(model.config, routed, step.targets)


def router_imbalance(
    config: PreTrainedConfig, router_logits: Sequence[torch.Tensor], targets: torch.Tensor
) -> torch.Tensor:
    """Load-balancing loss of Switch Transformers (arXiv 2101.03961, equations 4 to 6), summed over counted targets.

    router_logits: of each layer, [B * T, experts]; targets: int64 [B, T]. For each row and layer: experts x the sum over
    experts of (share of counted tokens that go to it) x (its mean probability), which is `experts_per_token` where all
    are alike. Taken by row and not by forward pass, it does not depend on how many rows a pass has: accumulation and
    processes change nothing.
    """
    counted_BT1 = (targets != IGNORED)[..., None].float()
    rows, length, _ = counted_BT1.shape
    in_row_B1 = counted_BT1.sum(1)
    total = counted_BT1.new_zeros(())
    for layer in router_logits:
        probabilities_BTE = layer.float().softmax(-1).view(rows, length, -1)
        chosen = probabilities_BTE.topk(int(config.num_experts_per_tok), -1).indices
        sent_BTE = torch.zeros_like(probabilities_BTE).scatter_(-1, chosen, 1.0)
        share_BE = (sent_BTE * counted_BT1).sum(1) / in_row_B1.clamp(min=1)
        # the row's mean probability, times the row's tokens
        weighed_BE = (probabilities_BTE * counted_BT1).sum(1)
        total = total + probabilities_BTE.shape[-1] * (share_BE * weighed_BE).sum()
    return float(config.router_aux_loss_coef) * total / len(router_logits)


def visible(numbers: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Who sees whom: numbers [B, T] of sequences -> bool [B, 1, T, T], true where a query sees a key.

    A token sees itself and what is before it in its own sequence, `window` tokens in all where one is given.
    """
    places_T = torch.arange(numbers.shape[1], device=numbers.device)
    back_TT = places_T[:, None] - places_T
    seen_TT = back_TT >= 0 if window is None else (back_TT >= 0) & (back_TT < window)
    return ((numbers[:, :, None] == numbers[:, None, :]) & seen_TT)[:, None]


def _positions(numbers: torch.Tensor) -> torch.Tensor:
    """Places of tokens in their own sequences, from 0; int64 [B, T]."""
    places_T = torch.arange(numbers.shape[1], device=numbers.device)
    first_BT = torch.ones_like(numbers, dtype=torch.bool)
    first_BT[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    return places_T - torch.where(first_BT, places_T, 0).cummax(1).values


def _separated(
    inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every sequence with a target that counts in a row of its own, (ids, targets) [S, L]; of like length together.

    Padding stands at the end, where it reaches nothing. Where no target counts, one sequence remains, so that there is a
    loss to differentiate.
    """
    sequences: list[tuple[int, int, int]] = []  # row, start, stop
    for row, numbers_T in enumerate(numbers.tolist()):
        starts = [at for at in range(len(numbers_T)) if at == 0 or numbers_T[at] != numbers_T[at - 1]]
        sequences += [(row, a, b) for a, b in zip(starts, [*starts[1:], len(numbers_T)], strict=True)]
    counted = (targets != IGNORED).cpu()
    sequences = [(row, a, b) for row, a, b in sequences if counted[row, a:b].any()] or sequences[:1]
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for row, a, b in sequences:
        size = max(0, (-(-(b - a) // _SHORTEST_ROW) - 1).bit_length())
        groups.setdefault(size, []).append((row, a, b))
    for size in sorted(groups):
        length = max(b - a for _, a, b in groups[size])
        rows = inputs.new_zeros(len(groups[size]), length)
        wanted = targets.new_full((len(groups[size]), length), IGNORED)
        for index, (row, a, b) in enumerate(groups[size]):
            rows[index, : b - a] = inputs[row, a:b]
            wanted[index, : b - a] = targets[row, a:b]
        yield rows, wanted
