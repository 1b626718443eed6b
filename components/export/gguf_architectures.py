"""How each architecture stands in a GGUF file: its name there, its metadata, its tensors, and what cannot be written.

llama.cpp computes an architecture by a graph of its own; a configuration that asks for something else than that graph
does is refused. Conversions follow ggml-org's `convert_hf_to_gguf.py`, which the tests hold to by computing: every
architecture's file gives torch's distributions in llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

Read = Callable[[], "torch.Tensor"]  # reads one tensor when it is called, so that only one at a time is held
Tensors = Mapping[str, Read]


@dataclass(frozen=True)
class GgufArchitecture:
    """One transformers class in GGUF.

    name: llama.cpp's name of the graph; refused: the settings that it does not compute, by name, with whether the
    configuration has them; add_shape: writes the metadata; convert: from the folder's tensors by transformers' names to
    those of llama.cpp, under names that gguf's map knows; biases: whether it adds any.
    """

    name: str
    refused: Callable[[PreTrainedConfig], dict[str, bool]]
    add_shape: Callable[[Any, PreTrainedConfig], None]
    convert: Callable[[Tensors, PreTrainedConfig], Tensors]
    biases: bool = False


def of(folder: Path, config: PreTrainedConfig) -> GgufArchitecture:
    """The entry for a model folder's configuration; InkwellError, in one sentence, for what GGUF cannot hold."""
    where = folder / "config.json"
    named = (config.architectures or ["none"])[0]
    if named not in TABLE:
        raise InkwellError(
            f"{where}: GGUF export knows {', '.join(TABLE)}, not {named}: leave export.formats empty, the Hugging Face "
            "folder is written for every architecture."
        )
    entry = TABLE[named]
    refused = {"quantization_config": bool(getattr(config, "quantization_config", None)), **entry.refused(config)}
    for key, is_refused in refused.items():
        if is_refused:
            value = getattr(config, key, _rope(config).get(key))
            raise InkwellError(
                f"{where}: {key} = {value!r} cannot be written to GGUF for {named}: train without it, or leave export.formats empty."
            )
    return entry


def _rope(config: PreTrainedConfig) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _rotary_refused(config: PreTrainedConfig) -> dict[str, bool]:
    window = getattr(config, "sliding_window", None)
    return {
        "hidden_act": config.hidden_act != "silu",
        "attention_bias": bool(getattr(config, "attention_bias", False)),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
        # llama.cpp's graphs of these attend to all tokens: the same only where the window holds the whole context
        "sliding_window": window is not None and window < config.max_position_embeddings,
        "rope_type": _rope(config).get("rope_type", "default") != "default",
    }


def _gpt2_refused(config: PreTrainedConfig) -> dict[str, bool]:
    return {
        "activation_function": config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": not config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": bool(config.scale_attn_by_inverse_layer_idx),
        "add_cross_attention": bool(config.add_cross_attention),
    }


def _mamba2_refused(config: PreTrainedConfig) -> dict[str, bool]:
    low, high = config.time_step_limit
    return {
        "hidden_act": config.hidden_act != "silu",
        "use_bias": bool(config.use_bias),
        "use_conv_bias": not config.use_conv_bias,
        "time_step_limit": low > 0 or not math.isinf(high),
        "expand": config.expand != 2,
    }


def _add_rotary_shape(writer: Any, config: PreTrainedConfig) -> None:
    heads = int(config.num_attention_heads)
    head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    _add_common_shape(writer, config)
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(getattr(config, "num_key_value_heads", None) or heads))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(float(_rope(config).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    if experts := getattr(config, "num_local_experts", None):
        writer.add_expert_count(int(experts))
        writer.add_expert_used_count(int(config.num_experts_per_tok))


def _add_gpt2_shape(writer: Any, config: PreTrainedConfig) -> None:
    _add_common_shape(writer, config)
    writer.add_feed_forward_length(int(config.n_inner or 4 * config.hidden_size))
    writer.add_head_count(int(config.num_attention_heads))
    writer.add_layer_norm_eps(float(config.layer_norm_epsilon))


def _add_mamba2_shape(writer: Any, config: PreTrainedConfig) -> None:
    _add_common_shape(writer, config)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(int(config.conv_kernel))
    writer.add_ssm_inner_size(int(config.expand * config.hidden_size))
    writer.add_ssm_state_size(int(config.state_size))
    writer.add_ssm_time_step_rank(int(config.num_heads))
    writer.add_ssm_group_count(int(config.n_groups))
    writer.add_layer_norm_rms_eps(float(config.layer_norm_epsilon))


def _add_common_shape(writer: Any, config: PreTrainedConfig) -> None:
    from components.model.architectures import context_of

    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_vocab_size(int(config.vocab_size))


def _as_they_are(tensors: Tensors, config: PreTrainedConfig) -> Tensors:
    return tensors


def _llama(tensors: Tensors, config: PreTrainedConfig) -> Tensors:
    """Queries and keys as llama.cpp rotates them."""
    heads = {"q_proj": int(config.num_attention_heads), "k_proj": int(config.num_key_value_heads)}
    found = dict(tensors)
    for name, read in tensors.items():
        for part, count in heads.items():
            if name.endswith(f"self_attn.{part}.weight"):
                found[name] = partial(_interleaved, read, count)
    return found


def _interleaved(read: Read, heads: int) -> torch.Tensor:
    """Rows of a projection so that the pairs (i, i + half) of a head, which a rotation turns, become neighbours."""
    values = read()
    rows, columns = values.shape
    return values.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


_EXPERT = re.compile(r"^(.+\.experts)\.\d+\.(w[123]\.weight)$")


def _mixtral(tensors: Tensors, config: PreTrainedConfig) -> Tensors:
    """A layer's experts, which transformers saves one by one, as one tensor [experts, rows, columns]."""
    found = dict(_llama({name: read for name, read in tensors.items() if not _EXPERT.match(name)}, config))
    for match in filter(None, map(_EXPERT.match, tensors)):
        reads = [tensors[f"{match[1]}.{index}.{match[2]}"] for index in range(int(config.num_local_experts))]
        found[f"{match[1]}.{match[2]}"] = partial(_stacked, reads)
    return found


def _stacked(reads: Sequence[Read]) -> torch.Tensor:
    import torch

    return torch.stack([read() for read in reads])


def _gpt2(tensors: Tensors, config: PreTrainedConfig) -> Tensors:
    """GPT-2 keeps its matrices as [inputs, outputs]; llama.cpp, as all others, as [outputs, inputs]."""
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {
        name: partial(_changed, read, _turned) if name.endswith(turned) else read
        for name, read in tensors.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))  # the causal mask, which old folders hold
    }


def _mamba2(tensors: Tensors, config: PreTrainedConfig) -> Tensors:
    """Coefficients in the shapes of llama.cpp, and A itself instead of the logarithm of its negative."""
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        ".A_log": lambda values: -values.float().exp()[:, None],
        ".D": lambda values: values[:, None],
        ".conv1d.weight": lambda values: values[:, 0],
        ".mixer.norm.weight": lambda values: values.view(int(config.n_groups), -1),
    }
    found: dict[str, Read] = {}
    for name, read in tensors.items():
        change = next((change for ending, change in changes.items() if name.endswith(ending)), None)
        known = name.replace(".dt_bias", ".dt_proj.bias")  # as gguf's map of names calls it
        found[known] = read if change is None else partial(_changed, read, change)
    return found


def _turned(values: torch.Tensor) -> torch.Tensor:
    return values.T


def _changed(read: Read, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return change(read())


TABLE: Mapping[str, GgufArchitecture] = {
    "Qwen3ForCausalLM": GgufArchitecture("qwen3", _rotary_refused, _add_rotary_shape, _as_they_are),
    "Qwen2ForCausalLM": GgufArchitecture("qwen2", _rotary_refused, _add_rotary_shape, _as_they_are, biases=True),
    "LlamaForCausalLM": GgufArchitecture("llama", _rotary_refused, _add_rotary_shape, _llama),
    "MistralForCausalLM": GgufArchitecture("llama", _rotary_refused, _add_rotary_shape, _llama),
    "MixtralForCausalLM": GgufArchitecture("llama", _rotary_refused, _add_rotary_shape, _mixtral),
    "GPT2LMHeadModel": GgufArchitecture("gpt2", _gpt2_refused, _add_gpt2_shape, _gpt2, biases=True),
    "Mamba2ForCausalLM": GgufArchitecture("mamba2", _mamba2_refused, _add_mamba2_shape, _mamba2, biases=True),
}
