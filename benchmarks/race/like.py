"""Models of like size: the others keep the shape that they were tuned at while Inkwell's own is about as large."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.parts import Parts
from benchmarks.peers.contender import Shape

LIKE = 1.15  # times as many parameters, or as few


def shape_of_others(kept: Parts, shape: Shape, parameters: int, block: int) -> tuple[Shape, int]:
    """The others' shape and its parameters: that of Inkwell's model, or one of `kept` that is about as large.

    Inkwell's dial takes a layer more or less as the machine is fast or slow today, and tuning the others takes more than an hour.
    """

    def apart(known: int) -> float:
        return max(known, parameters) / min(known, parameters)

    found = []
    for name in kept.names("shape-*"):
        known = kept.read(name)
        other = Shape(**known["shape"])
        if (other.vocabulary, other.tied) == (shape.vocabulary, shape.tied) and apart(known["parameters"]) <= LIKE:
            found.append((apart(known["parameters"]), name, other, int(known["parameters"])))
    if found:
        _, _, other, count = min(found)
        if other != shape:
            print(
                f"  the others keep the shape that they were tuned at: {count:,} parameters beside {parameters:,}",
                flush=True,
            )
        return other, count
    kept.done(f"shape-{shape.digest(block)}", lambda: {"shape": asdict(shape), "parameters": parameters})
    return shape, parameters
