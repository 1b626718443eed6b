"""Which ggml type each tensor of a GGUF file gets, by the rules of llama.cpp's own quantizer.

The rules are those of `src/llama-quant.cpp` in ggml-org/llama.cpp, so that a file made here has the same mix as one
that `llama-quantize` makes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_LAYER = re.compile(r"^blk\.(\d+)\.")
# small, or a decision hangs on them
_NEVER_QUANTIZED = ("_norm", "position_embd", "ffn_gate_inp", "ssm_conv1d")
_VALUES = (".attn_v.weight", ".attn_qkv.weight")
_DOWN = (".ffn_down.weight", ".ffn_down_exps.weight")
_MIXTRAL_EXPERTS = 8  # llama.cpp spends more on the attention of a model with this many, where it is a small part


@dataclass(frozen=True)
class Choice:
    """The type that a tensor gets, and the one that its format asks for; they differ where its rows do not fit."""

    used: GGMLQuantizationType
    wanted: GGMLQuantizationType


def choose_type(
    name: str, shape: tuple[int, ...], format: str, layers: int, tied: bool, experts: int | None = None
) -> Choice:
    """The type of tensor `name` (GGUF's name) of `shape` (rows, columns; experts first where there are any).

    format: "f16", "q8_0" or "q4_k_m"; layers: decoder blocks of the model; tied: embeddings serve as output too;
    experts: in a block, of a mixture of experts.
    """
    from gguf import GGMLQuantizationType as Type

    if len(shape) < 2 or not name.endswith(".weight") or any(part in name for part in _NEVER_QUANTIZED):
        return Choice(Type.F32, Type.F32)
    if format == "f16":
        return Choice(Type.F16, Type.F16)
    wanted = Type.Q8_0 if format == "q8_0" else _four_bit_mix(name, layers, tied, experts)
    return Choice(_fitting(wanted, shape[-1]), wanted)


def _four_bit_mix(name: str, layers: int, tied: bool, experts: int | None) -> GGMLQuantizationType:
    """Q4_K_M: four bits, and more where errors cost most."""
    from gguf import GGMLQuantizationType as Type

    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return Type.Q6_K
    if experts == _MIXTRAL_EXPERTS:
        if name.endswith((".attn_k.weight", *_VALUES)):
            return Type.Q8_0
        if name.endswith(".attn_output.weight"):
            return Type.Q5_K
    layer = _LAYER.match(name)
    if layer and name.endswith((*_VALUES, *_DOWN)) and _more_bits(int(layer[1]), layers):
        return Type.Q6_K
    return Type.Q4_K


def _more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _fitting(wanted: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """`wanted`, or the type that llama.cpp falls back to where rows are not a multiple of its block."""
    from gguf import GGML_QUANT_SIZES
    from gguf import GGMLQuantizationType as Type

    fallbacks = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
    for kind in (wanted, fallbacks.get(wanted)):
        if kind is not None and columns % GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    return Type.F16
