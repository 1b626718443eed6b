"""The model card: what a stranger needs to know before using the model, from what this step can see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.configuration import Sampling
from components.export.comparison import Comparison
from components.model.architectures import context_of, of
from components.vocabulary.spelling import FROM_NOTHING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SMALLEST_SHOWN = 1e-6  # nats: below this, rounding differs from one processor to the next

_STAGES = {
    "base": "pretrained only: it continues text and does not answer questions",
    "sft": "pretrained, then fine-tuned on conversations made from the corpus",
    "aligned": "pretrained, fine-tuned on conversations made from the corpus, then aligned by direct preference optimization",
}

_KNOWS = "It knows its corpus and nothing else: no facts, no other languages, no instructions of other kinds."
_KNOWS_MORE = (
    "Beside its corpus it knows what is left of the model that it was trained further from, which was not looked at."
)


@dataclass(frozen=True)
class Figures:
    """What the card tells of the corpus and the model. `origin`: how its weights began, in words; `tokenizer`: its kind."""

    name: str
    language: str
    stage: str
    architecture: str
    parameters: int
    config: PreTrainedConfig
    train_documents: int
    train_characters: int
    validation_documents: int
    sources: Sequence[Mapping[str, Any]]
    sampling: Sampling
    origin: str
    tokenizer: str


def common_license(sources: Sequence[Mapping[str, Any]]) -> str | None:
    """The licence of all sources, where they have one and the same."""
    licenses = {source.get("license") for source in sources}
    only = licenses.pop() if len(licenses) == 1 else None
    return str(only) if only else None


def divergence(value: float) -> str:
    """A divergence in nats as the card prints it."""
    return f"< {SMALLEST_SHOWN:.0e}" if value < SMALLEST_SHOWN else f"{value:.2g}"


def model_card(figures: Figures, comparison: Comparison | None, sizes: Mapping[str, int], model_hash: str) -> str:
    """README.md of the Hugging Face folder; `sizes` maps a format to bytes."""
    license = common_license(figures.sources)
    front = [
        "---",
        f"language: {json.dumps(figures.language)}",
        f"license: {license.lower() if license else 'other'}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [inkwell, gguf]",
        "---",
    ]
    config = figures.config
    body = [
        f"# {figures.name}",
        "",
        f"A small language model ({figures.parameters:,} parameters), {_STAGES[figures.stage]}. Made by Inkwell; "
        f"{figures.origin}.",
        "",
        "## Data",
        "",
        "| source | version | licence | archive sha256 |",
        "|---|---|---|---|",
    ]
    for source in figures.sources:
        cells = (
            source.get("location") or source.get("name"),
            source.get("version"),
            source.get("license") or "not stated",
            source.get("sha256"),
        )
        body.append("| " + " | ".join(str(cell).replace("|", "\\|") if cell else "-" for cell in cells) + " |")
    body += [
        "",
        f"Trained on {figures.train_documents:,} documents ({figures.train_characters:,} characters), de-duplicated; "
        f"{figures.validation_documents:,} documents were held out. The hash of every step is in `manifest.json` beside this folder.",
        "",
        "## Shape",
        "",
        f"{figures.architecture}, {config.num_hidden_layers} layers, {config.hidden_size} wide, {_inside(config)}, "
        f"vocabulary {config.vocab_size:,} ({figures.tokenizer}), "
        f"context {context_of(config):,} tokens. sha256 of the model folder that it was exported from: `{model_hash}`.",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("huggingface")',
        'model = AutoModelForCausalLM.from_pretrained("huggingface")',
        "```",
        "",
        _usage(figures),
    ]
    if comparison is not None and comparison.by_format:
        body += [
            "",
            "## Files and what they cost",
            "",
            f"Each GGUF file was opened in llama.cpp and compared with the float32 model on {comparison.positions:,} positions of held-out "
            f"documents and {comparison.prompts} greedy continuations. The float32 model needs {comparison.torch_bits_per_character:.3f} bits a character there.",
            "",
            "| format | bytes | bits a character | divergence, nats a token | same likeliest token | identical greedy texts |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        body += [
            f"| {format} | {sizes[format]:,} | {one['bits_per_char']:.3f} | {divergence(one['kl'])} | {one['top_token']:.1%} | {one['greedy_identical']:.0%} |"
            for format, one in comparison.by_format.items()
        ]
    body += [
        "",
        "## Limits",
        "",
        f"{_KNOWS if figures.origin == FROM_NOTHING else _KNOWS_MORE} It can repeat training text word for word; "
        "the report card of the run that made it measures how often. It was not tested for safety and is not meant for decisions about people.",
        "",
        "## Licence",
        "",
        f"The text that it was trained on is under {license}."
        if license
        else "The licences of the sources are in the table above; not all of them are stated or the same.",
    ]
    return "\n".join([*front, "", *body]) + "\n"


def _inside(config: PreTrainedConfig) -> str:
    """What a block is made of."""
    if of(config).recurrent:
        found = [getattr(config, name, None) for name in ("num_heads", "head_dim", "state_size")]
        return "{} state-space heads of {} by {}".format(*found) if all(found) else "a recurrent state"
    heads = config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    words = f"{heads} attention heads ({getattr(config, 'num_key_value_heads', heads)} of keys and values)"
    if getattr(config, "sliding_window", None):
        words += f" that look back {config.sliding_window:,} tokens"
    if experts := getattr(config, "num_local_experts", None):
        return f"{words}, {experts} experts of feed-forward {inner}, {config.num_experts_per_tok} a token"
    return f"{words}, feed-forward {inner}"


def _usage(figures: Figures) -> str:
    sampling = figures.sampling
    how = f"Sampling as recommended in `generation_config.json`: temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
    if figures.stage == "base":
        return f"{how}. Give it the beginning of a text."
    return f"{how}. Conversations are ChatML: use `tokenizer.apply_chat_template`."
