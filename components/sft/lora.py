"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by peft: put on before training, merged after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.errors import InkwellError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.configuration import Sft
    from components.configuration.training import Parallel


def check_adapters(parallel: Parallel) -> None:
    """Raise InkwellError where processes would cut the matrices or the layers that adapters sit on."""
    for name in ("tensor", "pipeline"):
        if (among := getattr(parallel, name)) > 1:
            raise InkwellError(
                f"sft.method = 'lora' does not go with machine.parallel.{name} = {among}: run sft with it set to 1 (ddp or "
                "fsdp2), or with sft.method = 'full'."
            )


def add_adapters(model: PreTrainedModel, parameters: Sft) -> PreTrainedModel:
    """The model with frozen weights and trainable adapters on every matrix inside its blocks.

    Experts and their router have none; nor has the output projection of mamba2, which its kernels read past adapters.
    """
    from peft import LoraConfig, get_peft_model

    from components.model.architectures import of

    adapted: PreTrainedModel = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=parameters.lora_rank,
            lora_alpha=parameters.lora_alpha,
            lora_dropout=parameters.lora_dropout,
            target_modules=["in_proj"] if "mamba" in of(model.config).name else "all-linear",
        ),
    )
    return adapted


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The plain model again, the adapters added into its weights."""
    merged: PreTrainedModel = model.merge_and_unload()
    return merged
