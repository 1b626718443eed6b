"""Optimizers of `pretrain` and `sft`.

Muon (Jordan et al. 2024, `torch.optim.Muon`) moves the matrices inside the blocks, AdamW everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


def muon_and_adamw(
    model: PreTrainedModel,
    *,
    matrix_learning_rate: float,
    embedding_learning_rate: float,
    learning_rate: float,
    weight_decay: float,
) -> list[Optimizer]:
    """[Muon over the blocks' matrices, AdamW over embeddings, head and norms]. Decay falls on the matrices only.

    An embedding's row is moved only when its token occurs, so embeddings bear (and want) a rate far above the head's;
    tied to the head they take the head's, `learning_rate`.
    """
    import torch

    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    matrices, embeddings, others = [], [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter is embedding and head is not embedding:
            embeddings.append(parameter)
        elif parameter is embedding or parameter is head or parameter.ndim != 2:
            others.append(parameter)
        else:
            matrices.append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=matrix_learning_rate,
        momentum=0.95,
        nesterov=True,
        weight_decay=weight_decay,
        adjust_lr_fn="original",
    )
    groups = [{"params": others, "lr": learning_rate}]
    if embeddings:
        groups.append({"params": embeddings, "lr": embedding_learning_rate})
    # beta2 = 0.95: small batches and short runs, as in nanoGPT's recipe
    return [muon, torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> list[Optimizer]:
    """[AdamW over everything that is trained]: for adapters, whose factors are no matrices in Muon's sense."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)]
