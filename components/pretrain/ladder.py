"""The shapes that the dial chooses from: a ladder of widths and depths, each rung a little larger than the one below.

Widths are multiples of 64 up to 256 and of 256 from there on, so that heads have 64 channels and llama.cpp's K-quants
fit exactly. Depth grows as the root of the width, which meets the shapes of published small models (SmolLM2 2048 x 24,
TinyLlama 2048 x 22, the slides' nanoGPT 384 x 6); how wide and how deep matters far less than how large (Kaplan et al.
2020, arXiv 2001.08361, section 3.1).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.model.architectures import TABLE, Count, count

if TYPE_CHECKING:
    from components.configuration import Pretrain

HEAD_SIZE = 64
WIDTHS = (64, 128, 192, 256, *range(512, 2561, 256))
_DEPTH_AT_256 = 8
_SHALLOWEST, _DEEPEST = 0.35, 1.75  # times the usual depth of a width: rungs between two widths
_SMALLEST_STEP, _LARGEST_STEP = 1.05, 1.16  # ratio of one rung's size to the one's below
_GROUPED_FROM = 16  # heads from which four share keys and values
_LARGEST_EMBEDDINGS = 3.0  # times the parameters of the blocks
SHAPE = ("hidden_size", "layers", "heads", "key_value_heads", "feed_forward_size", "tie_embeddings")


@dataclass(frozen=True)
class Rung:
    """A shape with its size. `parameters` holds the shape as `pretrain` names it."""

    parameters: Pretrain
    count: Count


def usual_depth(width: int) -> int:
    """Layers of a model of that width: 2 at 64, 4 at 128, 8 at 256, 11 at 512, 16 at 1024, 23 at 2048."""
    return round(width / 32) if width < 256 else round(_DEPTH_AT_256 * (width / 256) ** 0.5)


def ladder(parameters: Pretrain, vocabulary: int, keep: Collection[str] = ()) -> list[Rung]:
    """Rungs by rising size, as the parameters a token is multiplied with. Parameters named in `keep` are alike on all.

    Raises InkwellError where the kept parameters allow no shape of the architecture.
    """
    found: list[Rung] = []
    refused: InkwellError | None = None
    for width in (parameters.hidden_size,) if "hidden_size" in keep else WIDTHS:
        usual = usual_depth(width)
        depths = range(max(2, round(_SHALLOWEST * usual)), max(3, round(_DEEPEST * usual)) + 1)
        layers = [parameters.layers] if "layers" in keep else list(depths)
        try:
            found += _of_width(parameters, width, layers, vocabulary, keep)
        except InkwellError as error:  # kept heads need not divide every width
            refused = refused or error
    if refused and not found:
        raise refused
    return _thinned(found)


def wider(parameters: Pretrain, vocabulary: int, keep: Collection[str] = ()) -> Pretrain | None:
    """The shape of the next rung that is wider than `parameters`, with the same batch; None on the widest."""
    found = (rung.parameters for rung in ladder(parameters, vocabulary, keep))
    return next((shape for shape in found if shape.hidden_size > parameters.hidden_size), None)


def _of_width(
    parameters: Pretrain, width: int, depths: list[int], vocabulary: int, keep: Collection[str]
) -> list[Rung]:
    """All shapes of a width. Layers are alike, so two models are counted for any number of depths.

    Embeddings are tied where they would hold more than three times the parameters of the blocks: untied they learn
    faster, and cost no more operations. A gated feed-forward block is three times as wide as the model, gpt2's four times.
    """
    architecture = TABLE[parameters.architecture]
    heads = parameters.heads if "heads" in keep else _heads(width * (2 if architecture.recurrent else 1))
    grouped = "key_value_heads" in architecture.reads
    values: dict[str, object] = {
        "hidden_size": width,
        "heads": heads,
        "key_value_heads": heads // 4 if grouped and heads >= _GROUPED_FROM else heads,
        "feed_forward_size": (3 if grouped else 4) * width,
        "tie_embeddings": True,
    }
    shape = parameters.model_copy(update={name: value for name, value in values.items() if name not in keep})
    one, two = (count(shape.model_copy(update={"layers": layers}), vocabulary) for layers in (1, 2))
    embeddings = vocabulary * width

    def rung(layers: int) -> Rung:
        here, size = shape, _deep(one, two, layers)
        if "tie_embeddings" not in keep and embeddings <= _LARGEST_EMBEDDINGS * (size.multiplied - embeddings):
            here = here.model_copy(update={"tie_embeddings": False})
            size = replace(size, total=size.total + embeddings, active=size.active + embeddings)
        return Rung(here.model_copy(update={"layers": layers}), size)

    return [rung(layers) for layers in depths]


def _heads(inner: int) -> int:
    """Heads of about HEAD_SIZE channels, an even number each; mamba2's inner width is twice the model's."""
    return next(heads for heads in range(max(1, inner // HEAD_SIZE), 0, -1) if inner % (2 * heads) == 0 or heads == 1)


def _deep(one: Count, two: Count, layers: int) -> Count:
    def grown(shallow: int, deeper: int) -> int:
        return shallow + (layers - 1) * (deeper - shallow)

    return Count(grown(one.total, two.total), grown(one.active, two.active), grown(one.multiplied, two.multiplied))


def _thinned(rungs: list[Rung]) -> list[Rung]:
    """Never narrower from one rung to the next, and where several would do, the one of the most usual depth."""
    ascending = sorted(rungs, key=lambda rung: (rung.count.multiplied, rung.parameters.hidden_size))
    chosen = [ascending[0]]
    while True:
        last = chosen[-1]
        above = [
            rung
            for rung in ascending
            if rung.count.multiplied >= _SMALLEST_STEP * last.count.multiplied
            and rung.count.total >= last.count.total
            and rung.parameters.hidden_size >= last.parameters.hidden_size
        ]
        if not above:
            return chosen
        near = [rung for rung in above if rung.count.multiplied <= _LARGEST_STEP * last.count.multiplied]
        chosen.append(min(near, key=_oddity) if near else above[0])


def _oddity(rung: Rung) -> float:
    """How far the depth is from the usual one, as a ratio of at least 1."""
    usual, layers = usual_depth(rung.parameters.hidden_size), rung.parameters.layers
    return max(usual / layers, layers / usual)
