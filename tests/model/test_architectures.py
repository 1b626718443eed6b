"""Every architecture: built from the same parameters, counted, and trained on packed rows as if on single sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from components.configuration import Pretrain
from components.errors import InkwellError
from components.model.architectures import TABLE, build, check, context_of, count, count_of, roles
from components.model.forward import Pass, forward_arguments, forward_passes, logits_and_balance, router_imbalance
from components.training.order import IGNORED
from tests.tiny_models import VOCABULARY, sharp, tiny


def as_pretrain_did(parameters: Pretrain, vocabulary: int) -> Any:
    """How `pretrain` built its models before there was a table; golden losses rest on these weights."""
    kind = {"qwen3": "Qwen3", "llama": "Llama"}[parameters.architecture]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary,
        hidden_size=parameters.hidden_size,
        num_hidden_layers=parameters.layers,
        intermediate_size=parameters.feed_forward_size,
        num_attention_heads=parameters.heads,
        num_key_value_heads=parameters.key_value_heads,
        head_dim=parameters.hidden_size // parameters.heads,
        tie_word_embeddings=parameters.tie_embeddings,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    if not parameters.tie_embeddings:
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(weight, std=0.02 / (2 * parameters.layers) ** 0.5)
    return model


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_initial_weights_are_bit_for_bit_what_they_always_were(architecture: str, tie: bool) -> None:
    parameters = tiny(architecture, tie_embeddings=tie, layers=3)
    torch.manual_seed(7)
    expected = as_pretrain_did(parameters, VOCABULARY).state_dict()
    torch.manual_seed(7)
    found = build(parameters, VOCABULARY).state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("architecture", TABLE)
def test_a_model_is_its_stock_class_and_survives_being_saved(architecture: str, tmp_path: Any) -> None:
    model = build(tiny(architecture), VOCABULARY).eval()
    assert type(model) is getattr(transformers, TABLE[architecture].model)
    assert model.config.trained_length == 32
    assert context_of(model.config) == 32
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("architecture", TABLE)
def test_residual_outputs_start_smaller_the_deeper_the_model(architecture: str) -> None:
    entry = TABLE[architecture]
    model = build(tiny(architecture, layers=4), VOCABULARY)
    scaled = {n: p for n, p in model.named_parameters() if n.endswith(entry.residual_outputs)}
    assert len(scaled) == 4 * entry.residuals
    for name, weight in scaled.items():
        assert weight.std().item() == pytest.approx(0.02 / (4 * entry.residuals) ** 0.5, rel=0.1), name
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", TABLE)
def test_parameters_are_counted_without_building(architecture: str, tie: bool) -> None:
    parameters = tiny(architecture, layers=5, tie_embeddings=tie)
    found = count(parameters, VOCABULARY)
    model = build(parameters, VOCABULARY)
    assert found == count_of(model)
    assert found.total == sum(p.numel() for p in model.parameters()) == model.num_parameters()


def test_counts_by_hand() -> None:
    d, f, layers = 64, 96, 2
    head = VOCABULARY * d
    dense = count(tiny("llama", tie_embeddings=True), VOCABULARY)
    assert dense.multiplied == layers * (4 * d * d + 3 * d * f) + head
    assert dense.total == dense.active == dense.multiplied + layers * 2 * d + d
    assert count(tiny("llama"), VOCABULARY).multiplied == dense.multiplied
    assert count(tiny("llama"), VOCABULARY).total == dense.total + head
    experts = count(tiny("mixtral", experts_per_token=2), VOCABULARY)
    assert experts.multiplied == layers * (4 * d * d + 2 * 3 * d * f + 4 * d) + head
    assert experts.total - experts.active == layers * 2 * 3 * d * f


@pytest.mark.parametrize("architecture", TABLE)
def test_every_parameter_has_one_role_and_matrices_are_those_of_the_blocks(architecture: str) -> None:
    model = build(tiny(architecture), VOCABULARY)
    found = roles(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    shapes = dict(model.named_parameters())
    assert [role for role in found.values() if role in ("embedding", "head")] == ["embedding", "head"]
    for name, role in found.items():
        assert (role == "experts") == (shapes[name].ndim == 3 and "experts" in name)
        if role == "matrix":
            assert shapes[name].ndim == 2
            assert any(f".{layer}." in name for layer in (0, 1))
    assert ("positions" in found.values()) == (architecture == "gpt2")
    assert ("router" in found.values()) == (architecture == "mixtral")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "llama", "heads": 3}, r"pretrain\.hidden_size = 64 is no multiple of pretrain\.heads = 3"),
        ({"architecture": "mistral", "heads": 64, "key_value_heads": 64}, "must be even"),
        ({"architecture": "qwen3", "key_value_heads": 3}, r"no multiple of pretrain\.key_value_heads = 3"),
        ({"architecture": "gpt2", "key_value_heads": 2}, r"pretrain\.key_value_heads = 2: gpt2 has no grouped-query"),
        ({"architecture": "gpt2", "context": 64}, r"pretrain\.context = 64: gpt2 learns its positions"),
        ({"architecture": "mixtral", "experts_per_token": 5}, r"pretrain\.experts_per_token = 5 is more than"),
        ({"architecture": "mamba2", "heads": 7}, r"pretrain\.heads = 7 does not divide the inner width of mamba2, 128"),
        ({"architecture": "mamba2", "dropout": 0.1}, "no attention weights to drop"),
        ({"architecture": "llama", "sliding_window": 16}, r"pretrain\.sliding_window = 16: llama attends to all"),
    ],
)
def test_a_shape_that_cannot_be_is_told_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InkwellError, match=sentence):
        check(tiny(**changes))


PACKED = [("qwen3", {}), ("llama", {"key_value_heads": 2}), ("mistral", {}), ("mistral", {"sliding_window": 16})]
PACKED += [("mixtral", {}), ("gpt2", {}), ("mamba2", {})]


def two_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sequences of 9, 23 and 32 tokens in two rows of 32; a sequence's first token is no target, its last has none."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randint(4, VOCABULARY, (2, 32), generator=generator)
    numbers = torch.tensor([[0] * 9 + [1] * 23, [0] * 32])
    targets = torch.full((2, 32), IGNORED)
    for row, start, stop in ((0, 0, 9), (0, 9, 32), (1, 0, 32)):
        targets[row, start : stop - 1] = inputs[row, start + 1 : stop]
    return inputs, targets, numbers


def summed(model: Any, passes: list[Pass]) -> torch.Tensor:
    """Sum of the cross-entropies over passes, nats."""
    total = torch.zeros(())
    for step in passes:
        logits, _ = logits_and_balance(model, step)
        total = total + functional.cross_entropy(
            logits.flatten(0, 1), step.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
    return total


@pytest.mark.parametrize(("architecture", "changes"), PACKED)
def test_packed_sequences_lose_what_they_lose_alone(architecture: str, changes: dict[str, Any]) -> None:
    model = sharp(tiny(architecture, **changes))
    inputs, targets, numbers = two_rows()
    alone = torch.zeros(())
    for row, start, stop in ((0, 0, 9), (0, 9, 32), (1, 0, 32)):
        logits = model(input_ids=inputs[row : row + 1, start:stop]).logits[0, :-1]
        alone = alone + functional.cross_entropy(logits, inputs[row, start + 1 : stop], reduction="sum")
    packed = summed(model, forward_passes(model.config, inputs, targets, numbers))
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    through = model(input_ids=inputs).logits  # what packing must not do: let a sequence hear the one before it
    leaking = functional.cross_entropy(through.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    assert abs(leaking.item() - alone.item()) > 0.1


def test_a_family_that_is_not_in_the_table_trains_with_a_sequence_a_row() -> None:
    torch.manual_seed(1)
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        ffn_dim=64,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        dropout=0.0,
    )
    model = transformers.OPTForCausalLM(config).eval()
    inputs, targets, numbers = two_rows()
    passes = forward_passes(model.config, inputs, targets, numbers)
    assert [tuple(step.targets.shape) for step in passes] == [(3, 32)]
    first = model(input_ids=inputs[:1, :9]).logits
    torch.testing.assert_close(logits_and_balance(model, passes[0])[0][0, :9], first[0])
    assert roles(model)["model.decoder.embed_positions.weight"] == "positions"


def test_a_family_like_one_of_the_table_is_packed_and_one_of_two_attentions_is_not() -> None:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
    }
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(1)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    inputs, targets, numbers = two_rows()
    passes = forward_passes(model.config, inputs, targets, numbers)
    assert [tuple(step.targets.shape) for step in passes] == [(2, 32)]
    alone = model(input_ids=inputs[:1, 9:]).logits
    torch.testing.assert_close(logits_and_balance(model, passes[0])[0][:1, 9:], alone, rtol=1e-4, atol=1e-4)
    mixed = transformers.Qwen3Config(**shape, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    assert len(forward_passes(mixed, inputs, targets, numbers)[0].targets) == 3


@pytest.mark.parametrize(("architecture", "changes"), PACKED)
def test_gradients_of_packed_rows_are_those_of_single_sequences(architecture: str, changes: dict[str, Any]) -> None:
    model = sharp(tiny(architecture, **changes))
    inputs, targets, numbers = two_rows()
    summed(model, forward_passes(model.config, inputs, targets, numbers)).backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row, start, stop in ((0, 0, 9), (0, 9, 32), (1, 0, 32)):
        logits = model(input_ids=inputs[row : row + 1, start:stop]).logits[0, :-1]
        functional.cross_entropy(logits, inputs[row, start + 1 : stop], reduction="sum").backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            packed[name], parameter.grad, rtol=1e-3, atol=1e-4 * parameter.grad.abs().max().item()
        )


@pytest.mark.parametrize("architecture", [name for name in TABLE if not TABLE[name].recurrent])
def test_eager_attention_and_the_arguments_of_flash_attention_lose_the_same(architecture: str) -> None:
    """Flash attention is not installed here; its arguments, all rows as one, mean the same to SDPA."""
    model = sharp(tiny(architecture))
    inputs, targets, numbers = two_rows()
    expected = summed(model, forward_passes(model.config, inputs, targets, numbers)).item()
    model.set_attn_implementation("eager")
    assert summed(model, forward_passes(model.config, inputs, targets, numbers)).item() == pytest.approx(
        expected, rel=1e-5
    )
    model.config._attn_implementation_internal = "flash_attention_2"
    arguments = forward_arguments(model.config, inputs, numbers)
    model.config._attn_implementation_internal = "sdpa"
    assert arguments["input_ids"].shape == (1, 64)
    assert "attention_mask" not in arguments
    assert summed(model, [Pass(arguments, targets)]).item() == pytest.approx(expected, rel=1e-5)


def test_a_recurrent_model_gets_no_arguments_that_would_mislead() -> None:
    inputs, _, numbers = two_rows()
    with pytest.raises(ValueError, match="cannot share a row"):
        forward_arguments(build(tiny("mamba2"), VOCABULARY).config, inputs, numbers)


def test_a_recurrent_model_meets_every_counted_target_once_and_little_padding() -> None:
    config = build(tiny("mamba2"), VOCABULARY).config
    generator = torch.Generator().manual_seed(1)
    lengths = [[200, 30, 26], [256], [64, 65, 100, 20]]
    inputs = torch.randint(4, VOCABULARY, (3, 256), generator=generator)
    numbers = torch.tensor([[i for i, n in enumerate([*row, 256 - sum(row)]) for _ in range(n)] for row in lengths])
    targets = torch.full((3, 256), IGNORED)
    for row, parts in enumerate(lengths):
        at = 0
        for part in parts:
            targets[row, at : at + part - 1] = inputs[row, at + 1 : at + part]
            at += part
    targets[0, 200:230] = IGNORED  # a sequence of which nothing counts is left out
    passes = forward_passes(config, inputs, targets, numbers)
    shapes = [tuple(step.targets.shape) for step in passes]
    assert shapes == [(3, 64), (2, 100), (2, 256)]
    seen = torch.cat([step.targets[step.targets != IGNORED] for step in passes])
    assert sorted(seen.tolist()) == sorted(targets[targets != IGNORED].tolist())
    nothing = forward_passes(config, inputs, torch.full_like(targets, IGNORED), numbers)
    assert [tuple(step.targets.shape) for step in nothing] == [(1, 200)]


def test_the_balance_of_routers_is_that_of_transformers_row_by_row_and_layer_by_layer() -> None:
    model = sharp(tiny("mixtral"))
    inputs, targets, numbers = two_rows()
    step = forward_passes(model.config, inputs, targets, numbers)[0]
    routed = model(**step.arguments).router_logits
    found = router_imbalance(model.config, routed, targets)
    expected = 0.0
    for layer in routed:
        for row, logits in enumerate(layer.view(2, 32, -1)):
            counted = targets[row] != IGNORED
            balance = load_balancing_loss_func((logits[counted],), 4, 2)
            expected += 0.01 * int(counted.sum()) * float(balance) / len(routed)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_balance_of_routers_does_not_depend_on_accumulation_and_trains_the_router() -> None:
    model = sharp(tiny("mixtral"))
    inputs, targets, numbers = two_rows()
    whole = forward_passes(model.config, inputs, targets, numbers)[0]
    parts = [forward_passes(model.config, inputs[i : i + 1], targets[i : i + 1], numbers[i : i + 1])[0] for i in (0, 1)]
    _, balance = logits_and_balance(model, whole)
    assert balance is not None
    halves = [logits_and_balance(model, part)[1] for part in parts]
    assert sum(half.item() for half in halves if half is not None) == pytest.approx(balance.item(), rel=1e-5)
    balance.backward()
    assert model.model.layers[0].mlp.gate.weight.grad.abs().max() > 0
    even = [torch.zeros(64, 4)] * 2
    least = router_imbalance(model.config, even, targets).item()
    assert least == pytest.approx(0.01 * 2 * int((targets != IGNORED).sum()), rel=1e-5)
    skewed = [torch.tensor([9.0, 5.0, 0.0, 0.0]).expand(64, 4)] * 2
    assert router_imbalance(model.config, skewed, targets).item() > 1.5 * least


def test_models_without_experts_have_no_balance() -> None:
    model = sharp(tiny("llama"))
    assert logits_and_balance(model, forward_passes(model.config, *two_rows())[0])[1] is None
