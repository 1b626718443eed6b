"""The model card of the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.configuration import Configuration, Pretrain, Source


def _public(source: Source) -> str:
    """What can be told of a source: packages and datasets by name; paths and addresses may hold a home or a password."""
    if source.kind in ("path", "url"):
        return ""
    return f" `{source.location}`{f' {source.version}' if source.version else ''}"


def intermediate_card(configuration: Configuration, parameters: Pretrain) -> str:
    """The card of a model that is kept from the midst of a run; `position.json` beside it says from where.

    parameters: those of the run, whatever a dial or continued weights made of the ones that were asked for.
    """
    return f"""---
language: {configuration.language}
library_name: transformers
pipeline_tag: text-generation
tags: [inkwell, {parameters.architecture}, checkpoint]
---
# Base model, unfinished

A {parameters.architecture} decoder from the midst of its training by Inkwell, kept for those who study how it
learns. `position.json` holds its step, how much of which data it had seen, and its validation.
"""


def model_card(
    configuration: Configuration, parameters: Pretrain, origin: str, plan: str, bits_per_character: float
) -> str:
    """Markdown with the front matter that Hugging Face reads.

    parameters: those of the run, as in `intermediate_card`; origin: how the weights began, in words.
    """
    sources = "\n".join(
        f"- {s.name}: {s.kind}{_public(s)}, licence {s.license or 'not stated'}" for s in configuration.ingest.sources
    )
    return f"""---
language: {configuration.language}
library_name: transformers
pipeline_tag: text-generation
tags: [inkwell, {parameters.architecture}]
---
# Base model

A {parameters.architecture} decoder of {parameters.layers} layers, {parameters.hidden_size} wide, {origin}
by Inkwell: {plan}. It continues text; it was not taught to answer.

Validation: {bits_per_character:.4f} bits per character (all held-out documents, end marks counted).

## Data
{sources}

## Limits
A model of this size knows the form of its corpus better than any fact. It repeats what the corpus holds, prejudice
included; nothing it says is to be relied on.
"""
