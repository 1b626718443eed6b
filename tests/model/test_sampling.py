"""Drawing text: greedy is exact, filters are transformers' own, and no prompt depends on its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from components.configuration import Sampling
from components.errors import InkwellError
from components.model.folders import END_ID, load_model, load_tokenizer
from components.model.growing_cache import Memory
from components.model.sampling import Chooser, Completion, complete, encode_prompt, end_ids, stream
from tests.tiny_models import sharp, tiny

PROMPTS = ["春山", "秋水随人家，", "明月照故园。\n", "夜", "孤舟入天涯，青松对柴门。白云满长亭"]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    """The tiny model with sharper opinions: an untrained one finds all tokens nearly equal."""
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(8 if "embed" in name else 4)
    return model, tokenizer


def settings(**changes: Any) -> Sampling:
    return Sampling.model_validate({"maximum_tokens": 30, **changes})


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_text_equals_that_of_transformers_generate(loaded: tuple[Any, Any], penalty: float) -> None:
    model, tokenizer = loaded
    found = complete(model, tokenizer, PROMPTS, settings(temperature=0, repetition_penalty=penalty), seed=1)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=30,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=sorted(end_ids(tokenizer)),
        )[0, ids.shape[1] :].tolist()
        if completion.finished:
            assert written.pop() in end_ids(tokenizer)
        assert list(completion.tokens) == written


@pytest.mark.parametrize("changes", [{}, {"top_p": 1.0}, {"top_k": 20, "top_p": 0.8}, {"repetition_penalty": 1.5}])
def test_a_prompt_gets_the_same_text_alone_in_a_batch_and_in_another_batch_size(
    loaded: tuple[Any, Any], changes: dict[str, Any]
) -> None:
    model, tokenizer = loaded
    prompts = PROMPTS * 3
    together = complete(model, tokenizer, prompts, settings(**changes), seed=5)
    assert complete(model, tokenizer, prompts, settings(**changes), seed=5, batch_size=4) == together
    assert complete(model, tokenizer, prompts[:2], settings(**changes), seed=5) == together[:2]
    assert together[0] != together[5]  # the same prompt, drawn with other numbers
    assert complete(model, tokenizer, prompts, settings(**changes), seed=6) != together


def test_streamed_text_is_the_completed_text_in_whole_characters(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    pieces = list(stream(model, tokenizer, PROMPTS[1], settings(temperature=1.0), seed=3))
    assert "".join(pieces) == complete(model, tokenizer, [PROMPTS[1]], settings(temperature=1.0), seed=3)[0].text
    assert len(pieces) > 3
    assert not torch.is_inference_mode_enabled()


def test_characters_spelled_in_bytes_are_streamed_whole(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    text = "山☃水😀。"
    tokens = [*tokenizer.encode(text, add_special_tokens=False), END_ID]
    assert len(tokens) > len(text) + 5

    def prescribed(self: Chooser, seen: torch.Tensor, logits: torch.Tensor, uniforms: Any) -> torch.Tensor:
        return torch.tensor([queue.pop(0)])

    monkeypatch.setattr(Chooser, "__call__", prescribed)
    queue = list(tokens)
    assert list(stream(model, tokenizer, "春", settings(), seed=1)) == list(text)
    queue = list(tokens)
    assert complete(model, tokenizer, ["春"], settings(), seed=1) == [Completion(text, tuple(tokens[:-1]), True)]


@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0])  # flat, where the shortlist is too short, to steep
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.5), (40, 0.95), (1, 0.9), (0, 1.0), (7, 1.0)])
def test_tokens_are_drawn_from_exactly_what_transformers_warpers_keep(scale: float, top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 900, generator=generator) * scale
    seen = torch.randint(0, 900, (3, 12), generator=generator)
    warpers: list[Any] = [RepetitionPenaltyLogitsProcessor(1.2), TemperatureLogitsWarper(0.8)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    expected = LogitsProcessorList(warpers)(seen, logits).softmax(-1).double()
    chooser = Chooser(settings(temperature=0.8, repetition_penalty=1.2, top_k=top_k, top_p=top_p))
    draws = 1000
    found = torch.zeros(3, 900, dtype=torch.double)
    for uniform in (np.arange(draws) + 0.5) / draws:  # evenly spread marks: counts are the probabilities
        found[torch.arange(3), chooser(seen, logits, np.full(3, uniform))] += 1 / draws
    assert (found[expected == 0] == 0).all()
    assert (found - expected).abs().max() <= 1.5 / draws


def test_marks_at_both_ends_draw_tokens_that_may_be_drawn() -> None:
    logits = torch.full((1, 50), -torch.inf)
    logits[0, [7, 30]] = torch.tensor([0.0, 1.0])
    for changes in ({"top_p": 1.0}, {"top_p": 0.99}, {"top_k": 2}):
        chooser = Chooser(settings(temperature=1.0, **changes))
        seen = torch.zeros(1, 1, dtype=torch.long)
        assert chooser(seen, logits, np.array([0.0])).item() == 7
        assert chooser(seen, logits, np.array([1 - 1e-17])).item() == 30


def test_text_ends_where_the_context_is_full(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    context = model.config.max_position_embeddings
    prompt = "山" * (context - 6)
    room = context - len(encode_prompt(tokenizer, prompt))
    assert 0 < room < 30
    found = complete(model, tokenizer, [prompt, "春"], settings(temperature=0), seed=1)
    assert found[0].finished or len(found[0].tokens) == room
    assert found[1].finished or len(found[1].tokens) == 30


def test_prompt_that_fills_the_context_is_named_by_its_index(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    with pytest.raises(InkwellError, match="Prompt 1 has 257 tokens"):
        complete(model, tokenizer, ["春", "山" * 256], settings(), seed=1)


def test_no_prompts_give_no_texts(loaded: tuple[Any, Any]) -> None:
    assert complete(*loaded, [], settings(), seed=1, label="nothing") == []


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"key_value_heads": 2}),
        ("mistral", {}),
        ("mistral", {"sliding_window": 16}),
        ("mixtral", {}),
        ("gpt2", {}),
        ("mamba2", {}),
    ],
)
def test_every_architecture_is_decoded_exactly(tiny_model: Path, architecture: str, changes: dict[str, Any]) -> None:
    """Greedy texts of padded prompts in a shrinking batch are what the model finds likeliest without any cache."""
    tokenizer = load_tokenizer(tiny_model)
    model = sharp(tiny(architecture, block=48, context=48, **changes), vocabulary=len(tokenizer))
    found = complete(model, tokenizer, PROMPTS, settings(temperature=0, maximum_tokens=70), seed=1)
    assert len({len(completion.tokens) for completion in found}) > 1, "no row left the batch before the others"
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = encode_prompt(tokenizer, prompt)
        with torch.inference_mode():  # no cache at all: the whole text at once
            logits = model(torch.tensor([[*ids, *completion.tokens]]), use_cache=False).logits[0]
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == list(completion.tokens)


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
@pytest.mark.parametrize(
    ("architecture", "changes"), [("llama", {}), ("mistral", {"sliding_window": 16}), ("gpt2", {})]
)
def test_other_attentions_write_the_same(
    tiny_model: Path, architecture: str, changes: dict[str, Any], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash attention is not installed here; what it is given means the same to SDPA."""
    tokenizer = load_tokenizer(tiny_model)
    model = sharp(tiny(architecture, block=48, context=48, **changes), vocabulary=len(tokenizer))
    chosen = settings(temperature=0, maximum_tokens=30)
    expected = complete(model, tokenizer, PROMPTS, chosen, seed=1)
    if attention == "eager":
        model.set_attn_implementation(attention)
    else:
        begin = Memory.__init__

        def begin_as_flash(self: Memory, *arguments: Any) -> None:
            begin(self, *arguments)
            self.masks = False

        monkeypatch.setattr(Memory, "__init__", begin_as_flash)
    assert complete(model, tokenizer, PROMPTS, chosen, seed=1) == expected


def test_families_that_are_not_in_the_table_are_decoded_exactly(tiny_model: Path) -> None:
    """One with windows in some layers only, which transformers masks itself."""
    tokenizer = load_tokenizer(tiny_model)
    torch.manual_seed(2)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=48,
    )
    model = Gemma3ForCausalLM(config).eval()
    found = complete(model, tokenizer, PROMPTS, settings(temperature=0, maximum_tokens=20), seed=1)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = encode_prompt(tokenizer, prompt)
        with torch.inference_mode():
            logits = model(torch.tensor([[*ids, *completion.tokens]]), use_cache=False).logits[0]
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == list(completion.tokens)


@pytest.mark.parametrize("architecture", ["gpt2", "mamba2", "mistral"])
def test_every_architecture_stops_where_its_context_is_full(tiny_model: Path, architecture: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    model = sharp(tiny(architecture, block=32, context=32), vocabulary=len(tokenizer))
    ids = encode_prompt(tokenizer, PROMPTS[1])
    found = complete(model, tokenizer, [PROMPTS[1]], settings(temperature=0, maximum_tokens=60), seed=1)[0]
    assert found.finished or len(found.tokens) == 32 - len(ids)
    with pytest.raises(InkwellError, match="the model's context holds 32"):
        complete(model, tokenizer, ["山" * 40], settings(), seed=1)
