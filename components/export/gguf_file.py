"""A Hugging Face folder as one GGUF file: names, shapes, metadata and vocabulary as llama.cpp reads them.

Written with ggml-org's `gguf` package from the safetensors; what the format or llama.cpp's graph of the architecture
cannot hold is refused before anything is written (`components.export.gguf_architectures`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from components.export import gguf_architectures
from components.export.llama_cpp import LlamaCpp
from components.export.piece_vocabulary import vocabulary_of
from components.export.tensor_types import Choice, choose_type
from components.model.folders import model_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

    from components.configuration import Sampling

FORMATS = {"f16": "F16", "q8_0": "Q8_0", "q4_k_m": "Q4_K_M"}


@dataclass(frozen=True)
class Description:
    """What the metadata of a file says about the model beside its configuration."""

    name: str
    language: str
    license: str | None
    sampling: Sampling


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a model folder, refused in one sentence where GGUF cannot hold model or tokenizer."""
    config = model_config(folder)
    gguf_architectures.of(folder, config)
    vocabulary_of(folder, int(config.vocab_size))
    return config


def write_gguf(
    folder: Path, path: Path, format: str, description: Description, quantizer: LlamaCpp
) -> dict[str, Choice]:
    """Write the model of `folder` to `path` and return the choice of each tensor's type, by GGUF's name.

    format: a key of FORMATS. The same folder gives the same bytes. Raises InkwellError for what GGUF cannot hold.
    """
    import gguf
    import numpy as np

    config = model_config(folder)
    entry = gguf_architectures.of(folder, config)
    add_vocabulary = vocabulary_of(folder, int(config.vocab_size))
    layers, tied = int(config.num_hidden_layers), bool(config.tie_word_embeddings)
    experts = getattr(config, "num_local_experts", None)
    writer = gguf.GGUFWriter(path, entry.name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(description.name)
    writer.add_languages([description.language])
    if description.license:
        writer.add_license(description.license)
    entry.add_shape(writer, config)
    writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{FORMATS[format]}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer)
    _add_sampling(writer, description.sampling)
    choices = {}
    for name, values in _tensors(folder, config, entry):
        choices[name] = choose_type(name, values.shape, format, layers, tied, experts)
        kind = choices[name].used
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        elif kind == gguf.GGMLQuantizationType.F16:
            if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
                raise InkwellError(
                    f"{folder}: {name} holds values beyond 65504, which 16 bits cannot: the model diverged in training."
                )
            writer.add_tensor(name, values.astype(np.float16))
        else:
            rows = values.reshape(-1, values.shape[-1])
            packed = np.frombuffer(quantizer.quantize(int(kind), rows), dtype=np.uint8)
            writer.add_tensor(name, packed.reshape(gguf.quant_shape_to_byte_shape(values.shape, kind)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return choices


def _tensors(
    folder: Path, config: PreTrainedConfig, entry: gguf_architectures.GgufArchitecture
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """GGUF's name and float32 values of every tensor, embeddings first, then layer by layer."""
    import gguf
    import torch
    from safetensors import safe_open

    path = folder / "model.safetensors"
    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == entry.name)
    names = gguf.get_tensor_name_map(kind, int(config.num_hidden_layers))
    with safe_open(path, framework="pt") as source:
        theirs = [
            name
            for name in source.keys()  # noqa: SIM118 - no mapping
            if not (name == "lm_head.weight" and config.tie_word_embeddings)
        ]
        read = entry.convert({name: partial(source.get_tensor, name) for name in theirs}, config)
        found: dict[str, str] = {}
        for name in read:
            ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if ours is None or (ours.endswith(".bias") and not entry.biases):
                raise InkwellError(f"{path}: GGUF has no place for tensor {name} in {entry.name}.")
            found[ours] = name
        for ours in sorted(found, key=_file_order):
            values = read[found[ours]]().to(torch.float32)
            if not torch.isfinite(values).all():
                raise InkwellError(
                    f"{path}: {found[ours]} holds values that are no numbers: the model diverged in training."
                )
            yield ours, values.contiguous().numpy()


def _file_order(name: str) -> tuple[int, int, str]:
    layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
    return (0 if layer < 0 else 1, layer, name)


def _add_sampling(writer: Any, sampling: Sampling) -> None:
    """Defaults that llama.cpp's programs take where the user gives none."""
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_k(sampling.top_k)
    writer.add_sampling_top_p(sampling.top_p)
    writer.add_sampling_min_p(0.0)
    writer.add_sampling_penalty_repeat(sampling.repetition_penalty)
