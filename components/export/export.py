"""The export step: from one model folder to files that other programs open."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.chat.markup import Message, render
from components.model.folders import TOKENIZER_FILES, model_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from components.configuration import Configuration, Sampling
    from components.export.comparison import Comparison
    from components.export.tensor_types import Choice
    from components.step import Context

TOKENIZED_DOCUMENTS = 400  # held-out documents whose tokens are compared with llama.cpp's
_BEGINNING_TOKENS = 8  # of a document, as a prompt


def run(context: Context) -> None:
    """Write `models/export`: the Hugging Face folder, the GGUF files and manifest.json; compare every file with torch."""
    from components.atomic import atomic_folder
    from components.corpus.documents import VALIDATION, read_contents

    configuration = context.configuration
    parameters = configuration.export
    folder = context.inputs[parameters.model]
    held_out = read_contents(context.inputs["clean"] / "documents.parquet", VALIDATION)
    random.Random(context.seed).shuffle(held_out)
    with atomic_folder(context.outputs["export"]) as target:
        metrics = export(
            folder,
            target,
            configuration,
            context.inputs,
            held_out[: parameters.comparison_documents],
            held_out[parameters.comparison_documents :][:TOKENIZED_DOCUMENTS],
        )
    context.metrics.update(metrics)
    context.recorder.model(f"export-{parameters.model}", context.outputs["export"], [folder])


def export(
    folder: Path,
    target: Path,
    configuration: Configuration,
    inputs: Mapping[str, Path],
    documents: list[str],
    to_tokenize: list[str],
) -> dict[str, float]:
    """Fill `target` from the model in `folder` and return the figures. Raises InkwellError for what cannot be held."""
    from components.export.byte_level_vocabulary import has_byte_level_vocabulary
    from components.export.card import Figures, common_license, model_card
    from components.export.comparison import compare
    from components.export.gguf_file import Description, read_config, write_gguf
    from components.export.lineage import describe_lineage, file_hash, read_sources
    from components.export.llama_cpp import LlamaCpp
    from components.progress import track
    from components.step import content_hash
    from components.vocabulary.spelling import origin

    parameters = configuration.export
    formats = list(dict.fromkeys(parameters.formats))
    # with formats: refuse before any work what GGUF cannot hold
    config = read_config(folder) if formats else model_config(folder)
    architecture = (config.architectures or [config.model_type])[0]
    size = count_parameters(folder, config)
    name = f"inkwell-{configuration.language}-{size_label(size)}"
    sources = read_sources(inputs["raw"])
    lineage = describe_lineage(parameters.model, inputs)
    description = Description(name, configuration.language, common_license(sources), configuration.sampling)

    choices: dict[str, dict[str, Choice]] = {}
    files: dict[str, Path] = {}
    if formats:
        with LlamaCpp() as quantizer:
            for format in track(formats, "write GGUF"):
                files[format] = target / f"{name}-{format}.gguf"
                choices[format] = write_gguf(folder, files[format], format, description, quantizer)
    comparison: Comparison | None = None
    asked, beginnings = make_prompts(folder, configuration, inputs["clean"], documents)
    if files:
        prompts = [*map(_as_chat, asked), *beginnings]
        comparison = compare(folder, files, documents, prompts, parameters.comparison_tokens, to_tokenize)
    sizes = {format: path.stat().st_size for format, path in files.items()}

    counts = _count_documents(inputs["clean"])
    figures = Figures(
        name=name,
        language=configuration.language,
        stage=parameters.model,
        architecture=architecture,
        parameters=size,
        config=config,
        sources=sources,
        sampling=configuration.sampling,
        origin=origin(folder),
        tokenizer="BPE over bytes" if has_byte_level_vocabulary(folder) else "SentencePiece BPE with byte fallback",
        **counts,
    )
    card = model_card(figures, comparison, sizes, content_hash(folder))
    write_huggingface(folder, target / "huggingface", configuration.sampling, card)
    described = [_describe_file(target, path, format, choices[format]) for format, path in files.items()]
    described += [
        {
            "file": f"huggingface/{path.name}",
            "bytes": path.stat().st_size,
            "sha256": file_hash(path),
            "format": path.suffix.lstrip("."),
        }
        for path in sorted((target / "huggingface").iterdir())
    ]
    manifest = {
        "name": name,
        "model": parameters.model,
        "architecture": architecture,
        "parameters": size,
        "language": configuration.language,
        # what a server can be tried with, in the words of OpenAI's interface
        "example": {"messages": _question(asked[0])} if asked else {"prompt": beginnings[0]},
        "files": described,
        "lineage": lineage,
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True)
    (target / "manifest.json").write_text(text + "\n", encoding="utf-8")
    metrics: dict[str, float] = comparison.metrics() if comparison else {}
    metrics |= {f"bytes_{format}": size for format, size in sizes.items()}
    metrics["parameters"] = size
    metrics["bytes_safetensors"] = (target / "huggingface" / "model.safetensors").stat().st_size
    return metrics


def make_prompts(
    folder: Path, configuration: Configuration, clean: Path, documents: list[str]
) -> tuple[list[str], list[str]]:
    """What is continued greedily: requests for a text (for a model that chats), and beginnings of held-out documents.

    Together they are `export.comparison_prompts`, half of each where there are enough. A request names a held-out document's title; where the corpus has no titles, it asks to go on with a beginning.
    """
    from components.chat.prompts import ask
    from components.corpus.conversations import CONTINUE, WRITE
    from components.corpus.documents import VALIDATION, clean_schema, iterate
    from components.model.folders import load_tokenizer

    tokenizer = load_tokenizer(folder)
    wanted = configuration.export.comparison_prompts
    beginnings = []
    for text in documents:
        ids = tokenizer.encode(text, add_special_tokens=False)
        beginnings.append(tokenizer.decode(ids[: min(_BEGINNING_TOKENS, 1 + len(ids) // 2)]))
    if configuration.export.model == "base":
        return [], beginnings[:wanted]
    rows = iterate(clean / "documents.parquet", clean_schema(), ["title", "split"])
    titles = sorted({row["title"] for row in rows if row["split"] == VALIDATION and row["title"]})
    random.Random(configuration.seed).shuffle(titles)
    asked = [ask(WRITE, configuration.language, title=title) for title in titles]
    asked = asked or [ask(CONTINUE, configuration.language, text=text) for text in beginnings]
    asked = asked[: (wanted + 1) // 2]
    return asked, beginnings[: wanted - len(asked)]


def _question(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _as_chat(text: str) -> str:
    return render(_question(text), add_generation_prompt=True)


def write_huggingface(folder: Path, target: Path, sampling: Sampling, card: str) -> None:
    """The folder that transformers, vLLM and others open; sampling defaults go into generation_config.json."""
    from components.model.folders import load_tokenizer
    from components.model.sampling import end_ids

    target.mkdir()
    for name in ("config.json", "model.safetensors", *TOKENIZER_FILES):
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    tokenizer = load_tokenizer(folder)
    generation: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": sorted(end_ids(tokenizer)),
        "pad_token_id": tokenizer.pad_token_id,
        "max_new_tokens": sampling.maximum_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        generation |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    (target / "generation_config.json").write_text(
        json.dumps(generation, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    (target / "README.md").write_text(card, encoding="utf-8")


def count_parameters(folder: Path, config: PreTrainedConfig) -> int:
    """Weights of a model folder; tied embeddings count once."""
    from math import prod

    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="np") as source:
        return sum(
            prod(source.get_slice(name).get_shape())
            for name in source.keys()  # noqa: SIM118 - no mapping
            if not (name == "lm_head.weight" and config.tie_word_embeddings)
        )


def size_label(parameters: int) -> str:
    """Parameters as part of a file's name: 8,393,984 -> "8m"."""
    for divisor, letter in ((10**9, "b"), (10**6, "m"), (10**3, "k")):
        if parameters >= divisor:
            return f"{parameters / divisor:.0f}{letter}"
    return str(parameters)


def _describe_file(target: Path, path: Path, format: str, choices: Mapping[str, Choice]) -> dict[str, Any]:
    from components.export.lineage import file_hash

    kinds: dict[str, int] = {}
    for choice in choices.values():
        kinds[choice.used.name] = kinds.get(choice.used.name, 0) + 1
    return {
        "file": path.relative_to(target).as_posix(),
        "format": f"gguf {format}",
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
        "tensor_types": {name: choice.used.name for name, choice in choices.items()},
        "tensors_by_type": kinds,
        "fallbacks": [
            {"tensor": name, "wanted": choice.wanted.name, "used": choice.used.name}
            for name, choice in choices.items()
            if choice.used != choice.wanted
        ],
    }


def _count_documents(clean: Path) -> dict[str, int]:
    from components.corpus.documents import TRAIN, VALIDATION, clean_schema, read_table

    table = read_table(clean / "documents.parquet", clean_schema(), ["content", "split"])
    splits = table["split"].to_pylist()
    characters = sum(
        len(text) for text, split in zip(table["content"].to_pylist(), splits, strict=True) if split == TRAIN
    )
    return {
        "train_documents": splits.count(TRAIN),
        "train_characters": characters,
        "validation_documents": splits.count(VALIDATION),
    }
