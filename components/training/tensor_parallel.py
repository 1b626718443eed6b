"""Tensor parallelism: the processes of a replica each hold a part of every matrix, and work on the same tokens.

After Shoeybi et al. 2019, "Megatron-LM" (arXiv 1909.08053): the first matrices of a block's two parts are split by their
outputs, so by heads and by inner features, the last ones by their inputs, and one sum an attention or feed-forward part joins
what came out. With `sequence` the stretches between them, which every process would else compute whole, are split along
the sequence (Korthikanti et al. 2022, arXiv 2205.05198). `torch.distributed.tensor` moves the numbers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from components.errors import InkwellError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

    from components.configuration.training import Parallel

LIKE_LLAMA = ("llama", "mistral", "qwen3")


def check_tensor_parallel(model: PreTrainedModel, parallel: Parallel, block: int) -> None:
    """Raise InkwellError, naming the parameter, for a model whose matrices cannot be split in that many parts.

    block: tokens of a training row, which `sequence` splits too.
    """
    config, parts = model.config, parallel.tensor
    if config.model_type not in LIKE_LLAMA:
        raise InkwellError(
            f"machine.parallel.tensor = {parts}: known for {', '.join(LIKE_LLAMA)} only, not for {config.model_type}; "
            "use fsdp2 with tensor = 1."
        )
    sizes = {
        "heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "feed_forward_size": config.intermediate_size,
        "block": block if parallel.sequence else parts,
    }
    for name, size in sizes.items():
        if size % parts:
            raise InkwellError(f"machine.parallel.tensor = {parts} does not divide pretrain.{name} = {size}.")
    if config.tie_word_embeddings:
        raise InkwellError(
            f"machine.parallel.tensor = {parts} splits embeddings and head in different ways: set "
            "pretrain.tie_embeddings to false."
        )


class _Everywhere(ParallelStyle):
    """A module that every process computes whole, its weights known to be the same everywhere."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def enter(_: Any, inputs: Any, mesh: DeviceMesh) -> Any:
            return tuple(
                DTensor.from_local(x, mesh, (Replicate(),), run_check=False)
                if isinstance(x, torch.Tensor) and not isinstance(x, DTensor)
                else x
                for x in inputs
            )

        def leave(_: Any, output: Any, mesh: DeviceMesh) -> Any:
            return output.to_local() if isinstance(output, DTensor) else output

        return distribute_module(module, device_mesh, _replicate, enter, leave)


def _replicate(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for key, weight in list(module.named_parameters(recurse=False)):
        # every process has drawn the same numbers: nothing has to be sent
        held = distribute_tensor(weight, mesh, (Replicate(),), src_data_rank=None)
        module.register_parameter(key, nn.Parameter(held, requires_grad=weight.requires_grad))


def split_matrices(model: PreTrainedModel, mesh: DeviceMesh, sequence: bool) -> None:
    """Split a Llama-like decoder over `mesh` (one dimension), in place; logits come out whole in every process.

    All processes hold the same weights before. Every parameter becomes a DTensor of the mesh.
    """
    from components.training.distributed import blocks

    # it would tell for every tensor of a checkpoint that gathering what is split twice takes two steps
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    between = Shard(1) if sequence else Replicate()
    norm = SequenceParallel(use_local_output=True) if sequence else _Everywhere()
    parallelize_module(
        model,
        mesh,
        {
            "model.embed_tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
            "model.norm": norm,
            "lm_head": ColwiseParallel(input_layouts=between, output_layouts=Replicate()),
        },
        src_data_rank=None,
    )
    for block in blocks(model):
        attention = block.get_submodule("self_attn")
        plan: dict[str, ParallelStyle] = {
            **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
            "self_attn.o_proj": RowwiseParallel(output_layouts=between),
            "mlp.gate_proj": ColwiseParallel(),
            "mlp.up_proj": ColwiseParallel(),
            "mlp.down_proj": RowwiseParallel(output_layouts=between),
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
        }
        for name in ("q_norm", "k_norm"):
            if hasattr(attention, name):
                # [B, T, heads, head size], split by heads; its weight hears all heads, so its gradient is a sum
                plan[f"self_attn.{name}"] = SequenceParallel(sequence_dim=2, use_local_output=True)
        if sequence:
            plan["self_attn"] = PrepareModuleInput(
                input_kwarg_layouts={"hidden_states": between},
                desired_input_kwarg_layouts={"hidden_states": Replicate()},
            )
            plan["mlp"] = PrepareModuleInput(input_layouts=(between,), desired_input_layouts=(Replicate(),))
        parallelize_module(block, mesh, plan, src_data_rank=None)
    if sequence:
        # transformers would count positions in what it sees of the sequence, which is a share
        model.register_forward_pre_hook(_give_positions, with_kwargs=True)


def _give_positions(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if named.get("position_ids") is None:
        ids = named["input_ids"]
        named = {**named, "position_ids": torch.arange(ids.shape[1], device=ids.device)[None]}
    return arguments, named
