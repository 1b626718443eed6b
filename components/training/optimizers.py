"""Optimizers of `pretrain` and `sft`: which rule moves which weight.

Muon moves the matrices inside the blocks, AdamW everything else; or AdamW moves all.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from components.model.architectures import roles
from components.training.muon import Blocks, Muon

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

# beta2 = 0.95: small batches and short runs, as in nanoGPT's recipe
_BETAS = (0.9, 0.95)


def muon_and_adamw(
    model: PreTrainedModel,
    *,
    matrix_learning_rate: float,
    embedding_learning_rate: float,
    learning_rate: float,
    weight_decay: float,
    muon_bf16: bool = True,
) -> list[Optimizer]:
    """[Muon over the blocks' matrices, AdamW over embeddings, head, routers and the rest]. Decay falls on matrices only.

    An embedding's row is moved only when its token occurs, so embeddings bear (and want) a rate far above the head's;
    tied to the head they take the head's, `learning_rate`. muon_bf16: see `components.machine.choices.Choices`.
    """
    import torch

    named = dict(model.named_parameters())
    found = {name: role for name, role in roles(model).items() if named[name].requires_grad}
    blocks, transposed = attention_blocks(model), transposed_matrices(model)
    matrices: dict[tuple[Blocks | None, bool], list[nn.Parameter]] = defaultdict(list)
    for name, role in found.items():
        if role in ("matrix", "experts"):
            matrices[blocks.get(name), name in transposed].append(named[name])
    embeddings = [named[name] for name, role in found.items() if role == "embedding"]
    others = [named[name] for name, role in found.items() if role not in ("matrix", "experts", "embedding")]
    muon = Muon(
        [{"params": group, "blocks": cut, "transposed": turned} for (cut, turned), group in matrices.items()],
        lr=matrix_learning_rate,
        weight_decay=weight_decay,
        bf16=muon_bf16,
    )
    groups = [{"params": others, "lr": learning_rate}]
    if embeddings:
        groups.append({"params": embeddings, "lr": embedding_learning_rate})
    return [muon, torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0, fused=True)]


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> list[Optimizer]:
    """[AdamW over everything that is trained], for adapters too. Decay falls on what has two dimensions or more."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=_BETAS, fused=True)]


def attention_blocks(model: PreTrainedModel) -> dict[str, Blocks]:
    """How the projections of attention divide into heads, by the parameter's name; others are whole.

    Known for Llama-like names and GPT-2's; of other families every matrix is orthogonalised as one.
    """
    configuration = model.config
    heads = getattr(configuration, "num_attention_heads", None)
    if heads is None:
        return {}
    groups = getattr(configuration, "num_key_value_heads", None) or heads
    endings: dict[str, Blocks] = {
        "self_attn.q_proj.weight": ("rows", heads),
        "self_attn.k_proj.weight": ("rows", groups),
        "self_attn.v_proj.weight": ("rows", groups),
        "self_attn.o_proj.weight": ("columns", heads),
        # GPT-2 stores matrices as [inputs, outputs]; its q, k and v stand in one
        "attn.c_attn.weight": ("columns", 3 * heads),
        "attn.c_proj.weight": ("rows", heads),
    }
    return {
        name: cut for name, _ in model.named_parameters() for ending, cut in endings.items() if name.endswith(ending)
    }


def transposed_matrices(model: PreTrainedModel) -> set[str]:
    """Names of matrices that are stored as [inputs, outputs]."""
    from transformers.pytorch_utils import Conv1D

    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
