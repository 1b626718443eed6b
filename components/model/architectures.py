"""The decoders that `pretrain` builds: one table from its parameters to stock transformers classes.

Weights and configuration stay transformers' own, so that every server, evaluator and converter opens what was trained.
What differs from one architecture to the next stands in `TABLE` and nowhere else: which parameters it reads, which
shapes it cannot take, what its weights are called, how its sequences are kept apart (`components.model.forward`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from components.errors import InkwellError
from components.model.folders import BEGIN_ID, END_ID, PADDING_ID

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from components.configuration import Pretrain

Role = Literal["embedding", "positions", "head", "matrix", "experts", "router", "other"]

MAMBA2_EXPANSION = 2  # inner width over width; llama.cpp knows no other
RESIDUAL_DEVIATION = 0.02  # of residual outputs, before it is divided by the root of their number
UNTIED_DEVIATION = 0.5  # of untied embeddings
# Fedus et al. 2021, "Switch Transformers" (arXiv 2101.03961), section 2.2: strong enough to balance, too weak to be felt.
ROUTER_BALANCE = 0.01
_SCAN_CHUNK = 64  # tokens that mamba2's scan takes at once; short sequences are padded to it
_RECURRENT_CONTEXT = 2048  # for models that name no context: what the published mamba2 models were trained at


@dataclass(frozen=True)
class Architecture:
    """One family of decoders.

    model, config: names of the transformers classes; reads: the shape parameters of `pretrain` that it uses; settings:
    its own part of the configuration; residual_outputs: endings of the names of the projections that add to the
    residual stream, `residuals` of them a layer; positions, routers, experts: endings of the names of learnt positions,
    of what chooses experts, and of stacks of matrices, one an expert; recurrent: a state goes from token to token, there
    is no attention; packs: several sequences can share a row without hearing each other.
    """

    name: str
    model: str
    config: str
    reads: tuple[str, ...]
    settings: Callable[[Pretrain], dict[str, Any]]
    checks: tuple[Callable[[Pretrain], str | None], ...]
    residual_outputs: tuple[str, ...]
    residuals: int = 2
    positions: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    recurrent: bool = False
    packs: bool = True


@dataclass(frozen=True)
class Count:
    """Parameters of a model, told apart by what they cost.

    total: all of them, tied ones once; active: those that a token meets (all but the experts it is not sent to);
    multiplied: those of `active` that a token's vector is multiplied with, so that 6 x multiplied x tokens is the work
    of training: embeddings that are only looked up, positions and norms are left out, a tied head counts.
    """

    total: int
    active: int
    multiplied: int


def _rotary(parameters: Pretrain) -> dict[str, Any]:
    return {
        "intermediate_size": parameters.feed_forward_size,
        "num_attention_heads": parameters.heads,
        "num_key_value_heads": parameters.key_value_heads,
        "head_dim": parameters.hidden_size // parameters.heads,
        "attention_dropout": parameters.dropout,
    }


def _mistral(parameters: Pretrain) -> dict[str, Any]:
    return {**_rotary(parameters), "sliding_window": parameters.sliding_window}


def _mixtral(parameters: Pretrain) -> dict[str, Any]:
    return {
        **_rotary(parameters),
        "num_local_experts": parameters.experts,
        "num_experts_per_tok": parameters.experts_per_token,
        "router_aux_loss_coef": ROUTER_BALANCE,
        "sliding_window": None,
    }


def _gpt2(parameters: Pretrain) -> dict[str, Any]:
    return {
        "n_inner": parameters.feed_forward_size,
        "num_attention_heads": parameters.heads,
        "attn_pdrop": parameters.dropout,
        "embd_pdrop": parameters.residual_dropout,
        # training puts it on from outside, for every architecture alike (components.training.residual_dropout)
        "resid_pdrop": 0.0,
    }


def _mamba2(parameters: Pretrain) -> dict[str, Any]:
    return {
        "expand": MAMBA2_EXPANSION,
        "num_heads": parameters.heads,
        "head_dim": MAMBA2_EXPANSION * parameters.hidden_size // parameters.heads,
        "state_size": parameters.state_size,
        "n_groups": 1,
        "chunk_size": _SCAN_CHUNK,
        # as everywhere else here; 0.1, the class's default, is far above what its authors' code draws
        "initializer_range": RESIDUAL_DEVIATION,
    }


def _heads_divide_width(parameters: Pretrain) -> str | None:
    if parameters.hidden_size % parameters.heads:
        return f"pretrain.hidden_size = {parameters.hidden_size} is no multiple of pretrain.heads = {parameters.heads}."
    return None


def _heads_are_even(parameters: Pretrain) -> str | None:
    if (parameters.hidden_size // parameters.heads) % 2:
        return "pretrain.hidden_size / pretrain.heads must be even: rotary embeddings turn pairs."
    return None


def _heads_are_grouped(parameters: Pretrain) -> str | None:
    if parameters.heads % parameters.key_value_heads:
        return (
            f"pretrain.heads = {parameters.heads} is no multiple of "
            f"pretrain.key_value_heads = {parameters.key_value_heads}."
        )
    return None


def _no_grouped_heads(parameters: Pretrain) -> str | None:
    if parameters.heads != parameters.key_value_heads:
        return (
            f"pretrain.key_value_heads = {parameters.key_value_heads}: gpt2 has no grouped-query attention; "
            f"set it to pretrain.heads = {parameters.heads}."
        )
    return None


def _all_positions_are_trained(parameters: Pretrain) -> str | None:
    if parameters.context > parameters.block:
        return (
            f"pretrain.context = {parameters.context}: gpt2 learns its positions, and those beyond pretrain.block = "
            f"{parameters.block} would stay as they were drawn; set pretrain.context to {parameters.block}."
        )
    return None


def _experts_suffice(parameters: Pretrain) -> str | None:
    if parameters.experts_per_token > parameters.experts:
        return (
            f"pretrain.experts_per_token = {parameters.experts_per_token} is more than "
            f"pretrain.experts = {parameters.experts}."
        )
    return None


def _heads_divide_inner_width(parameters: Pretrain) -> str | None:
    inner = MAMBA2_EXPANSION * parameters.hidden_size
    if inner % parameters.heads:
        return (
            f"pretrain.heads = {parameters.heads} does not divide the inner width of mamba2, {inner} "
            f"({MAMBA2_EXPANSION} x pretrain.hidden_size)."
        )
    return None


def _nothing_to_drop(parameters: Pretrain) -> str | None:
    if parameters.dropout:
        return f"pretrain.dropout = {parameters.dropout:g}: mamba2 has no attention weights to drop; set it to 0."
    return None


_ROTARY_CHECKS = (_heads_divide_width, _heads_are_even, _heads_are_grouped)
_SHARED = ("hidden_size", "layers", "tie_embeddings", "context", "block")
_ATTENTION = (*_SHARED, "heads", "key_value_heads", "feed_forward_size", "dropout")
_LLAMA_OUTPUTS = ("o_proj.weight", "down_proj.weight")

TABLE: Mapping[str, Architecture] = {
    one.name: one
    for one in (
        Architecture("qwen3", "Qwen3ForCausalLM", "Qwen3Config", _ATTENTION, _rotary, _ROTARY_CHECKS, _LLAMA_OUTPUTS),
        Architecture("llama", "LlamaForCausalLM", "LlamaConfig", _ATTENTION, _rotary, _ROTARY_CHECKS, _LLAMA_OUTPUTS),
        Architecture(
            "mistral",
            "MistralForCausalLM",
            "MistralConfig",
            (*_ATTENTION, "sliding_window"),
            _mistral,
            _ROTARY_CHECKS,
            _LLAMA_OUTPUTS,
        ),
        Architecture(
            "mixtral",
            "MixtralForCausalLM",
            "MixtralConfig",
            (*_ATTENTION, "experts", "experts_per_token"),
            _mixtral,
            (*_ROTARY_CHECKS, _experts_suffice),
            ("o_proj.weight", "experts.down_proj"),
            routers=("mlp.gate.weight",),
            experts=("experts.gate_up_proj", "experts.down_proj"),
        ),
        Architecture(
            "gpt2",
            "GPT2LMHeadModel",
            "GPT2Config",
            (*_SHARED, "heads", "feed_forward_size", "dropout", "residual_dropout"),
            _gpt2,
            (_heads_divide_width, _no_grouped_heads, _all_positions_are_trained),
            ("attn.c_proj.weight", "mlp.c_proj.weight"),
            positions=("wpe.weight",),
        ),
        Architecture(
            "mamba2",
            "Mamba2ForCausalLM",
            "Mamba2Config",
            (*_SHARED, "heads", "state_size"),
            _mamba2,
            (_heads_divide_inner_width, _nothing_to_drop),
            ("mixer.out_proj.weight",),
            residuals=1,
            recurrent=True,
            packs=False,
        ),
    )
}

# Families that are only trained further: their modules and masks are those of one in the table.
_LIKE = {"qwen2": "llama"}


def of(config: PreTrainedConfig) -> Architecture:
    """The architecture of a transformers configuration.

    A family outside of the table (a model that is trained further may be of any) is taken for a decoder with attention
    of which nothing else is known: it trains with every sequence in a row of its own, which is right for all of them.
    One without attention heads is recurrent. A row of its own is for one whose layers attend in different ways too, since
    one mask is made for all.
    """
    like = _LIKE.get(config.model_type, config.model_type)
    name, kind = (config.architectures or [""])[0], type(config).__name__
    if like in TABLE:
        found = replace(TABLE[like], name=config.model_type, model=name or TABLE[like].model, config=kind)
    else:
        found = Architecture(
            config.model_type,
            name,
            kind,
            reads=(),
            settings=_unknown,
            checks=(),
            residual_outputs=(),
            positions=("wpe.weight", "embed_positions.weight"),
            routers=("mlp.gate.weight", "router.weight"),
            experts=("experts.gate_up_proj", "experts.down_proj"),
            recurrent=not hasattr(config, "num_attention_heads"),
            packs=False,
        )
    different = len(set(getattr(config, "layer_types", None) or ())) > 1
    return replace(found, packs=False) if different else found


def _unknown(parameters: Pretrain) -> dict[str, Any]:
    raise InkwellError(f"pretrain.architecture: known are {', '.join(TABLE)} (docs/architectures.md).")


def check(parameters: Pretrain) -> None:
    """Raise InkwellError, naming the parameter, for a shape that the architecture cannot take."""
    architecture = TABLE[parameters.architecture]
    if parameters.sliding_window is not None and "sliding_window" not in architecture.reads:
        raise InkwellError(
            f"pretrain.sliding_window = {parameters.sliding_window}: {architecture.name} attends to all tokens; "
            "set it to null, or pretrain.architecture to mistral."
        )
    for complaint in (rule(parameters) for rule in architecture.checks):
        if complaint:
            raise InkwellError(complaint)


def settings(parameters: Pretrain, vocabulary: int) -> dict[str, Any]:
    """Keyword arguments of the architecture's transformers configuration."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": parameters.hidden_size,
        "num_hidden_layers": parameters.layers,
        "max_position_embeddings": parameters.context,
        "trained_length": parameters.block,
        "tie_word_embeddings": parameters.tie_embeddings,
        **TABLE[parameters.architecture].settings(parameters),
    }


def new_model(architecture: str, **config: Any) -> PreTrainedModel:
    """A decoder of `architecture` with transformers' own initialisation, from keyword arguments of its configuration.

    The ids of begin, end and padding are the project's; embeddings are tied unless `tie_word_embeddings` says otherwise.
    """
    import transformers

    ids = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "pad_token_id": PADDING_ID}
    common = {"tie_word_embeddings": True, "attn_implementation": "sdpa", "use_cache": True, **ids, **config}
    one = TABLE[architecture]
    if one.recurrent:
        del common["attn_implementation"]  # it has none to choose
    model: PreTrainedModel = getattr(transformers, one.model)(getattr(transformers, one.config)(**common))
    return model


def build(parameters: Pretrain, vocabulary: int) -> PreTrainedModel:
    """A freshly initialised model of the shape that `parameters` describe; weights follow from torch's seed.

    Untied embeddings start far above the usual 0.02: the first block then hears the token at once, and the high rate
    finds its scale. Residual outputs start smaller by the square root of their number (GPT-2, Radford et al. 2019), so
    that depth does not inflate the sum. Raises InkwellError for a shape that cannot be.
    """
    import torch

    check(parameters)
    architecture = TABLE[parameters.architecture]
    model = new_model(architecture.name, **settings(parameters, vocabulary))
    if not parameters.tie_embeddings:
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=UNTIED_DEVIATION)
    deviation = RESIDUAL_DEVIATION / (architecture.residuals * parameters.layers) ** 0.5
    for name, weight in model.named_parameters():
        if name.endswith(architecture.residual_outputs):
            torch.nn.init.normal_(weight, std=deviation)
    return model


def roles(model: PreTrainedModel) -> dict[str, Role]:
    """What each parameter is to an optimizer, by name.

    matrix: a weight [rows, columns] inside a block; experts: a stack of them [experts, rows, columns]; other: norms,
    biases, convolutions, recurrent coefficients. A tied matrix is called head.
    """
    architecture = of(model.config)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    endings: tuple[tuple[tuple[str, ...], Role], ...] = (
        (architecture.positions, "positions"),
        (architecture.routers, "router"),
        (architecture.experts, "experts"),
    )
    found: dict[str, Role] = {}
    for name, parameter in model.named_parameters():
        named = next((role for ending, role in endings if name.endswith(ending)), None)
        if parameter is head:
            found[name] = "head"
        elif parameter is embedding:
            found[name] = "embedding"
        else:
            found[name] = named or ("matrix" if parameter.ndim == 2 else "other")
    return found


def count(parameters: Pretrain, vocabulary: int) -> Count:
    """Parameters of the model that `build` would make; nothing is allocated. Raises InkwellError as `build` does."""
    check(parameters)
    architecture = TABLE[parameters.architecture]
    read = {name: getattr(parameters, name) for name in architecture.reads}
    return _count(architecture.name, vocabulary, tuple(sorted(read.items())))


@functools.lru_cache(maxsize=4096)
def _count(name: str, vocabulary: int, shape: tuple[tuple[str, Any], ...]) -> Count:
    """Weights are summed over a model on torch's meta device: its shapes are transformers', not a formula's.

    All layers are alike, so models of one and two layers tell those of any depth.
    """
    from components.configuration import Pretrain

    parameters = Pretrain(architecture=name, **dict(shape))  # type: ignore[arg-type]
    one, two = (_count_built(parameters.model_copy(update={"layers": layers}), vocabulary) for layers in (1, 2))

    def deep(shallow: int, deeper: int) -> int:
        return shallow + (parameters.layers - 1) * (deeper - shallow)

    return Count(deep(one.total, two.total), deep(one.active, two.active), deep(one.multiplied, two.multiplied))


def _count_built(parameters: Pretrain, vocabulary: int) -> Count:
    import torch

    with torch.device("meta"):
        model = new_model(parameters.architecture, **settings(parameters, vocabulary))
    return count_of(model)


def count_of(model: PreTrainedModel) -> Count:
    """Parameters of a model that is there, whatever device it is on."""
    total = active = multiplied = 0
    kinds = roles(model)
    for name, parameter in model.named_parameters():
        size = met = prod(parameter.shape)
        if kinds[name] == "experts":
            met = size // len(parameter) * int(model.config.num_experts_per_tok)
        total += size
        active += met
        if kinds[name] in ("head", "matrix", "experts", "router"):
            multiplied += met
    return Count(total, active, multiplied)


def context_of(config: PreTrainedConfig) -> int:
    """Tokens that a model takes at most, prompt and answer together.

    A recurrent model has no limit of its own; `build` writes `pretrain.context` into its configuration as into any other.
    """
    return int(getattr(config, "max_position_embeddings", _RECURRENT_CONTEXT))


def attention_mask(config: PreTrainedConfig, visible: torch.Tensor) -> torch.Tensor:
    """`visible`, bool [B, 1, T, S], as the model's attention wants it: SDPA takes it, eager attention adds its mask."""
    import torch

    if config._attn_implementation == "eager":
        return torch.where(visible, 0.0, torch.finfo(torch.float32).min)
    return visible
