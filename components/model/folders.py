"""Model folders: stock transformers classes beside the tokenizer that they were trained with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from components.atomic import atomic_folder
from components.errors import InkwellError
from components.vocabulary.spelling import BEGIN_ID as BEGIN_ID
from components.vocabulary.spelling import END_ID as END_ID
from components.vocabulary.spelling import PADDING_ID as PADDING_ID
from components.vocabulary.spelling import RECORD
from components.vocabulary.spelling import UNKNOWN_ID as UNKNOWN_ID

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    RECORD,  # of the model that the tokenizer, and then the weights, began with
)


def model_config(folder: Path) -> PreTrainedConfig:
    """The transformers configuration of a model folder, with every default of its class filled in."""
    from transformers import AutoConfig

    if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
        raise InkwellError(f"{folder} is no model folder (config.json, model.safetensors): train first.")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:
        told = " ".join(str(error).split())
        raise InkwellError(f"{folder / 'config.json'}: transformers cannot read it: {told[:200]}") from error
    return config


def load_model(folder: Path, dtype: str = "float32") -> PreTrainedModel:
    """The model of a folder, in evaluation mode. Only safetensors are read, never pickles."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from components.model.architectures import context_of

    logging.disable_progress_bar()  # a small model is there at once; a bar would be noise in every log
    if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
        raise InkwellError(
            f"{folder} is no model folder (config.json, model.safetensors): train first, or give --model."
        )
    # attention is SDPA wherever the class has it; a recurrent one has none, and refuses to be told
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    # recurrent models of other makers name no context; what reads a model here asks for one
    model.config.max_position_embeddings = context_of(model.config)
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model or tokenizer folder; encodes exactly as its `tokenizer.model` does."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").exists():
        raise InkwellError(f"{folder} holds no tokenizer.json: run the tokenizer step first.")
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return tokenizer


def save_model(model: PreTrainedModel, tokenizer_folder: Path, folder: Path, card: str) -> None:
    """Write a Hugging Face folder atomically: weights, tokenizer files and the model card (`README.md`)."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).exists():
                shutil.copyfile(tokenizer_folder / name, temporary / name)
        (temporary / "README.md").write_text(card, encoding="utf-8")
