"""What a shape costs: operations a token, operations an optimizer step, bytes of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.model.architectures import TABLE, Count

if TYPE_CHECKING:
    from components.configuration import Pretrain

# Newton-Schulz of Muon, five rounds: 20 m^2 n + 10 m^3 operations for a matrix m x n, m <= n. For blocks whose matrices
# are w x w and w x 3w that is 24 w a parameter.
_ORTHOGONAL = 24
# Moving a parameter reads and writes about 30 bytes; at the bytes a second and operations a second of the machines that
# were tried, this is worth as much time as so many operations of a matrix product.
_MOVING = 200

# Bytes, fitted to peaks measured on a CPU (docs/planning.md). Activations are those of the stock modules under bf16 autocast;
# fused modules keep less.
_PROCESS_GIB = 0.8  # Python with torch, transformers and Lightning loaded; compiling adds up to 0.4
_A_CHANNEL = 60  # of activations, for each channel of the width, a token and layer
_A_FEED_FORWARD_CHANNEL = 10
# Logits, their float32 copy, log-softmax and gradients. Only fsdp2, stages, fp16 and families that are merely trained
# further hold those of a whole pass (docs/training.md); which of them a run is, is not known here, so it is the most.
_A_LOGIT = 16


def operations_a_token(parameters: Pretrain, count: Count) -> float:
    """Floating-point operations of forward and backward pass a token: 6 N + 12 L d T.

    N: parameters in matrix products, L: layers, d: width, T: `block`. The convention of PaLM (Chowdhery et al. 2022,
    arXiv 2204.02311, appendix B): the second term is attention, counted over the whole row though half of it is masked
    and documents see themselves alone. Recurrent architectures have no such term.
    """
    products = 6.0 * count.multiplied
    if TABLE[parameters.architecture].recurrent:
        return products
    seen = min(parameters.block, parameters.sliding_window or parameters.block)
    return products + 12.0 * parameters.layers * parameters.hidden_size * seen


def optimizer_operations(parameters: Pretrain, count: Count, vocabulary: int) -> float:
    """What an optimizer step costs beside the passes, as operations of a matrix product."""
    moving = float(_MOVING * count.total)
    if parameters.optimizer != "muon":
        return moving
    matrices = count.total - vocabulary * parameters.hidden_size * (1 if parameters.tie_embeddings else 2)
    return moving + _ORTHOGONAL * parameters.hidden_size * float(max(0, matrices))


def state_gib(parameters: Pretrain, count: Count, vocabulary: int, *, bf16: bool) -> float:
    """Weights, their copies, gradients and the optimizer's moments, GiB: what a step holds whatever its batch is."""
    total = float(count.total)
    embeddings = vocabulary * parameters.hidden_size * (1.0 if parameters.tie_embeddings else 2.0)
    moments = 4 * (total - embeddings) + 8 * embeddings if parameters.optimizer == "muon" else 8 * total
    average = 4 * total if parameters.ema_decay else 0.0
    return ((4 + 4) * total + moments + average + (2 * total if bf16 else 0.0)) / 2**30


def peak_gib(parameters: Pretrain, count: Count, vocabulary: int, *, bf16: bool) -> float:
    """Largest resident memory of a training process, GiB, roughly (within a third on what was measured)."""
    state = state_gib(parameters, count, vocabulary, bf16=bf16)
    width, layers = parameters.hidden_size, parameters.layers
    inner = parameters.feed_forward_size * (parameters.experts_per_token if _experts(parameters) else 1)
    layer = _A_CHANNEL * width + _A_FEED_FORWARD_CHANNEL * inner
    kept = layer + 4 * width * layers if parameters.activation_checkpointing else layer * layers
    tokens = parameters.micro_batch * parameters.block
    return _PROCESS_GIB + state + tokens * (kept + _A_LOGIT * vocabulary) / 2**30


def _experts(parameters: Pretrain) -> bool:
    return bool(TABLE[parameters.architecture].experts)
