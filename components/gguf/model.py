"""A model out of a GGUF file: weights in float32, whatever they are packed as, read by transformers (`gguf_file`)."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.gguf.metadata import opened, value

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedConfig, PreTrainedModel

# What transformers raises, by version and kind, for metadata that are missing or of another type than they should be.
_UNREADABLE = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)
# What was compared with llama.cpp; of these, transformers' reading of the metadata is completed below.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")


def read_gguf_model(path: Path) -> PreTrainedModel:
    """The model of a file, float32, in evaluation mode, of a stock transformers class and with nothing quantized.

    Raises InkwellError for an architecture that is not known here, a part of a file, and weights that transformers'
    class has no place for or lacks.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    reader = opened(path)
    architecture = str(value(reader, "general.architecture", "none"))
    if architecture not in ARCHITECTURES:
        raise InkwellError(
            f"{path.name} is a GGUF file of architecture {architecture}; those that can be trained further are "
            f"{', '.join(ARCHITECTURES)}: take the Hugging Face folder of the model."
        )
    if int(value(reader, "split.count", 1) or 1) > 1:
        raise InkwellError(f"{path.name} is one part of a model: join the parts with llama-gguf-split --merge.")
    scaling = value(reader, f"{architecture}.rope.scaling.type", "none")
    if int(value(reader, f"{architecture}.expert_count", 0) or 0) or scaling != "none":
        what = f"rope scaling {scaling!r}" if scaling != "none" else "experts"
        raise InkwellError(f"{path.name} has {what}, which are not read from GGUF: take its Hugging Face folder.")
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with contextlib.redirect_stderr(io.StringIO()):  # bars that no setting of transformers switches off
        try:
            config = _completed(
                AutoConfig.from_pretrained(**where, trust_remote_code=False), reader, architecture, path.name
            )
            loaded, told = AutoModelForCausalLM.from_pretrained(
                **where, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
        except _UNREADABLE as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InkwellError(f"{path.name} cannot be read ({words}): take its Hugging Face folder.") from error
    fresh = type(loaded)(_without_traces(loaded.config))
    fresh.load_state_dict(loaded.state_dict())
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    taken = sum(parameter.numel() for parameter in fresh.parameters())
    if told["missing_keys"] or held != taken:
        raise InkwellError(
            f"{path.name} holds {held:,} weights and transformers' {type(fresh).__name__} has {taken:,}: "
            "it is another model than its metadata say; take its Hugging Face folder."
        )
    model: PreTrainedModel = fresh.eval()
    return model


def _completed(config: PreTrainedConfig, reader: GGUFReader, architecture: str, name: str) -> PreTrainedConfig:
    """The configuration with what transformers leaves at its class's default although the file says it."""

    def number(key: str) -> int:
        found = value(reader, f"{architecture}.{key}")
        if not isinstance(found, int) or found < 1:
            raise InkwellError(
                f"{name} does not say {architecture}.{key}, or says no number: fetch it again, or take its Hugging Face folder."
            )
        return found

    if architecture in ("qwen2", "qwen3", "llama"):
        heads, width = number("attention.head_count"), number("embedding_length")
        size = int(value(reader, f"{architecture}.attention.key_length", width // heads))
        if architecture == "qwen2" and size != width // heads:
            raise InkwellError(
                f"{name} has attention heads of {size} in a qwen2 model {width} wide: take its Hugging Face folder."
            )
        config.head_dim = size
    if architecture == "gpt2":
        config.n_positions, config.n_inner = number("context_length"), number("feed_forward_length")
    tokens = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if tokens is None:
        raise InkwellError(f"{name} has no embeddings (token_embd.weight): it is no whole model; fetch it again.")
    config.vocab_size = int(tokens.shape[1])  # GGUF's order of dimensions is turned round
    return config


def _without_traces(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of a plain model: not quantized, and without the place or name that it was read from."""
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    config.name_or_path = ""
    return config
